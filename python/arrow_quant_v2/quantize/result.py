"""What a run returns: a read-only mapping with the keys of the contract, and its tensors."""

from __future__ import annotations

import difflib
import json
import math
import os
from collections import Counter
from collections.abc import Iterator, Mapping
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Any

from arrow_quant_v2._native import core
from arrow_quant_v2.artefact.quality import LayerQuality, summed_up
from arrow_quant_v2.caller_warnings import warn_caller
from arrow_quant_v2.config.settings import DiffusionQuantConfig
from arrow_quant_v2.plan.strategy import method_warnings, strategy, strategy_used
from arrow_quant_v2.quantize.calibrate_first import Calibration
from arrow_quant_v2.quantize.display import Table, as_html, as_text, value_text

if TYPE_CHECKING:
    from arrow_quant_v2.plan.mixed_precision import MixedPrecision

__all__ = ["QuantizationResult", "TensorResult", "ValidationResult"]

#: V1 result key -> its V2 name.
V1_KEYS = {
    "path": "quantized_path",
    "compression": "compression_ratio",
    "accuracy": "cosine_similarity",
    "size": "model_size_mb",
}

_MB = 1e6
_WORST_SHOWN = 10


@dataclass(frozen=True)
class TensorResult:
    """What became of one tensor.

    Attributes
    ----------
    component, name
        The component (empty when there is one only), and the name in the weight file.
    shape
        Shape of the tensor.
    bit_width, group_size, param_encoding, method
        Bits of a code, weights per group, how parameters are stored, and how codes were found. None
        if the tensor is not quantized.
    cosine, nmse
        Cosine similarity with the source weights, and squared error divided by their squared norm.
    stored_bytes
        Bytes of codes and parameters, or of the copy.
    reason
        Why the tensor was treated so, in words.
    output_cosine, output_nmse
        The same as `cosine` and `nmse` for the outputs of the layer on held-out inputs; None
        without calibration.
    candidates
        What calibration chose from, each with its error.
    equalized
        Whether the tensor has equalization scales.
    folded, divided
        Whether equalization scales of this layer were fused into tensors before it, and whether the
        tensor was divided by such scales.
    time_groups
        Number of groups of diffusion times with their own parameters; 0: none.
    """

    component: str
    name: str
    shape: tuple[int, ...]
    bit_width: int | None
    group_size: int | None
    param_encoding: str | None
    cosine: float
    nmse: float
    stored_bytes: int
    reason: str
    method: str | None
    output_cosine: float | None
    output_nmse: float | None
    candidates: tuple[dict[str, Any], ...]
    equalized: bool
    folded: bool
    divided: bool
    time_groups: int


def _accuracy(tensor: TensorResult) -> float:
    """What the tensor is judged by: its outputs where calibration saw its inputs."""
    return tensor.cosine if tensor.output_cosine is None else tensor.output_cosine


class _Result(Mapping[str, Any]):
    """A read-only mapping that prints as a table and turns into JSON."""

    _shown: tuple[str, ...] = ()

    def __init__(self, values: Mapping[str, Any]) -> None:
        self._values = dict(values)

    def __getitem__(self, key: str) -> Any:
        try:
            return self._values[key]
        except KeyError:
            raise KeyError(self._missing(key)) from None

    def get(self, key: str, default: Any = None) -> Any:
        """The value of `key`, or `default`; a V1 key warns, since its default hides a mistake."""
        if key in V1_KEYS:
            warn_caller(self._missing(key))
        return self._values.get(key, default)

    def __getattr__(self, name: str) -> Any:
        message = f"{type(self).__name__!r} object has no attribute {name!r}"
        if name in V1_KEYS or name in self.__dict__.get("_values", ()):
            message += f"; it is a mapping: result[{V1_KEYS.get(name, name)!r}]"
        raise AttributeError(message)

    def __iter__(self) -> Iterator[str]:
        return iter(self._values)

    def __len__(self) -> int:
        return len(self._values)

    def _missing(self, key: object) -> str:
        if key in V1_KEYS:
            return f"{key!r} is a V1 key; V2 calls it {V1_KEYS[str(key)]!r}"
        near = difflib.get_close_matches(str(key), self._values, n=1)
        if near:
            return f"{key!r}; did you mean {near[0]!r}?"
        return f"{key!r}; the keys are: {', '.join(self._values)}"

    def json(self) -> str:
        """The result as JSON text."""
        return json.dumps(self._values, indent=2, ensure_ascii=False)

    def _headline(self) -> str:
        raise NotImplementedError

    def _facts(self) -> list[tuple[str, str]]:
        return [(key, value_text(self._values[key])) for key in self._shown]

    def _tables(self) -> list[Table]:
        return []

    def __repr__(self) -> str:
        return as_text(self._headline(), self._facts())

    def _repr_html_(self) -> str:
        return as_html(self._headline(), self._facts(), self._tables())


