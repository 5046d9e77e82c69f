"""The compiled engine. Use the functions of arrow_quant_v2 instead."""

from collections.abc import Callable, Sequence
from typing import Annotated

import numpy
from numpy.typing import NDArray


VERSION: str = '2.0.0'

class AffineSpec:
    """What one weight is quantized to."""

    def __init__(self, bit_width: int, group_size: int, param_encoding: str, method: str) -> None: ...

    @property
    def bit_width(self) -> int: ...

    @property
    def group_size(self) -> int: ...

    @property
    def param_encoding(self) -> str: ...

    @property
    def method(self) -> str: ...

class TensorInfo:
    """Everything about a stored tensor but its data."""

    @property
    def name(self) -> str: ...

    @property
    def shape(self) -> list[int]: ...

    @property
    def source_dtype(self) -> str: ...

    @property
    def encoding(self) -> str: ...

    @property
    def spec(self) -> AffineSpec: ...

    @property
    def cosine(self) -> float: ...

    @property
    def nmse(self) -> float: ...

class Chunk:
    """Consecutive rows of a tensor, as stored."""

    @property
    def row_begin(self) -> int: ...

    @property
    def rows(self) -> int: ...

    @property
    def tensor_scale(self) -> float: ...

    @property
    def offset_unit(self) -> int: ...

    @property
    def codes(self) -> Annotated[NDArray[numpy.uint8], dict(shape=(None, None), writable=False)]: ...

    @property
    def params(self) -> Annotated[NDArray[numpy.uint8], dict(shape=(None, None), writable=False)]: ...

    @property
    def row_scale_bits(self) -> Annotated[NDArray[numpy.uint8], dict(shape=(None, None), writable=False)]: ...

class Tensor:
    """A stored tensor: packed codes and parameters, or kept bytes."""

    @property
    def info(self) -> TensorInfo: ...

    @property
    def chunks(self) -> list[Chunk]: ...

    def slice_rows(self, first: int, rows: int) -> Tensor:
        """
        Copy rows [first, first + rows) of a tensor of one chunk into a tensor of their own.
        """

    def dequantize(self, out: Annotated[NDArray[numpy.float32], dict(shape=(None,), order='C', device='cpu')], num_threads: int) -> None: ...

    def unpack(self, out: Annotated[NDArray[numpy.uint8], dict(shape=(None,), order='C', device='cpu')]) -> None: ...

    def expand_int8(self, out: Annotated[NDArray[numpy.int8], dict(shape=(None,), order='C', device='cpu')], row_scales: Annotated[NDArray[numpy.float32], dict(shape=(None,), order='C', device='cpu')]) -> None: ...

def quantize_array(name: str, shape: Sequence[int], dtype: str, data: Annotated[NDArray[numpy.uint8], dict(shape=(None,), order='C', device='cpu', writable=False)], spec: AffineSpec, importance: Annotated[NDArray[numpy.float32], dict(shape=(None,), order='C', device='cpu', writable=False)] | None, num_threads: int, callback: Callable[[str, float], object] | None) -> Tensor: ...

def keep_array(name: str, shape: Sequence[int], dtype: str, data: Annotated[NDArray[numpy.uint8], dict(shape=(None,), order='C', device='cpu', writable=False)]) -> Tensor: ...

class SourceTensor:
    """One tensor of a source model."""

    @property
    def component(self) -> str: ...

    @property
    def name(self) -> str: ...

    @property
    def dtype(self) -> str: ...

    @property
    def shape(self) -> list[int]: ...

    @property
    def nbytes(self) -> int: ...

class SourceModel:
    """An open model; reads one tensor at a time."""

    def __init__(self, path: bytes) -> None: ...

    @property
    def tensors(self) -> list[SourceTensor]: ...

    def read(self, tensor: SourceTensor, out: Annotated[NDArray[numpy.uint8], dict(shape=(None,), order='C', device='cpu')]) -> None: ...

class PlanOptions:
    """Everything that decides a plan."""

    def __init__(self, bit_width: int, group_size: int, method: str, param_encoding: str, layer_rules: Sequence[tuple[str, int]], components: Sequence[str], modality: str) -> None: ...

class PlannedTensor:
    """What happens to one tensor, and why."""

    @property
    def component(self) -> str: ...

    @property
    def name(self) -> str: ...

    @property
    def shape(self) -> list[int]: ...

    @property
    def source_dtype(self) -> str: ...

    @property
    def source_bytes(self) -> int: ...

    @property
    def planned_bytes(self) -> int: ...

    @property
    def quantized(self) -> bool: ...

    @property
    def encoding(self) -> str: ...

    @property
    def spec(self) -> AffineSpec: ...

    @property
    def reason(self) -> str: ...

class ModelPlan:
    """What happens to every tensor of a model."""

    @property
    def modality(self) -> str: ...

    @property
    def modality_reason(self) -> str: ...

    @property
    def components(self) -> list[str]: ...

    @property
    def warnings(self) -> list[str]: ...

    @property
    def source_bytes(self) -> int: ...

    @property
    def planned_bytes(self) -> int: ...

    @property
    def tensors(self) -> list[PlannedTensor]: ...

