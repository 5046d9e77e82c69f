"""Weights that are quantized already, or carry an adapter: which of them can be used, and how."""

from __future__ import annotations

import math
import re
from collections.abc import Iterable, Mapping
from typing import Any

from arrow_quant_v2.model.description import ADAPTER, Refusal, TensorHeader

__all__ = ["find_refusal", "find_scales", "is_adapter_only", "scale_blocks"]

_FLOAT8 = frozenset({"F8_E4M3", "F8_E5M2", "F8_E4M3FNUZ", "F8_E5M2FNUZ"})
_SCALE_TYPES = frozenset({"F64", "F32", "F16", "BF16", "F8_E8M0"})
#: Scales of a weight ``a.weight`` or ``a``, by what comes after ``a`` or ``a.weight``.
_OF_LAYER = (".scale_weight", ".weight_scale", ".weight_scale_inv", ".scale")
_OF_TENSOR = ("_scale", "_scale_inv", ".scale")
#: What no weight needs once the scales are multiplied in.
_MARKERS = re.compile(
    r"(?:^|.*\.)(?:scaled_fp8|scale_input|input_scale|input_scale_ub|comfy_quant|activation_scale|"
    r"k_scale|v_scale)$"
)
_HINT = "Quantize the original weights: what was rounded away cannot be brought back."

#: Who writes tensors of these names, by what makes them theirs.
_SIGNATURES: tuple[tuple[str, re.Pattern[str]], ...] = tuple(
    (who, re.compile(pattern))
    for who, pattern in (
        ("nunchaku", r".*\.(wscales|smooth_factor|wtscale|wcscales)$"),
        ("AQLM", r".*\.codes$"),
        ("HQQ", r".*\.W_q$"),
        (
            "bitsandbytes",
            r".*\.(absmax|quant_map|nested_absmax|nested_quant_map|SCB|weight_format|"
            r"quant_state\.bitsandbytes__\w+)$",
        ),
        ("NVFP4 or MXFP4", r".*(\.weight_scale_2|_proj_blocks)$"),
        ("compressed-tensors", r".*\.(weight_packed|weight_zero_point|weight_shape)$"),
        ("optimum-quanto", r".*\.weight\._(data|scale|shift)(\._data)?$"),
        (
            "torchao",
            r".*(\._?weight_(qdata|scale_and_zero|zero_point)|\.weight:.*|_qdata|\.int_data)$",
        ),
        ("TensorRT Model Optimizer", r".*_quantizer\._(amax|scale|pre_quant_scale)$"),
        ("ArrowQuant V2", r".*\.weight\.(codes|params|row_scales)$"),
    )
)
_ADAPTER = re.compile(
    r".*(\.lora_(A|B|embedding_A|embedding_B|magnitude_vector)(\.|$)|"
    r"\.lora_(up|down|mid)\.|\.lora\.(up|down)\.|\.hada_w[12]|\.lokr_w[12]|\.lora_linear_layer\.|"
    r"_lora\.(up|down)\.|\.oft_[RS]|\.vera_lambda)|^lora_(unet|te\d?|transformer)_.*"
)
_ADAPTER_EXTRAS = re.compile(r".*(\.alpha|\.dora_scale|\.diff|\.diff_b|\.rank)$")


def find_scales(
    tensors: Mapping[str, TensorHeader],
) -> tuple[dict[str, str], frozenset[str]]:
    """8-bit floating-point weights with scales, and what falls away when these are multiplied in.

    Returns
    -------
    scales
        Name of the weight -> name of its scale.
    dropped
        Names of scales and markers; empty when no weight has a scale.
    """
    scales = {}
    marked = any(tensor.dtype in _FLOAT8 for tensor in tensors.values())
    for name, tensor in tensors.items():
        # Layers that are kept wider have the scale as well.
        wider = marked and name.removesuffix(".weight") + ".scale_weight" in tensors
        if tensor.dtype not in _FLOAT8 and not (wider and name.endswith(".weight")):
            continue
        found = [
            candidate
            for candidate in _scale_names(name)
            if candidate in tensors and tensors[candidate].dtype in _SCALE_TYPES
        ]
        if found:
            scales[name] = found[0]
    markers = [name for name in tensors if marked and _MARKERS.match(name)]
    if not scales:
        return {}, frozenset(name for name in markers if name.endswith("scaled_fp8"))
    return scales, frozenset([*scales.values(), *markers])