class QuantizationResult(_Result):
    """The result of quantizing a model.

    Sizes are in MB of 1,000,000 bytes: `model_size_mb` is that of the weight files of the quantized
    components, `total_size_mb` that of every file of the artefact. `compression_ratio` is the size
    of the source's weight files over `model_size_mb`.

    `weight_cosine_similarity` compares weights, `layer_output_cosine_similarity` the outputs of
    layers on held-out calibration inputs (None without calibration); both are means weighted by
    the number of weights. `cosine_similarity` is the mean of what each layer is judged by, which is
    its outputs where calibration saw them and its weights otherwise; `cosine_kind` says which.
    `worst_layer` is the layer that is judged worst, by `min_cosine_similarity`.
    :class:`ValidationResult` and ``arrow-quant inspect`` use the same words.

    Examples
    --------
    ``result["model_size_mb"]``, ``result["cosine_similarity"]``, ``dict(result)``,
    ``result.tensors[0].nmse``. A V1 key such as ``result["size"]`` raises a KeyError that names its
    V2 key.
    """

    _shown = (
        "quantized_path",
        "modality",
        "strategy",
        "bit_width",
        "bits_per_weight",
        "model_size_mb",
        "total_size_mb",
        "compression_ratio",
        "cosine_similarity",
        "min_cosine_similarity",
        "worst_layer",
        "nmse",
        "calibration",
        "quantization_time_s",
    )

    def __init__(self, values: Mapping[str, Any], tensors: list[TensorResult]) -> None:
        super().__init__(values)
        self._tensor_results = tensors

    @property
    def tensors(self) -> list[TensorResult]:
        """One entry per tensor of the quantized components, in source order."""
        return list(self._tensor_results)

    def json(self, *, tensors: bool = False) -> str:
        """The result as JSON text, with one entry per tensor when `tensors` is true."""
        if not tensors:
            return super().json()
        values = self._values | {"tensors": [asdict(tensor) for tensor in self._tensor_results]}
        return json.dumps(values, indent=2, ensure_ascii=False)

    def _headline(self) -> str:
        return (
            f"QuantizationResult: {width_text(self)}, "
            f"{self['compression_ratio']:.2f} times smaller, "
            f"cosine {self['cosine_similarity']:.4f} ({self['cosine_kind']})"
        )

    def _facts(self) -> list[tuple[str, str]]:
        facts = dict(super()._facts())
        if len(self["layers_by_bit_width"]) > 1:
            facts["bit_width"] = f"{self['bit_width']} at least (mixed)"
        facts["modality"] += f" ({self['modality_reason']})"
        if self["calibration_reason"]:
            facts["calibration"] += f" ({self['calibration_reason']})"
        if len(self["attempts"]) > 1:
            facts["attempts"] = ", ".join(
                f"INT{attempt['bit_width']} {attempt['cosine_similarity']:.4f}"
                for attempt in self["attempts"]
            )
        if len(self["layers_by_bit_width"]) > 1:
            facts["layers_by_bit_width"] = histogram_text(self["layers_by_bit_width"])
        if self["mixed_precision"]:
            facts["mixed_precision"] = mixed_text(self["mixed_precision"])
        if not self["meets_min_accuracy"]:
            facts["meets_min_accuracy"] = "no"
        if self["warnings"]:
            facts["warnings"] = "\n".join(self["warnings"])
        return list(facts.items())

    def _tables(self) -> list[Table]:
        quantized = [tensor for tensor in self._tensor_results if tensor.bit_width is not None]
        worst = sorted(quantized, key=_accuracy)[:_WORST_SHOWN]
        rows = [
            [
                f"{tensor.component}/{tensor.name}" if tensor.component else tensor.name,
                "x".join(map(str, tensor.shape)),
                str(tensor.bit_width),
                str(tensor.method),
                f"{tensor.cosine:.5f}",
                f"{tensor.nmse:.2e}",
                "-" if tensor.output_nmse is None else f"{tensor.output_nmse:.2e}",
            ]
            for tensor in worst
        ]
        title = f"The {len(worst)} worst of {len(quantized)} quantized tensors"
        return [
            (title, ["tensor", "shape", "bits", "method", "cosine", "NMSE", "output NMSE"], rows)
        ]


