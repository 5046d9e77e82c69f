"""Models that this project did not make, where they are at hand."""

from __future__ import annotations

import math
from pathlib import Path

import numpy as np
import pytest
import safetensors.numpy
from support import REAL_MODELS, cosine, nmse

from arrow_quant_v2 import ArrowQuantV2, DiffusionQuantConfig, export_safetensors, open_quantized

FILES = sorted(REAL_MODELS.glob("*/*.safetensors"))

pytestmark = pytest.mark.skipif(not FILES, reason=f"no models in {REAL_MODELS}")

#: Mean cosine similarity that real weights must keep.
LEAST = {2: 0.90, 4: 0.99, 8: 0.9998}


@pytest.mark.parametrize("bits", [2, 4, 8])
@pytest.mark.parametrize("path", FILES, ids=lambda path: f"{path.parent.name}/{path.stem}")
def test_export_errors_match_inspect(path: Path, bits: int, tmp_path: Path) -> None:
    config = DiffusionQuantConfig(bit_width=bits, modality="image", min_accuracy=0.0)
    result = ArrowQuantV2().quantize_diffusion_model(path, tmp_path / "q", config)
    assert result["cosine_similarity"] > LEAST[bits]
    exported = export_safetensors(tmp_path / "q", tmp_path / "e", dtype="float32")
    source = safetensors.numpy.load_file(path)
    found = safetensors.numpy.load_file(exported / "model.safetensors")
    tensors = open_quantized(tmp_path / "q")
    assert set(found) == set(source)
    weights = sum(math.prod(t.shape) for t in tensors.values() if t.is_quantized)
    assert weights > 0.5 * sum(array.size for array in source.values())
    for name, tensor in tensors.items():
        if tensor.is_quantized:
            assert nmse(source[name], found[name]) == pytest.approx(tensor.nmse, rel=1e-3)
            assert cosine(source[name], found[name]) == pytest.approx(tensor.cosine, abs=1e-5)
        else:
            np.testing.assert_array_equal(found[name], source[name])
    assert ArrowQuantV2().validate_quality(path, tmp_path / "q")["passed"]
