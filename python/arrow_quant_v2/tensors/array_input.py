"""From any array a caller may hold to contiguous native bytes, copied only where needed.

numpy arrays come in any layout, byte order and alignment; torch tensors and everything that speaks
DLPack are taken without importing the framework they come from.
"""

from __future__ import annotations

import sys
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from arrow_quant_v2.tensors.dtypes import numpy_dtype, safetensors_name

__all__ = ["PlainArray", "plain_array"]

_ACCEPTED = (
    "numpy arrays, torch CPU tensors and DLPack CPU arrays of float64, float32, float16, bfloat16 "
    "or float8"
)
_TORCH_NAMES = {
    "torch.bfloat16": "BF16",
    "torch.float8_e4m3fn": "F8_E4M3",
    "torch.float8_e5m2": "F8_E5M2",
    "torch.float8_e4m3fnuz": "F8_E4M3FNUZ",
    "torch.float8_e5m2fnuz": "F8_E5M2FNUZ",
}
_DLPACK_CPU = 1


@dataclass(frozen=True)
class PlainArray:
    """An array in C order and native byte order, as bytes.

    Attributes
    ----------
    data
        Its bytes, as one row; they may be the caller's own memory.
    dtype
        The safetensors name of its element type.
    shape
        Its shape.
    """

    data: npt.NDArray[np.uint8]
    dtype: str
    shape: tuple[int, ...]

    @property
    def values(self) -> npt.NDArray[Any]:
        """Its elements, as one row; a view."""
        dtype = numpy_dtype(self.dtype)
        assert dtype is not None
        return self.data.view(dtype)


def plain_array(weights: Any, name: str = "") -> PlainArray:
    """Bring `weights` into plain form; `name` is for the error.

    Raises
    ------
    TypeError
        `weights` is no array, lies on another device, or has elements that no model file has.
    """
    array = np.asarray(_to_numpy(weights, name))
    dtype = safetensors_name(array.dtype)
    if dtype is None:
        raise _rejected(f"an array of {array.dtype}", name)
    native = array.astype(array.dtype.newbyteorder("="), copy=False)
    values = np.require(native, requirements=["C", "A"])
    return PlainArray(values.reshape(-1).view(np.uint8), dtype, array.shape)


def _to_numpy(weights: Any, name: str) -> npt.NDArray[Any]:
    if isinstance(weights, np.ma.MaskedArray):
        raise _rejected("a masked array", name)
    if isinstance(weights, (np.ndarray, np.generic)):
        return np.asarray(weights)
    torch = sys.modules.get("torch")
    if torch is not None and isinstance(weights, torch.Tensor):
        return _torch_to_numpy(torch, weights, name)
    if hasattr(weights, "__dlpack__"):
        return _dlpack_to_numpy(weights, name)
    if hasattr(weights, "__array__"):
        return np.asarray(weights)
    raise _rejected(f"{type(weights).__name__}", name)


def _torch_to_numpy(torch: Any, tensor: Any, name: str) -> npt.NDArray[Any]:
    if tensor.device.type != "cpu":
        raise _rejected(f"a torch tensor on {tensor.device}", name, "Move it: tensor.cpu().")
    if tensor.layout != torch.strided:
        raise _rejected(f"a torch tensor of layout {tensor.layout}", name)
    tensor = tensor.detach().resolve_conj().resolve_neg()
    special = numpy_dtype(_TORCH_NAMES.get(str(tensor.dtype), ""))
    if special is not None:
        bits = torch.int16 if special.itemsize == 2 else torch.uint8
        array: npt.NDArray[Any] = tensor.contiguous().view(bits).numpy()
        return array.view(special)
    try:
        plain: npt.NDArray[Any] = tensor.numpy()
        return plain
    except (TypeError, RuntimeError) as error:
        raise _rejected(f"a torch tensor of {tensor.dtype}", name) from error


def _dlpack_to_numpy(weights: Any, name: str) -> npt.NDArray[Any]:
    device = weights.__dlpack_device__()[0]
    if int(device) != _DLPACK_CPU:
        raise _rejected(
            f"an array on DLPack device type {int(device)}", name, "Copy it to the CPU."
        )
    try:
        return np.from_dlpack(weights)
    except (BufferError, RuntimeError, TypeError) as error:
        raise _rejected(f"a DLPack array that numpy cannot hold ({error})", name) from error


def _rejected(found: str, name: str, hint: str = "") -> TypeError:
    where = f"{name}: " if name else ""
    text = f"{where}expected {_ACCEPTED}; found {found}"
    return TypeError(f"{text}. {hint}" if hint else text)
