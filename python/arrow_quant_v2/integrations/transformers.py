"""transformers loads, makes and saves packed models once this module is imported.

>>> import arrow_quant_v2.integrations.transformers  # doctest: +SKIP
>>> model = AutoModelForMaskedLM.from_pretrained("exported/")  # doctest: +SKIP

``exported/`` is what ``arrow-quant export --format packed`` wrote, or ``save_pretrained`` of a
loaded model. A float model is quantized when it has been loaded, with
``quantization_config=ArrowQuantConfig(bits=4)``.
"""

from __future__ import annotations

import re
from typing import Any

import torch
import transformers
from transformers.quantizers import HfQuantizer, register_quantization_config, register_quantizer
from transformers.utils.quantization_config import QuantizationConfigMixin

from arrow_quant_v2.errors import ConfigurationError
from arrow_quant_v2.integrations.packed_model import describe, finish, pack, plan, prepare
from arrow_quant_v2.integrations.quantization_config import Settings
from arrow_quant_v2.tensors.weight_format import QUANT_METHOD
from arrow_quant_v2.torch.layers.execution import Execution

__all__ = ["ArrowQuantConfig", "ArrowQuantizer", "make_saveable"]


@register_quantization_config(QUANT_METHOD)
class ArrowQuantConfig(Settings, QuantizationConfigMixin):
    """``quantization_config`` for transformers.

    Parameters are those of :class:`arrow_quant_v2.integrations.quantization_config.Settings`.
    """


@register_quantizer(QUANT_METHOD)
class ArrowQuantizer(HfQuantizer):
    """What transformers calls while it loads a model."""

    quantization_config: ArrowQuantConfig

    def __init__(self, quantization_config: ArrowQuantConfig, **settings: Any) -> None:
        super().__init__(quantization_config, **settings)
        if quantization_config.layers is None:
            self.pre_quantized = False

    def _process_model_before_weight_loading(self, model: Any, **settings: Any) -> Any:
        layers = self.quantization_config.layers
        if layers is not None:
            execution = self.quantization_config.execution("cpu")
            prepare(model, layers, dtype=model.dtype, execution=execution)
            guard = min(layers) + ".weight"
            ignored = model._keys_to_ignore_on_load_unexpected or ()
            model._keys_to_ignore_on_load_unexpected = {*ignored, f"^{re.escape(guard)}$"}
        return model

    def _process_model_after_weight_loading(self, model: Any, **settings: Any) -> Any:
        if self.quantization_config.layers is None:
            self._quantize(model)
            self.quantization_config.layers = describe(model)
        return finish(model)

    def _quantize(self, model: Any) -> None:
        for name, spec in plan(model, self.quantization_config.quantizer_config()).items():
            layer = model.get_submodule(name.rpartition(".")[0])
            weight = layer.weight
            execution = self.quantization_config.execution(weight.device)
            pack(model, name, weight, spec, dtype=weight.dtype, execution=execution)
            model.get_submodule(name.rpartition(".")[0]).to(weight.device)

    def get_state_dict_and_metadata(self, model: Any) -> tuple[dict[str, Any], dict[str, Any]]:
        """Add the tensor that stops a loader without this plug-in."""
        state = dict(model.state_dict())
        state[min(describe(model)) + ".weight"] = torch.empty(0, dtype=torch.uint8)
        return state, {}

    def is_serializable(self) -> bool:
        """``save_pretrained`` writes the packed weights."""
        return True

    @property
    def is_trainable(self) -> bool:
        """Packed weights are for inference."""
        return False

    @property
    def is_compileable(self) -> bool:
        """The operators have fake kernels."""
        return True


def make_saveable(model: Any, execution: Execution) -> None:
    """Let ``save_pretrained`` write a model whose layers are packed already.

    It is refused where transformers could not build the model again.
    """
    if not hasattr(transformers, type(model).__name__):
        model.save_pretrained = _refuse_saving
        return
    config = ArrowQuantConfig.of_model(model, execution)
    model.config.quantization_config = config
    model.hf_quantizer = ArrowQuantizer(config, pre_quantized=True)


def _refuse_saving(*unused: Any, **settings: Any) -> None:
    raise ConfigurationError(
        "transformers has no class for this model, so it could not load what it saves",
        hint="Copy the artefact: load_quantized opens it again.",
    )