class ValidationResult(_Result):
    """The result of comparing an artefact with its original; ``result["passed"]`` sums it up.

    `failed_checks` says which checks failed: ``"weights cosine"`` and ``"outputs cosine"`` are
    `weight_cosine_similarity` and `output_cosine_similarity` below `min_accuracy`; ``"structure"``
    are missing, extra or different tensors, which `problems` lists; ``"original"`` is added where
    the fingerprint says that the artefact was made from another model.

    The weights are compared anew. `cosine_similarity`, `cosine_kind`, `min_cosine_similarity`,
    `worst_layer` and `layer_output_cosine_similarity` mean what they do in
    :class:`QuantizationResult`; the outputs of layers are those that calibration recorded.
    `output_cosine_similarity` and `output_nmse` are of the outputs of the whole model, which runs
    at level ``"outputs"`` only.
    """

    _shown = (
        "passed",
        "failed_checks",
        "cosine_similarity",
        "cosine_kind",
        "weight_cosine_similarity",
        "min_accuracy",
        "min_cosine_similarity",
        "worst_layer",
        "nmse",
        "sqnr_db",
        "bit_width",
        "output_cosine_similarity",
        "output_nmse",
    )

    def _headline(self) -> str:
        return f"ValidationResult: {verdict_text(self)} ({self['level']})"

    def _facts(self) -> list[tuple[str, str]]:
        facts = [
            (key, text)
            for key, text in super()._facts()
            if self["level"] == "outputs" or not key.startswith("output_")
        ]
        return [*facts, ("problems", "\n".join(problems_shown(self)) or "none")]

    def _tables(self) -> list[Table]:
        rows = [
            [
                f"t {entry['begin']:.4g} to {entry['end']:.4g}",
                str(entry["outputs"]),
                f"{entry['cosine_similarity']:.5f}",
                f"{entry['nmse']:.2e}",
            ]
            for entry in self["outputs"]
        ]
        return [("Outputs by diffusion time", ["time", "outputs", "cosine", "NMSE"], rows)]


def quantization_result(
    report: core.QuantizeReport,
    config: DiffusionQuantConfig,
    calibration: Calibration,
    seconds: float,
    mixed: MixedPrecision | None = None,
) -> QuantizationResult:
    """Bring the engine's report into the form of the contract; `seconds` is the whole call."""
    weights = report.weights_bytes
    quality = summed_up(
        LayerQuality(t.info.name, math.prod(t.info.shape), t.info.cosine, t.info.output_cosine)
        for t in report.tensors
        if t.info.encoding != "copy"
    )
    values = {
        "quantized_path": os.fsdecode(report.quantized_path),
        "compression_ratio": report.source_bytes / weights if weights else 0.0,
        "cosine_similarity": report.cosine_similarity,
        "model_size_mb": weights / _MB,
        "modality": report.modality,
        "bit_width": report.bit_width,
        "quantization_time_s": seconds,
        "bits_per_weight": report.bits_per_weight,
        "layers_by_bit_width": dict(report.layers_by_bit_width),
        "cosine_kind": "outputs" if report.cosine_of_outputs else "weights",
        "weight_cosine_similarity": quality.weight_cosine_similarity,
        "layer_output_cosine_similarity": quality.layer_output_cosine_similarity,
        "min_cosine_similarity": report.min_cosine_similarity,
        "worst_layer": report.worst_layer,
        "nmse": report.nmse,
        "output_nmse": report.output_nmse,
        "meets_min_accuracy": report.meets_min_accuracy,
        "attempts": [
            {
                "bit_width": attempt.bit_width,
                "cosine_similarity": attempt.cosine_similarity,
                "min_cosine_similarity": attempt.min_cosine_similarity,
                "worst_layer": attempt.worst_layer,
                "seconds": attempt.seconds,
            }
            for attempt in report.attempts
        ],
        "calibration": report.calibration,
        "calibration_reason": calibration.reason,
        "calibration_time_s": calibration.seconds,
        "modality_reason": report.modality_reason,
        "strategy": _strategy_used(report, config),
        "components": list(report.components),
        "total_size_mb": report.total_bytes / _MB,
        "mixed_precision": mixed.to_dict() if mixed else None,
        "warnings": [*calibration.warnings, *_warnings(report, config)],
    }
    return QuantizationResult(values, [_tensor_result(tensor) for tensor in report.tensors])


