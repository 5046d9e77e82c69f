"""Opening an artefact of ours, or a model in one of the old layouts."""

from __future__ import annotations

from arrow_quant_v2._native import core
from arrow_quant_v2.artefact.model import QuantizedModel
from arrow_quant_v2.artefact.old_layouts import OldModel
from arrow_quant_v2.errors import ConfigurationError, ModelNotFoundError
from arrow_quant_v2.paths import StrPath, path_bytes

__all__ = ["open_quantized"]


def open_quantized(
    path: StrPath, int2_order: str = "lsb", *, num_threads: int = 0
) -> QuantizedModel:
    """Open an artefact. Reads names and footers; weights are read when a tensor is used.

    A model in one of the Parquet layouts that came before this format opens too, as an
    :class:`~arrow_quant_v2.artefact.old_layouts.OldModel`. Its layout is detected. Its files are
    read once, so that every size is checked before a tensor is used.

    Parameters
    ----------
    path
        The folder that ``quantize_diffusion_model`` wrote, or an old model.
    int2_order
        For the packed INT2 of old models: ``"lsb"``, the first of four weights is in the lowest
        bits of a byte, or ``"msb"``, in the highest (some files of that time were read that way).
    num_threads
        Threads of ``dequantize``; 0 means all cores.

    Raises
    ------
    ModelNotFoundError
        There is no artefact and no old model at `path`.
    ValidationError
        The artefact is damaged.
    MetadataError, ShapeMismatchError
        The old model is malformed, or its weights are absent.

    Examples
    --------
    >>> from arrow_quant_v2 import open_quantized
    >>> model = open_quantized("quantized/")  # doctest: +SKIP
    >>> weight = model["conv_in.weight"].dequantize()  # doctest: +SKIP
    """
    if int2_order not in ("lsb", "msb"):
        raise ConfigurationError(f"Invalid int2_order: {int2_order!r}. Must be 'lsb' or 'msb'.")
    try:
        return QuantizedModel(core.Artefact.open(path_bytes(path, "path")), num_threads)
    except ModelNotFoundError as error:
        try:
            return OldModel(path, int2_order)
        except ModelNotFoundError:
            raise error from None