def find_refusal(
    tensors: Mapping[str, TensorHeader],
    scales: Mapping[str, str],
    config: Mapping[str, Any],
) -> Refusal | None:
    """Why the weights of a component cannot be quantized; None when they can."""
    if any(".base_layer." in name for name in tensors):
        return Refusal(
            "the weights carry an adapter (PEFT: base_layer, lora_A)",
            "Fuse and unload the adapter first: pipe.fuse_lora(), pipe.unload_lora_weights(), or "
            "model.merge_and_unload() of PEFT; then save the model.",
        )
    if is_adapter_only(tensors):
        return Refusal(
            ADAPTER,
            "Fuse it into its model and quantize that, or load it beside a quantized model. "
            "ArrowQuantV2(mode='base').quantize(path) packs the adapter's own arrays.",
        )
    who = _maker(tensors, scales, config)
    if who:
        return Refusal(f"already quantized with {who}", _HINT)
    return _unfit_scale(tensors, scales)


def is_adapter_only(names: Iterable[str]) -> bool:
    """Whether all tensors belong to an adapter."""
    known = list(names)
    found = [name for name in known if _ADAPTER.match(name)]
    others = [name for name in known if not _ADAPTER.match(name)]
    return bool(found) and all(_ADAPTER_EXTRAS.match(name) for name in others)


def scale_blocks(shape: tuple[int, ...], scale: tuple[int, ...]) -> tuple[int, ...] | None:
    """How many elements share a scale along each dimension; None when the shapes do not fit.

    A scale of fewer dimensions belongs to the first ones: one for all, or one for each row.
    """
    if math.prod(scale) == 1:
        return shape
    padded = (*scale, *([1] * (len(shape) - len(scale))))
    if len(padded) > len(shape):
        return None
    blocks = []
    for size, count in zip(shape, padded, strict=True):
        block = _block(size, count)
        if block is None:
            return None
        blocks.append(block)
    return tuple(blocks)


def _block(size: int, count: int) -> int | None:
    if count == 1:
        return max(size, 1)
    if count == size:
        return 1
    # The last block may be cut short; 128 is what nearly everyone takes.
    for block in (128, 64, 32, 16, 256, 512):
        if -(-size // block) == count:
            return block
    return size // count if count and size % count == 0 else None


def _scale_names(name: str) -> list[str]:
    found = [name + ending for ending in _OF_TENSOR]
    if name.endswith(".weight"):
        layer = name.removesuffix(".weight")
        return [layer + ending for ending in _OF_LAYER] + found
    return found


def _maker(
    tensors: Mapping[str, TensorHeader], scales: Mapping[str, str], config: Mapping[str, Any]
) -> str:
    """Who quantized the weights; empty when they are floats, or scaled 8-bit floats."""
    signed = next((who for who, names in _SIGNATURES if any(map(names.match, tensors))), "")
    if signed:
        return signed
    if any(name.endswith(".qweight") for name in tensors):
        return _packed_by_columns(tensors)
    settings = config.get("quantization_config")
    method = settings.get("quant_method") if isinstance(settings, Mapping) else None
    packed = [n for n, t in tensors.items() if t.dtype in ("U32", "I32", "U8", "I8", "F4")]
    for name in packed:
        layer = name.removesuffix(".weight")
        if layer + ".scales" in tensors:
            return "MLX" if layer + ".biases" in tensors else "integers and scales"
        if any(end in tensors for end in _scale_names(name)):
            return str(method) if method else "torchao or compressed-tensors (integers and scales)"
    if settings and not scales and not _plain_float8(tensors, method):
        return str(method or "the method that quantization_config in config.json names")
    return ""


def _plain_float8(tensors: Mapping[str, TensorHeader], method: Any) -> bool:
    """Whether 8-bit floats without scales are all that a quantization_config is about."""
    floats = any(tensor.dtype in _FLOAT8 for tensor in tensors.values())
    return floats and method in ("fp8", "layerwise_casting")


def _packed_by_columns(tensors: Mapping[str, TensorHeader]) -> str:
    """GPTQ packs rows of a transposed weight, AWQ columns: the scales tell which."""
    for name, tensor in tensors.items():
        scales = tensors.get(name.removesuffix(".qweight") + ".scales")
        if name.endswith(".qweight") and scales and len(tensor.shape) == len(scales.shape) == 2:
            return "GPTQ" if tensor.shape[1] == scales.shape[1] else "AWQ"
    return "GPTQ or AWQ"


def _unfit_scale(tensors: Mapping[str, TensorHeader], scales: Mapping[str, str]) -> Refusal | None:
    for name, scale in scales.items():
        if scale_blocks(tensors[name].shape, tensors[scale].shape) is None:
            return Refusal(
                f"tensor '{name}': its scale '{scale}' has shape {list(tensors[scale].shape)}, "
                f"which does not divide {list(tensors[name].shape)}",
                "Expected one scale, one for each row, or one for each block.",
            )
    return None