def width_text(result: Mapping[str, Any]) -> str:
    """The bits of an artefact: ``INT4``, or the mean where layers have several widths."""
    if len(result["layers_by_bit_width"]) > 1:
        return f"mixed, {result['bits_per_weight']:.3f} bits per weight"
    return f"INT{result['bit_width']}"


def verdict_text(validation: Mapping[str, Any]) -> str:
    """``passed``, or the checks that failed."""
    failed = ", ".join(validation["failed_checks"])
    return f"FAILED: {failed}" if failed else "passed"


def problems_shown(validation: Mapping[str, Any]) -> list[str]:
    """The problems for people: of a model that is not the original, only that it is not."""
    problems = list(validation["problems"])
    if "original" not in validation["failed_checks"]:
        return problems
    return [
        "the artefact was made from another model: the fingerprint in its manifest is not that of "
        f"this original ({len(problems)} {'difference' if len(problems) == 1 else 'differences'})"
    ]


def histogram_text(layers: Mapping[int, int]) -> str:
    """Layers by bit width in words."""
    return ", ".join(f"{count} at INT{bits}" for bits, count in sorted(layers.items()))


def mixed_text(mixed: Mapping[str, Any]) -> str:
    """A target and how it was met, in words."""
    ((name, value),) = mixed["target"].items()
    by = f"by {mixed['measure']}"
    if mixed["measured_drift"] is None:
        return f"{name} {value:g}, {by} ({mixed['measure_reason']})"
    return f"{name} {value:g}, {by}: drift {mixed['measured_drift']:.3g}"


def _warnings(report: core.QuantizeReport, config: DiffusionQuantConfig) -> list[str]:
    """The engine's warnings, and that more bits were used than asked for."""
    found = list(report.warnings)
    if report.calibration == "none":
        found += method_warnings(config.method)
    if report.bit_width > config.bit_width:
        where = "" if config.fallback_scope == "model" else " for the layers that missed"
        found.append(f"INT{report.bit_width} was used instead of INT{config.bit_width}{where}")
    if config.target_size_mb is not None and report.weights_bytes > config.target_size_mb * _MB:
        found.append(
            f"the weights take {report.weights_bytes / _MB:.4g} MB, more than target_size_mb"
        )
    return found


def _strategy_used(report: core.QuantizeReport, config: DiffusionQuantConfig) -> str:
    """The strategy, and what the layers of the artefact have of it."""
    if report.calibration == "none":
        return strategy(report.modality, config, calibrated=False)
    quantized = [t for t in report.tensors if t.info.encoding != "copy"]
    return strategy_used(
        report.modality,
        config,
        Counter(t.info.spec.method for t in quantized),
        equalized=sum(t.equalization > 0 for t in quantized),
        by_time=sum(t.time_groups > 0 for t in quantized),
    )


def _tensor_result(tensor: core.TensorReport) -> TensorResult:
    info = tensor.info
    spec = info.spec if info.encoding != "copy" else None
    return TensorResult(
        component=tensor.component,
        name=info.name,
        shape=tuple(info.shape),
        bit_width=spec.bit_width if spec else None,
        group_size=spec.group_size if spec else None,
        param_encoding=spec.param_encoding if spec else None,
        cosine=info.cosine,
        nmse=info.nmse,
        stored_bytes=tensor.stored_bytes,
        reason=tensor.reason,
        method=spec.method if spec else None,
        output_cosine=info.output_cosine,
        output_nmse=info.output_nmse,
        candidates=tuple(json.loads(info.candidates or "[]")),
        equalized=tensor.equalization > 0,
        folded=tensor.folded,
        divided=tensor.divided,
        time_groups=tensor.time_groups,
    )
