"""Reading artefacts: tensors by name, what was recorded, the manifest; old layouts too."""

from arrow_quant_v2.artefact.model import QuantizedComponent, QuantizedModel
from arrow_quant_v2.artefact.open import open_quantized

__all__ = ["QuantizedComponent", "QuantizedModel", "open_quantized"]
