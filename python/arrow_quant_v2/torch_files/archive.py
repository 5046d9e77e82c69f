"""The archives of ``torch.save``: a zip of one pickle and one uncompressed entry per storage.

The pickle is read by an interpreter that knows the few names a state dict is made of and calls
nothing else, so a file cannot run code: objects of other classes become stand-ins that do nothing.
A file that asks for what could do harm is refused as a whole. Files older than torch 1.6 are one
bare pickle and are refused.
"""

from __future__ import annotations

import io
import math
import pickle
import struct
import zipfile
from collections import OrderedDict
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np
import numpy.typing as npt

from arrow_quant_v2.errors import MetadataError, ModelNotFoundError
from arrow_quant_v2.tensors.dtypes import numpy_dtype

__all__ = ["StoredTensor", "TorchArchive"]

_MAX_PICKLE = 64 << 20
_MAX_NAMES = 1_000_000
_MOST_SHARED = 1 << 30
_LOCAL_HEADER = struct.Struct("<4s22xHH")
_PIECE = 16 << 20
_SHOWN = 5
_DEEPEST = 8
#: Keys of checkpoints under which the weights are; the empty one is the checkpoint itself.
_USUAL_KEYS = ("", "state_dict", "model_state_dict", "model", "module", "net", "network", "params",
               "unet", "transformer", "denoiser", "dit", "generator")  # fmt: skip
#: Modules whose functions could do harm: nothing of a file is called, and such a file is refused.
_HARMFUL = frozenset(
    ("os", "posix", "nt", "subprocess", "sys", "builtins", "__builtin__", "importlib", "runpy",
     "shutil", "socket", "ctypes", "pickle", "_pickle", "marshal", "webbrowser", "pty", "code",
     "commands", "operator", "functools", "types", "timeit", "bdb", "pdb", "asyncio",
     "multiprocessing")
)  # fmt: skip
_HARMLESS = frozenset(("set", "frozenset", "dict", "list", "tuple", "int", "float", "str", "bool",
                       "bytes", "bytearray", "complex", "slice", "range", "object",
                       "SimpleNamespace", "partial"))  # fmt: skip
#: Where classes of tensors come from that hold something else than plain numbers.
_TENSOR_MODULES = ("torch._tensor", "torch._utils", "torchao", "bitsandbytes", "optimum.quanto")
_OLD = "Load it with torch and save it again, best as safetensors (safe_serialization=True)."

#: Storage classes and dtypes of torch -> safetensors type.
_STORAGES = {
    "DoubleStorage": "F64",
    "FloatStorage": "F32",
    "HalfStorage": "F16",
    "BFloat16Storage": "BF16",
    "LongStorage": "I64",
    "IntStorage": "I32",
    "ShortStorage": "I16",
    "CharStorage": "I8",
    "ByteStorage": "U8",
    "BoolStorage": "BOOL",
}
_DTYPES = {
    "float64": "F64",
    "float32": "F32",
    "float16": "F16",
    "bfloat16": "BF16",
    "int64": "I64",
    "int32": "I32",
    "int16": "I16",
    "int8": "I8",
    "uint8": "U8",
    "uint16": "U16",
    "uint32": "U32",
    "uint64": "U64",
    "bool": "BOOL",
    "float8_e4m3fn": "F8_E4M3",
    "float8_e5m2": "F8_E5M2",
    "float8_e4m3fnuz": "F8_E4M3FNUZ",
    "float8_e5m2fnuz": "F8_E5M2FNUZ",
}


@dataclass(frozen=True)
class _Storage:
    key: str
    dtype: str  # empty for bytes without a type


@dataclass(frozen=True)
class StoredTensor:
    """A tensor of an archive: where its elements lie in a storage; sizes are in elements."""

    storage: str
    dtype: str
    shape: tuple[int, ...]
    stride: tuple[int, ...]
    offset: int

    @property
    def nbytes(self) -> int:
        """Bytes of the tensor by itself."""
        return math.prod(self.shape) * self.itemsize

    @property
    def itemsize(self) -> int:
        """Bytes of an element."""
        kind = numpy_dtype(self.dtype)
        assert kind is not None  # the tables above name none that is narrower than a byte
        return kind.itemsize

    def is_contiguous(self) -> bool:
        """Whether the elements lie in row-major order without gaps."""
        expected = 1
        for size, stride in zip(reversed(self.shape), reversed(self.stride), strict=True):
            if size != 1 and stride != expected:
                return False
            expected *= size
        return True