def plan_model(model_path: bytes, options: PlanOptions) -> ModelPlan: ...

def plan_array(rows: int, cols: int, options: PlanOptions) -> AffineSpec: ...

class QuantizeOptions:
    """Settings of one run over a model."""

    def __init__(self) -> None: ...

    @property
    def plan(self) -> PlanOptions: ...

    @plan.setter
    def plan(self, arg: PlanOptions, /) -> None: ...

    @property
    def num_threads(self) -> int: ...

    @num_threads.setter
    def num_threads(self, arg: int, /) -> None: ...

    @property
    def max_memory_mb(self) -> int: ...

    @max_memory_mb.setter
    def max_memory_mb(self, arg: int, /) -> None: ...

    @property
    def part_size(self) -> int: ...

    @part_size.setter
    def part_size(self, arg: int, /) -> None: ...

    @property
    def overwrite(self) -> bool: ...

    @overwrite.setter
    def overwrite(self, arg: bool, /) -> None: ...

    @property
    def min_accuracy(self) -> float: ...

    @min_accuracy.setter
    def min_accuracy(self, arg: float, /) -> None: ...

    @property
    def fail_fast(self) -> bool: ...

    @fail_fast.setter
    def fail_fast(self, arg: bool, /) -> None: ...

    @property
    def config_json(self) -> str: ...

    @config_json.setter
    def config_json(self, arg: str, /) -> None: ...

class TensorReport:
    """One tensor of a result."""

    @property
    def component(self) -> str: ...

    @property
    def info(self) -> TensorInfo: ...

    @property
    def stored_bytes(self) -> int: ...

    @property
    def reason(self) -> str: ...

class Attempt:
    """One run over the model at one bit width."""

    @property
    def bit_width(self) -> int: ...

    @property
    def cosine_similarity(self) -> float: ...

    @property
    def seconds(self) -> float: ...

class QuantizeReport:
    """What quantize_model did."""

    @property
    def quantized_path(self) -> bytes: ...

    @property
    def modality(self) -> str: ...

    @property
    def modality_reason(self) -> str: ...

    @property
    def bit_width(self) -> int: ...

    @property
    def components(self) -> list[str]: ...

    @property
    def cosine_similarity(self) -> float: ...

    @property
    def min_cosine_similarity(self) -> float: ...

    @property
    def worst_layer(self) -> str: ...

    @property
    def nmse(self) -> float: ...

    @property
    def bits_per_weight(self) -> float: ...

    @property
    def meets_min_accuracy(self) -> bool: ...

    @property
    def source_bytes(self) -> int: ...

    @property
    def weights_bytes(self) -> int: ...

    @property
    def total_bytes(self) -> int: ...

    @property
    def seconds(self) -> float: ...

    @property
    def attempts(self) -> list[Attempt]: ...

    @property
    def warnings(self) -> list[str]: ...

    @property
    def tensors(self) -> list[TensorReport]: ...

class TensorComparison:
    """One tensor against its original."""

    @property
    def component(self) -> str: ...

    @property
    def name(self) -> str: ...

    @property
    def bit_width(self) -> int: ...

    @property
    def cosine(self) -> float: ...

    @property
    def nmse(self) -> float: ...

class ValidationReport:
    """An artefact against its original."""

    @property
    def cosine_similarity(self) -> float: ...

    @property
    def min_cosine_similarity(self) -> float: ...

    @property
    def worst_layer(self) -> str: ...

    @property
    def nmse(self) -> float: ...

    @property
    def bit_width(self) -> int: ...

    @property
    def tensors(self) -> list[TensorComparison]: ...

    @property
    def problems(self) -> list[str]: ...

class BuildInfo:
    """What this build is and runs on."""

    @property
    def version(self) -> str: ...

    @property
    def isa(self) -> str: ...

    @property
    def supported_isas(self) -> list[str]: ...

    @property
    def arrow_version(self) -> str: ...

    @property
    def openblas(self) -> str: ...

    @property
    def compiler(self) -> str: ...

    @property
    def cores(self) -> int: ...

def build_info() -> BuildInfo: ...

def quantize_model(model_path: bytes, output_path: bytes, options: QuantizeOptions, callback: Callable[[str, float], object] | None) -> QuantizeReport: ...

def validate_artefact(original_path: bytes, quantized_path: bytes, num_threads: int, callback: Callable[[str, float], object] | None) -> ValidationReport: ...

class Artefact:
    """An open artefact; weights are read when asked for."""

    @staticmethod
    def open(path: bytes) -> Artefact: ...

    @property
    def path(self) -> bytes: ...

    @property
    def manifest_json(self) -> str: ...

    @property
    def components(self) -> list[str]: ...

    def metadata(self, component: int) -> dict[str, str]: ...

    def tensors(self, component: int) -> list[TensorInfo]: ...

    def stored_bytes(self, component: int) -> list[int]: ...

    def read(self, component: int, tensor: int) -> Tensor: ...

    def chunks(self, component: int, tensor: int) -> int: ...

    def read_chunk(self, component: int, tensor: int, chunk: int) -> Tensor: ...

    def verify(self, callback: Callable[[str, float], object] | None) -> None: ...
