"""The compiled engine. Use the functions of arrow_quant_v2 instead."""

from collections.abc import Callable, Mapping, Sequence
from typing import Annotated

import numpy
from numpy.typing import NDArray


VERSION: str = '2.0.0'

def stop_running_calls() -> None:
    """
    Make calls that other threads run come to their end; for the end of the interpreter.
    """

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

def check_spec(bit_width: int, group_size: int, param_encoding: str) -> None:
    """Raise ConfigurationError for a combination that does not exist."""

SUB_GROUPS: int = 4

FIELD_BITS: int = 4

FIELD_MASK: int = 15

MIN_Q: int = 1

MIN_Z: int = -8

MAX_V: int = 127

class TensorInfo:
    """Everything about a stored tensor but its data."""

    @property
    def name(self) -> str: ...

    @property
    def shape(self) -> list[int]: ...

    @property
    def row_dimensions(self) -> int: ...

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

    @property
    def output_cosine(self) -> float | None: ...

    @property
    def output_nmse(self) -> float | None: ...

    @property
    def method(self) -> str: ...

    @property
    def candidates(self) -> str: ...

class TimeGroup:
    """What applies in a span of diffusion time."""

    @property
    def begin(self) -> float: ...

    @property
    def end(self) -> float: ...

    @property
    def activation_scale(self) -> float: ...

    @property
    def activation_zero(self) -> float: ...

    @property
    def output_scale(self) -> Annotated[NDArray[numpy.float32], dict(shape=(None,))]: ...

    @property
    def output_bias(self) -> Annotated[NDArray[numpy.float32], dict(shape=(None,))]: ...

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
    def equalization(self) -> Annotated[NDArray[numpy.float32], dict(shape=(None,))]: ...

    @property
    def time_groups(self) -> list[TimeGroup]: ...

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

    def learned(self, codes: Annotated[NDArray[numpy.uint8], dict(shape=(None,), order='C', device='cpu', writable=False)], params: Annotated[NDArray[numpy.uint8], dict(shape=(None,), order='C', device='cpu', writable=False)], row_scales: Annotated[NDArray[numpy.uint8], dict(shape=(None,), order='C', device='cpu', writable=False)], candidates: str) -> Tensor:
        """
        Copy a quantized tensor with other codes, parameters and fp16 bits of row scales, as bytes.
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

    def __init__(self, path: bytes, names: Mapping[str, Mapping[str, str]] = {}) -> None: ...

    @property
    def tensors(self) -> list[SourceTensor]: ...

    def read(self, tensor: SourceTensor, out: Annotated[NDArray[numpy.uint8], dict(shape=(None,), order='C', device='cpu')]) -> None: ...

class PlanOptions:
    """Everything that decides a plan."""

    def __init__(self, bit_width: int, group_size: int, method: str, param_encoding: str, layer_rules: Sequence[tuple[str, int]], components: Sequence[str], modality: str, allocation: Sequence[tuple[str, str, int, int, str]] = [], roles: Sequence[tuple[str, str, str, bool, str, int]] = [], names: Mapping[str, Mapping[str, str]] = {}) -> None: ...

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
    def row_dimensions(self) -> int: ...

    @property
    def fixed(self) -> bool: ...

    @property
    def reason(self) -> str: ...

    @property
    def role(self) -> str: ...

    @property
    def known_from(self) -> str: ...

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

def plan_tensors(config_json: str, tensors: Sequence[tuple[str, Sequence[int]]], options: PlanOptions) -> ModelPlan: ...

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
    def min_layer_accuracy(self) -> float: ...

    @min_layer_accuracy.setter
    def min_layer_accuracy(self, arg: float, /) -> None: ...

    @property
    def fallback_scope(self) -> str: ...

    @fallback_scope.setter
    def fallback_scope(self, arg: str, /) -> None: ...

    @property
    def fail_fast(self) -> bool: ...

    @fail_fast.setter
    def fail_fast(self, arg: bool, /) -> None: ...

    @property
    def statistics_path(self) -> bytes: ...

    @statistics_path.setter
    def statistics_path(self, arg: bytes, /) -> None: ...

    @property
    def enable_spatial(self) -> bool: ...

    @enable_spatial.setter
    def enable_spatial(self, arg: bool, /) -> None: ...

    @property
    def fold_equalization(self) -> bool: ...

    @fold_equalization.setter
    def fold_equalization(self, arg: bool, /) -> None: ...

    @property
    def enable_time_aware(self) -> bool: ...

    @enable_time_aware.setter
    def enable_time_aware(self, arg: bool, /) -> None: ...

    @property
    def num_time_groups(self) -> int: ...

    @num_time_groups.setter
    def num_time_groups(self, arg: int, /) -> None: ...

    @property
    def data_free_reason(self) -> str: ...

    @data_free_reason.setter
    def data_free_reason(self, arg: str, /) -> None: ...

    @property
    def activation_bits(self) -> int: ...

    @activation_bits.setter
    def activation_bits(self, arg: int, /) -> None: ...

    @property
    def is_diffusion(self) -> bool: ...

    @is_diffusion.setter
    def is_diffusion(self, arg: bool, /) -> None: ...

    @property
    def torch_version(self) -> str: ...

    @torch_version.setter
    def torch_version(self, arg: str, /) -> None: ...

    @property
    def config_json(self) -> str: ...

    @config_json.setter
    def config_json(self, arg: str, /) -> None: ...

    @property
    def mixed_precision_json(self) -> str: ...

    @mixed_precision_json.setter
    def mixed_precision_json(self, arg: str, /) -> None: ...

    @property
    def refinements_json(self) -> dict[str, str]: ...

    @refinements_json.setter
    def refinements_json(self, arg: Mapping[str, str], /) -> None: ...

    def reuse(self, report: QuantizeReport, tensors: Sequence[tuple[str, Tensor]]) -> None:
        """
        Write these quantized tensors, given by component, in place of new ones.
        """

class TensorReport:
    """One tensor of a result."""

    @property
    def component(self) -> str: ...

    @property
    def info(self) -> TensorInfo: ...

    @property
    def stored_bytes(self) -> int: ...

    @property
    def calibrated(self) -> bool: ...

    @property
    def equalization(self) -> float: ...

    @property
    def folded(self) -> bool: ...

    @property
    def divided(self) -> bool: ...

    @property
    def time_groups(self) -> int: ...

    @property
    def time_bias(self) -> bool: ...

    @property
    def reason(self) -> str: ...

class Attempt:
    """One run over the model at one bit width."""

    @property
    def bit_width(self) -> int: ...

    @property
    def cosine_similarity(self) -> float: ...

    @property
    def min_cosine_similarity(self) -> float: ...

    @property
    def worst_layer(self) -> str: ...

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
    def calibration(self) -> str: ...

    @property
    def cosine_of_outputs(self) -> bool: ...

    @property
    def output_nmse(self) -> float | None: ...

    @property
    def bits_per_weight(self) -> float: ...

    @property
    def meets_min_accuracy(self) -> bool: ...

    @property
    def layers_by_bit_width(self) -> dict[int, int]: ...

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

    @property
    def original_matches(self) -> bool | None: ...

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

def check_output(model_path: bytes, output_path: bytes, options: QuantizeOptions) -> None: ...

def validate_artefact(original_path: bytes, quantized_path: bytes, num_threads: int, callback: Callable[[str, float], object] | None, names: Mapping[str, Mapping[str, str]] = {}) -> ValidationReport: ...

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

class CalibratedLayer:
    """A weight whose input is observed."""

    def __init__(self, name: str, shape: Sequence[int], sample: Annotated[NDArray[numpy.float32], dict(shape=(None,), order='C', device='cpu', writable=False)]) -> None: ...

    @property
    def name(self) -> str: ...

    @property
    def shape(self) -> list[int]: ...

class FoldSource:
    """Rows of a parameter that make channels of an input."""

    def __init__(self, name: str, row: int, offset: float) -> None: ...

    @property
    def name(self) -> str: ...

    @property
    def row(self) -> int: ...

    @property
    def offset(self) -> float: ...

class Fold:
    """Layers, and the parameters before them that can take up factors."""

    def __init__(self, layers: Sequence[str], sources: Sequence[FoldSource]) -> None: ...

    @property
    def layers(self) -> list[str]: ...

    @property
    def sources(self) -> list[FoldSource]: ...

class TimeBin:
    """Range and moments of every channel in a span of time."""

    @property
    def begin(self) -> float: ...

    @property
    def end(self) -> float: ...

    @property
    def tokens(self) -> int: ...

    @property
    def low(self) -> Annotated[NDArray[numpy.float32], dict(shape=(None,))]: ...

    @property
    def high(self) -> Annotated[NDArray[numpy.float32], dict(shape=(None,))]: ...

    @property
    def sum(self) -> Annotated[NDArray[numpy.float64], dict(shape=(None,))]: ...

    @property
    def squares(self) -> Annotated[NDArray[numpy.float64], dict(shape=(None,))]: ...

def weight_sample_positions(elements: int) -> list[int]: ...

class CalibrationStatistics:
    """What calibration learned about the inputs of layers."""

    def __init__(self, component: str, data: str, num_threads: int) -> None: ...

    def add_input(self, layers: Sequence[CalibratedLayer], channels: int, block: int) -> int: ...

    def add(self, input: int, values: Annotated[NDArray[numpy.float32], dict(shape=(None,), order='C', device='cpu', writable=False)], timesteps: Annotated[NDArray[numpy.float64], dict(shape=(None,), order='C', device='cpu', writable=False)], weight: float, held_out: bool) -> None: ...

    def add_note(self, text: str) -> None: ...

    def set_folds(self, folds: Sequence[Fold]) -> None: ...

    @property
    def folds(self) -> list[Fold] | None: ...

    def set_sensitivities(self, sensitivities: Mapping[str, float]) -> None: ...

    @property
    def sensitivities(self) -> dict[str, float]: ...

    def set_roles(self, roles: Mapping[str, str]) -> None: ...

    @property
    def roles(self) -> dict[str, str]: ...

    def merge(self, other: CalibrationStatistics) -> None: ...

    @property
    def component(self) -> str: ...

    @property
    def data(self) -> str: ...

    @property
    def notes(self) -> list[str]: ...

    def __len__(self) -> int: ...

    def layers(self, input: int) -> list[CalibratedLayer]: ...

    def channels(self, input: int) -> int: ...

    def block(self, input: int) -> int: ...

    def tokens(self, input: int, held_out: bool) -> int: ...

    def bins(self, input: int) -> list[TimeBin]: ...

    def gram(self, input: int, held_out: bool, out: Annotated[NDArray[numpy.float32], dict(shape=(None, None), order='C', device='cpu')]) -> None: ...

    def save(self, path: bytes, overwrite: bool) -> None: ...

    @staticmethod
    def load(path: bytes, num_threads: int) -> CalibrationStatistics: ...

class OldTensor:
    """One tensor of a model in an old layout."""

    @property
    def component(self) -> int: ...

    @property
    def info(self) -> TensorInfo: ...

    @property
    def nbytes(self) -> int: ...

    @property
    def bit_width(self) -> int: ...

    @property
    def signed(self) -> bool: ...

    @property
    def granularity(self) -> str: ...

    @property
    def groups(self) -> int: ...

    @property
    def stored_bytes(self) -> int: ...

    @property
    def data_bytes(self) -> int: ...

class OldModel:
    """A model in an old layout; reads one tensor at a time."""

    def __init__(self, path: bytes, int2_order: str) -> None: ...

    @property
    def components(self) -> list[str]: ...

    @property
    def metadata_json(self) -> bytes: ...

    @property
    def other_files(self) -> list[bytes]: ...

    @property
    def tensors(self) -> list[OldTensor]: ...

    def layout(self, component: int) -> str: ...

    def metadata(self, component: int) -> dict[str, str]: ...

    def read(self, tensor: OldTensor, offset: int, out: Annotated[NDArray[numpy.uint8], dict(shape=(None,), order='C', device='cpu')]) -> None: ...

    def read_stored(self, tensor: OldTensor, out: Annotated[NDArray[numpy.uint8], dict(shape=(None,), order='C', device='cpu')]) -> None: ...

    def read_codes(self, tensor: OldTensor, out: Annotated[NDArray[numpy.int16], dict(shape=(None,), order='C', device='cpu')]) -> None: ...

    def read_parameters(self, tensor: OldTensor, scales: Annotated[NDArray[numpy.float32], dict(shape=(None,), order='C', device='cpu')], zero_points: Annotated[NDArray[numpy.float32], dict(shape=(None,), order='C', device='cpu')]) -> None: ...

def dequantize_packed(codes: Annotated[NDArray[numpy.uint8], dict(shape=(None, None), order='C', device='cpu', writable=False)], params: Annotated[NDArray[numpy.uint8], dict(shape=(None, None), order='C', device='cpu', writable=False)], row_scales: Annotated[NDArray[numpy.int16], dict(shape=(None,), order='C', device='cpu', writable=False)], chunks: Annotated[NDArray[numpy.int32], dict(shape=(None, 3), order='C', device='cpu', writable=False)], cols: int, spec: AffineSpec, out: Annotated[NDArray[numpy.float32], dict(shape=(None,), order='C', device='cpu')], num_threads: int) -> None:
    """
    Reconstruct a weight from its buffers. A row of `chunks` is the first row, the binary exponent of the tensor scale, and the offset unit.
    """

def expand_packed(codes: Annotated[NDArray[numpy.uint8], dict(shape=(None, None), order='C', device='cpu', writable=False)], params: Annotated[NDArray[numpy.uint8], dict(shape=(None, None), order='C', device='cpu', writable=False)], row_scales: Annotated[NDArray[numpy.int16], dict(shape=(None,), order='C', device='cpu', writable=False)], chunks: Annotated[NDArray[numpy.int32], dict(shape=(None, 3), order='C', device='cpu', writable=False)], cols: int, spec: AffineSpec, out: Annotated[NDArray[numpy.int8], dict(shape=(None,), order='C', device='cpu')], num_threads: int) -> None: ...

def linear_packed(x: Annotated[NDArray, dict(shape=(None, None), order='C', device='cpu', writable=False)], y: Annotated[NDArray, dict(shape=(None, None), order='C', device='cpu')], codes: Annotated[NDArray[numpy.uint8], dict(shape=(None, None), order='C', device='cpu', writable=False)], params: Annotated[NDArray[numpy.uint8], dict(shape=(None, None), order='C', device='cpu', writable=False)], row_scales: Annotated[NDArray[numpy.int16], dict(shape=(None,), order='C', device='cpu', writable=False)], chunks: Annotated[NDArray[numpy.int32], dict(shape=(None, 3), order='C', device='cpu', writable=False)], cols: int, spec: AffineSpec, bias: Annotated[NDArray[numpy.float32], dict(shape=(None,), order='C', device='cpu', writable=False)] | None, input_factors: Annotated[NDArray[numpy.float32], dict(shape=(None,), order='C', device='cpu', writable=False)] | None, planes: int, activation_scale: float, num_threads: int) -> None:
    """
    y = x W^T + bias on a packed weight; activations as `planes` bytes each, scaled per token or by `activation_scale` unless that is 0.
    """

def linear_panels(x: Annotated[NDArray, dict(shape=(None, None), order='C', device='cpu', writable=False)], y: Annotated[NDArray, dict(shape=(None, None), order='C', device='cpu')], panels: Annotated[NDArray[numpy.uint8], dict(shape=(None,), order='C', device='cpu', writable=False)], row_scales: Annotated[NDArray[numpy.float32], dict(shape=(None,), order='C', device='cpu', writable=False)], bias: Annotated[NDArray[numpy.float32], dict(shape=(None,), order='C', device='cpu', writable=False)] | None, input_factors: Annotated[NDArray[numpy.float32], dict(shape=(None,), order='C', device='cpu', writable=False)] | None, planes: int, activation_scale: float, num_threads: int) -> None:
    """The same on a weight that make_panels expanded to int8."""

def panels_bytes(outputs: int, inputs: int) -> int: ...

def make_panels(codes: Annotated[NDArray[numpy.uint8], dict(shape=(None, None), order='C', device='cpu', writable=False)], params: Annotated[NDArray[numpy.uint8], dict(shape=(None, None), order='C', device='cpu', writable=False)], row_scales: Annotated[NDArray[numpy.int16], dict(shape=(None,), order='C', device='cpu', writable=False)], chunks: Annotated[NDArray[numpy.int32], dict(shape=(None, 3), order='C', device='cpu', writable=False)], cols: int, spec: AffineSpec, panels: Annotated[NDArray[numpy.uint8], dict(shape=(None,), order='C', device='cpu')], num_threads: int) -> None:
    """
    Expand a weight whose parameters are not fp16 into panels_bytes(outputs, inputs) bytes.
    """

class ConvGeometry:
    """How a kernel moves over an image; (height, width) each."""

    def __init__(self, kernel: tuple[int, int], stride: tuple[int, int], padding: tuple[int, int], dilation: tuple[int, int]) -> None: ...

def conv2d_packed(x: Annotated[NDArray, dict(shape=(None, None, None, None), order='C', device='cpu', writable=False)], y: Annotated[NDArray, dict(shape=(None, None, None, None), order='C', device='cpu')], codes: Annotated[NDArray[numpy.uint8], dict(shape=(None, None), order='C', device='cpu', writable=False)], params: Annotated[NDArray[numpy.uint8], dict(shape=(None, None), order='C', device='cpu', writable=False)], row_scales: Annotated[NDArray[numpy.int16], dict(shape=(None,), order='C', device='cpu', writable=False)], chunks: Annotated[NDArray[numpy.int32], dict(shape=(None, 3), order='C', device='cpu', writable=False)], cols: int, spec: AffineSpec, geometry: ConvGeometry, bias: Annotated[NDArray[numpy.float32], dict(shape=(None,), order='C', device='cpu', writable=False)] | None, input_factors: Annotated[NDArray[numpy.float32], dict(shape=(None,), order='C', device='cpu', writable=False)] | None, planes: int, activation_scale: float, num_threads: int) -> None:
    """
    Convolve channels-last images with a packed weight; activations as linear_packed takes them, one scale per sample.
    """

def conv2d_panels(x: Annotated[NDArray, dict(shape=(None, None, None, None), order='C', device='cpu', writable=False)], y: Annotated[NDArray, dict(shape=(None, None, None, None), order='C', device='cpu')], panels: Annotated[NDArray[numpy.uint8], dict(shape=(None,), order='C', device='cpu', writable=False)], row_scales: Annotated[NDArray[numpy.float32], dict(shape=(None,), order='C', device='cpu', writable=False)], geometry: ConvGeometry, bias: Annotated[NDArray[numpy.float32], dict(shape=(None,), order='C', device='cpu', writable=False)] | None, input_factors: Annotated[NDArray[numpy.float32], dict(shape=(None,), order='C', device='cpu', writable=False)] | None, planes: int, activation_scale: float, num_threads: int) -> None:
    """The same on a weight that make_conv_panels expanded to int8."""

def conv_panels_bytes(outputs: int, channels: int, geometry: ConvGeometry) -> int: ...

def make_conv_panels(codes: Annotated[NDArray[numpy.uint8], dict(shape=(None, None), order='C', device='cpu', writable=False)], params: Annotated[NDArray[numpy.uint8], dict(shape=(None, None), order='C', device='cpu', writable=False)], row_scales: Annotated[NDArray[numpy.int16], dict(shape=(None,), order='C', device='cpu', writable=False)], chunks: Annotated[NDArray[numpy.int32], dict(shape=(None, 3), order='C', device='cpu', writable=False)], cols: int, spec: AffineSpec, channels: int, geometry: ConvGeometry, panels: Annotated[NDArray[numpy.uint8], dict(shape=(None,), order='C', device='cpu')], num_threads: int) -> None:
    """Expand a weight whose parameters are not fp16 for conv2d_panels."""

WIDEST_HEAD: int = 256

def attention(queries: Annotated[NDArray, dict(shape=(None, None, None, None), device='cpu', writable=False)], keys: Annotated[NDArray, dict(shape=(None, None, None, None), device='cpu', writable=False)], values: Annotated[NDArray, dict(shape=(None, None, None, None), device='cpu', writable=False)], out: Annotated[NDArray, dict(shape=(None, None, None, None), device='cpu')], scale: float, num_threads: int) -> None:
    """
    out = softmax(queries keys^T scale) values, each [batch, heads, tokens, width].
    """

def gelu_tanh(x: Annotated[NDArray, dict(shape=(None,), order='C', device='cpu', writable=False)], y: Annotated[NDArray, dict(shape=(None,), order='C', device='cpu')], num_threads: int) -> None:
    """y = x (1 + tanh(sqrt(2 / pi) (x + .044715 x^3))) / 2."""