class TorchArchive:
    """A file that ``torch.save`` wrote, open for reading.

    Raises
    ------
    ModelNotFoundError
        There is no such file.
    MetadataError
        It is no such archive, or holds something else than tensors.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self.notes: list[str] = []
        try:
            self._file: BinaryIO = open(path, "rb")  # noqa: SIM115
        except OSError as error:
            raise ModelNotFoundError(f"{path}: {error.strerror}", path=str(path)) from error
        try:
            self._entries = self._read_directory()
            self.tensors = self._read_tensors()
        except BaseException:
            self._file.close()
            raise

    def __enter__(self) -> TorchArchive:
        return self

    def __exit__(self, *_: object) -> None:
        self._file.close()

    def pieces(self, tensor: StoredTensor) -> Iterator[npt.NDArray[np.uint8]]:
        """The bytes of a tensor in row-major order, in pieces."""
        begin, _ = self._entries[tensor.storage]
        if tensor.nbytes == 0:
            return
        if tensor.is_contiguous():
            self._file.seek(begin + tensor.offset * tensor.itemsize)
            left = tensor.nbytes
            while left:
                data = self._file.read(min(left, _PIECE))
                if not data:
                    raise self._error("the file became shorter while it was read")
                left -= len(data)
                yield np.frombuffer(data, np.uint8)
            return
        span = 1 + sum((n - 1) * s for n, s in zip(tensor.shape, tensor.stride, strict=True))
        words = np.memmap(
            self.path,
            np.dtype(f"V{tensor.itemsize}"),
            "r",
            begin + tensor.offset * tensor.itemsize,
            (span,),
        )
        strides = [stride * tensor.itemsize for stride in tensor.stride]
        view = np.lib.stride_tricks.as_strided(words, tensor.shape, strides, writeable=False)
        yield np.ascontiguousarray(view).reshape(-1).view(np.uint8)

    def _read_directory(self) -> dict[str, tuple[int, int]]:
        """Storage key -> where its bytes begin in the file, and how many there are."""
        try:
            with zipfile.ZipFile(self._file) as archive:
                infos = archive.infolist()
                names = [info.filename for info in infos]
                pickles = [name for name in names if name.endswith("/data.pkl")]
                if len(pickles) != 1:
                    raise self._error("expected one data.pkl in the archive", _OLD)
                self._root = pickles[0].removesuffix("data.pkl")
                self._pickle = self._pickle_bytes(archive, pickles[0])
                order = self._root + "byteorder"
                if order in names and archive.read(order) != b"little":
                    raise self._error("the archive is in big-endian order", _OLD)
        except MetadataError:
            raise
        except Exception:  # zipfile raises half a dozen kinds for files that are no archives
            raise self._error("not an archive of torch.save", self._what_it_is()) from None
        found = {}
        for info in infos:
            if info.filename.startswith(self._root + "data/"):
                if info.compress_type != zipfile.ZIP_STORED:
                    raise self._error(f"the entry {info.filename} is compressed", _OLD)
                key = info.filename.removeprefix(self._root + "data/")
                found[key] = (self._data_offset(info), info.file_size)
        return found

    def _pickle_bytes(self, archive: zipfile.ZipFile, name: str) -> bytes:
        if archive.getinfo(name).file_size > _MAX_PICKLE:
            raise self._error(f"{name} has more than {_MAX_PICKLE} bytes: no state dict")
        return archive.read(name)

    def _data_offset(self, info: zipfile.ZipInfo) -> int:
        """Where the bytes of an entry begin; its own header may differ from the directory."""
        self._file.seek(info.header_offset)
        header = self._file.read(_LOCAL_HEADER.size)
        if len(header) < _LOCAL_HEADER.size or not header.startswith(b"PK\x03\x04"):
            raise self._error(f"the entry {info.filename} is damaged")
        _, name, extra = _LOCAL_HEADER.unpack(header)
        begin: int = info.header_offset + _LOCAL_HEADER.size + name + extra
        self._file.seek(0, 2)
        if begin + info.file_size > self._file.tell():
            raise self._error(f"the entry {info.filename} reaches beyond the end of the file")
        return begin

    def _what_it_is(self) -> str:
        self._file.seek(0)
        start = self._file.read(64)
        if start.startswith(b"\x80"):
            return f"It is a bare pickle, as torch before 1.6 wrote. {_OLD}"
        if start.startswith(b"version https://git-lfs"):
            return "It is a pointer of Git LFS: run 'git lfs pull'."
        return "Is the download complete?"

    def _read_tensors(self) -> dict[str, StoredTensor]:
        try:
            state = _StateDictReader(io.BytesIO(self._pickle)).load()
        except _RefusedError as error:
            raise self._error(str(error), _OLD) from None
        except Exception as error:
            what = f"{type(error).__name__}: {error}"
            raise self._error(f"data.pkl is not the pickle of a state dict ({what})") from None
        del self._pickle
        found, self.notes = _state_dict(state)
        lost = next((x for x in found.values() if isinstance(x, _StandIn)), None)
        if lost is not None:
            raise self._error(
                f"a weight is a {lost.what}, not a plain tensor: already quantized, or packed",
                "Save plain weights: quantize the original model.",
            )
        if not found:
            raise self._error("expected a mapping from names to tensors")
        if len(found) > _MAX_NAMES:
            raise self._error(f"more than {_MAX_NAMES} tensors")
        tensors = {}
        for name, tensor in found.items():
            assert isinstance(tensor, StoredTensor)  # the others were refused
            self._check(name, tensor)
            tensors[name] = tensor
        return tensors

    def _check(self, name: str, tensor: StoredTensor) -> None:
        """The elements of a tensor must lie inside its storage."""
        if _is_well_formed(tensor) and tensor.storage in self._entries:
            size = self._entries[tensor.storage][1]
            last = sum((n - 1) * s for n, s in zip(tensor.shape, tensor.stride, strict=True))
            inside = (tensor.offset + last + 1) * tensor.itemsize <= size
            # Strides of 0 make a small file large; nobody saves that much of it.
            if tensor.nbytes == 0 or (inside and tensor.nbytes <= max(_MOST_SHARED, size)):
                return
        raise MetadataError(
            f"{self.path}: tensor '{name}': its elements lie outside their storage",
            path=str(self.path),
            tensor=name,
        )

    def _error(self, what: str, hint: str = "") -> MetadataError:
        return MetadataError(f"{self.path}: {what}", path=str(self.path), hint=hint)


def _is_well_formed(tensor: StoredTensor) -> bool:
    """Whether every field, which came from the file, is of its type and range."""
    if not isinstance(tensor.dtype, str) or numpy_dtype(tensor.dtype) is None:
        return False
    sizes = (*tensor.shape, *tensor.stride, tensor.offset)
    if not all(isinstance(size, int) and 0 <= size < 1 << 62 for size in sizes):
        return False
    return isinstance(tensor.storage, str) and len(tensor.shape) == len(tensor.stride)


def _state_dict(saved: Any) -> tuple[dict[str, StoredTensor | _StandIn], list[str]]:
    """The weights among everything that was saved, and a remark about what else there is.

    A checkpoint may nest them, beside buffers of the diffusion process, averages over training, and
    the state of the optimizer.
    """
    nested = dict(_mappings(saved, (), set()))
    if not nested:
        return {}, []
    sizes = {path: _weight_of(tensors) for path, tensors in nested.items()}
    largest = max(sizes.values())
    # Weights and their averages are of one size; the rest of a checkpoint may be anything.
    rivals = [path for path, size in sizes.items() if 2 * size >= largest and nested[path]]
    chosen = min(rivals, key=_preference)
    others = [".".join(path) for path in nested if path and path != chosen]
    others += [name for name in nested.get((), {}) if chosen]
    if not others or not chosen:
        return nested[chosen], []
    shown = ", ".join(repr(name) for name in others[:_SHOWN])
    more = f" and {len(others) - _SHOWN} more" if len(others) > _SHOWN else ""
    what = ".".join(chosen)
    return nested[chosen], [
        f"the weights are those of {what!r} in the file; left out: {shown}{more}"
    ]


def _mappings(
    saved: Any, path: tuple[str, ...], seen: set[int]
) -> Iterator[tuple[tuple[str, ...], dict[str, StoredTensor | _StandIn]]]:
    """Every mapping from names to tensors, by the keys that lead to it."""
    if not isinstance(saved, Mapping) or len(path) > _DEEPEST or id(saved) in seen:
        return
    seen.add(id(saved))
    named = {key: value for key, value in saved.items() if isinstance(key, str)}
    if any(isinstance(value, StoredTensor) for value in named.values()):
        yield (
            path,
            {
                key: value
                for key, value in named.items()
                if isinstance(value, StoredTensor)
                or (isinstance(value, _StandIn) and value.what.startswith(_TENSOR_MODULES))
            },
        )
    for key, value in named.items():
        yield from _mappings(value, (*path, key), seen)


def _weight_of(tensors: Mapping[str, StoredTensor | _StandIn]) -> int:
    """Bytes of the tensors that could be weights."""
    found = [tensor for tensor in tensors.values() if isinstance(tensor, StoredTensor)]
    return sum(tensor.nbytes for tensor in found if _is_well_formed(tensor) and tensor.shape[1:])


def _preference(path: tuple[str, ...]) -> tuple[int, int, tuple[str, ...]]:
    """The least is the best: usual names first, averages over training last."""
    last = path[-1] if path else ""
    if last in _USUAL_KEYS:
        return _USUAL_KEYS.index(last), len(path), path
    average = "ema" in last.lower() or "optim" in last.lower()
    return len(_USUAL_KEYS) + average, len(path), path


class _StandIn:
    """What takes the place of an object of another class; it does nothing."""

    what = ""

    def __new__(cls, *_: Any, **__: Any) -> _StandIn:
        return super().__new__(cls)

    def __init__(self, *_: Any, **__: Any) -> None:
        pass

    def __setstate__(self, state: Any) -> None:
        pass

    def __setitem__(self, key: Any, value: Any) -> None:
        pass

    def append(self, item: Any) -> None:
        """Ignore an item."""

    def extend(self, items: Any) -> None:
        """Ignore items."""

    def add(self, item: Any) -> None:
        """Ignore an item."""

    def __hash__(self) -> int:
        return id(self)


class _RefusedError(Exception):
    """The pickle asks for something that no state dict needs."""


class _StateDictReader(pickle._Unpickler):
    """An unpickler that knows tensors and plain containers and calls nothing else.

    The one written in Python, since a file can make the one in C allocate without bound.
    """

    def find_class(self, module: str, name: str) -> Any:
        known = _GLOBALS.get((module, name))
        if known is not None:
            return known
        if module == "torch" and name in _STORAGES:
            return _STORAGES[name]
        if module == "torch" and name in _DTYPES:
            return _DTYPES[name]
        if module.partition(".")[0] in _HARMFUL and name not in _HARMLESS:
            raise _RefusedError(
                f"data.pkl asks for {module}.{name}, which no state dict needs; it is not called"
            )
        return type(name.rpartition(".")[2] or "name", (_StandIn,), {"what": f"{module}.{name}"})

    def persistent_load(self, identity: Any) -> _Storage:
        kind, dtype, key, *_ = identity
        if kind != "storage" or not isinstance(dtype, str) or not isinstance(key, str):
            raise _RefusedError("data.pkl refers to something that is no storage")
        return _Storage(key, dtype)


def _tensor(
    storage: Any, offset: Any, shape: Any, stride: Any, *_: Any, dtype: str = ""
) -> StoredTensor:
    if not isinstance(storage, _Storage) or not isinstance(dtype, str):
        raise _RefusedError("data.pkl has a tensor without a storage")
    return StoredTensor(storage.key, dtype or storage.dtype, tuple(shape), tuple(stride), offset)


def _typed_tensor(
    storage: Any, offset: Any, shape: Any, stride: Any, grad: Any, hooks: Any, dtype: Any, *_: Any
) -> StoredTensor:
    return _tensor(storage, offset, shape, stride, dtype=dtype)


def _parameter(tensor: Any, *_: Any) -> Any:
    return tensor


class _Size(tuple):  # type: ignore[type-arg]
    """A torch.Size."""

    def __new__(cls, sizes: Any = ()) -> _Size:
        return super().__new__(cls, sizes)


_GLOBALS: dict[tuple[str, str], Callable[..., Any] | str] = {
    ("collections", "OrderedDict"): OrderedDict,
    ("collections", "defaultdict"): lambda *_: OrderedDict(),
    ("torch", "Size"): _Size,
    ("torch._utils", "_rebuild_tensor_v2"): _tensor,
    ("torch._utils", "_rebuild_tensor_v3"): _typed_tensor,
    ("torch._utils", "_rebuild_parameter"): _parameter,
    ("torch._utils", "_rebuild_parameter_with_state"): _parameter,
    ("torch.storage", "UntypedStorage"): "",
}
