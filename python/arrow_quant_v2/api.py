"""The quantizer: one object, the calls of the contract."""

from __future__ import annotations

import functools
import os
from collections.abc import Callable, Mapping, Sequence
from typing import Any, Literal, ParamSpec, TypeVar, overload

from arrow_quant_v2.batch import Job, quantize_many
from arrow_quant_v2.caller_warnings import warn_caller
from arrow_quant_v2.config.settings import DiffusionQuantConfig, checked_config, with_settings
from arrow_quant_v2.errors import ConfigurationError
from arrow_quant_v2.paths import StrPath
from arrow_quant_v2.plan.model_plan import ModelPlan
from arrow_quant_v2.progress import ProgressCallback, check_callback
from arrow_quant_v2.quantize import array_quantizer
from arrow_quant_v2.quantize.result import QuantizationResult, ValidationResult
from arrow_quant_v2.quantize.run import plan_files, quantize_files
from arrow_quant_v2.tensors.tensor import QuantizedTensor
from arrow_quant_v2.validate import validate_quality

__all__ = ["ArrowQuantV2"]

_Arguments = ParamSpec("_Arguments")
_Result = TypeVar("_Result")


def _no_v1_call(quantize: Callable[_Arguments, _Result]) -> Callable[_Arguments, _Result]:
    """Name the V2 form of V1's ``quantize(model_path, output_path, config)``."""

    @functools.wraps(quantize)
    def checked(*args: _Arguments.args, **settings: _Arguments.kwargs) -> _Result:
        paths = [value for value in args[2:] if isinstance(value, (str, os.PathLike))]
        if paths or len(args) > 3 or settings.keys() & {"model_path", "output_path", "config"}:
            raise TypeError(
                "quantize() takes weights and a bit width; a model is quantized with "
                "quantize_diffusion_model(model_path, output_path, config)\n"
                "V1's quantize(model_path, output_path, config) lives in arrow_quant_v2.v1."
            )
        return quantize(*args, **settings)

    return checked


class ArrowQuantV2:
    """Quantizes models and arrays.

    Parameters
    ----------
    mode
        ``"diffusion"``, or ``"base"`` for the plain method without time-aware and spatial parts.

    Examples
    --------
    >>> from arrow_quant_v2 import ArrowQuantV2, DiffusionQuantConfig
    >>> quantizer = ArrowQuantV2(mode="diffusion")
    >>> result = quantizer.quantize_diffusion_model(
    ...     "model/", "quantized/", DiffusionQuantConfig(bit_width=4)
    ... )  # doctest: +SKIP
    """

    def __init__(self, mode: Literal["diffusion", "base"] = "diffusion") -> None:
        if mode not in ("diffusion", "base"):
            raise ConfigurationError(f"Invalid mode: {mode!r}. Must be 'diffusion' or 'base'.")
        self._mode = mode

    @property
    def mode(self) -> str:
        """``"diffusion"`` or ``"base"``."""
        return self._mode

    def __repr__(self) -> str:
        return f"ArrowQuantV2(mode={self._mode!r})"

    def quantize_diffusion_model(
        self,
        model_path: StrPath,
        output_path: StrPath,
        config: DiffusionQuantConfig | None = None,
        progress_callback: ProgressCallback | None = None,
        *,
        statistics: StrPath | None = None,
        calibration_data: Any = None,
    ) -> QuantizationResult:
        """Quantize a model into a directory of packed Parquet weights.

        Parameters
        ----------
        model_path
            A diffusers pipeline, a component directory, or a weight file: safetensors, or a state
            dict that torch saved, which is read without running anything in it.
        output_path
            Directory to create; an artefact of ours at that path is replaced, in one step.
        config
            What to do; None takes the defaults.
        progress_callback
            Called with a message and a fraction from 0 to 1 that never decreases, on this thread.
            An exception that it raises stops the run and comes out of this call.
        statistics
            A file that :meth:`CalibrationStatistics.save` wrote for this model: what enters its
            layers. With it, each layer gets the method whose outputs move least on inputs that were
            held out, and the accuracy of the result is that of outputs. None: the model runs first,
            on ``config.calibration_samples`` samples, where its class is known and its library is
            installed; the result's ``calibration`` and ``calibration_reason`` say what happened.
        calibration_data
            What the model runs on: see :func:`arrow_quant_v2.torch.capture`. None: neutral inputs.

        Returns
        -------
        QuantizationResult
            Sizes in MB, errors, and what was done. Its warnings have been issued.

        Raises
        ------
        ShapeMismatchError
            The statistics are of another model.
        ArrowQuantError
            Another of its subclasses; the output path is as it was before in any case.
        """
        result = quantize_files(
            model_path,
            output_path,
            self._checked(config),
            overwrite=True,
            progress_callback=progress_callback,
            statistics=statistics,
            calibration_data=calibration_data,
            is_diffusion=self._mode == "diffusion",
        )
        for warning in result["warnings"]:
            warn_caller(warning)
        return result

    def quantize_model(
        self,
        model_path: StrPath,
        output_path: StrPath,
        config: DiffusionQuantConfig | None = None,
        progress_callback: ProgressCallback | None = None,
        *,
        statistics: StrPath | None = None,
        calibration_data: Any = None,
    ) -> QuantizationResult:
        """Quantize any model.

        Parameters are those of :meth:`quantize_diffusion_model`, and so are result and errors.
        """
        return self.quantize_diffusion_model(
            model_path,
            output_path,
            config,
            progress_callback,
            statistics=statistics,
            calibration_data=calibration_data,
        )

    def quantize_many(
        self, jobs: Sequence[Job], progress_callback: ProgressCallback | None = None
    ) -> list[QuantizationResult | Exception]:
        """Quantize several models, one after the other.

        Parameters
        ----------
        jobs
            ``(model_path, output_path, config)`` tuples; the configuration may be None or absent.
        progress_callback
            Called with a message that names the model and the fraction of all jobs that is done.
            An exception that it raises stops the run and comes out of this call.

        Returns
        -------
        list of QuantizationResult or Exception
            In the order of `jobs`. A job that failed has its exception there; the others go on.

        Raises
        ------
        ConfigurationError
            A job is not of the right form, or two write to one path. Nothing has been done then.
        """
        return quantize_many(self.quantize_diffusion_model, jobs, progress_callback)

    def plan(
        self,
        model_path: StrPath,
        config: DiffusionQuantConfig | None = None,
        progress_callback: ProgressCallback | None = None,
        *,
        statistics: StrPath | None = None,
        calibration_data: Any = None,
    ) -> ModelPlan:
        """Say what will happen to every tensor of a model, and why. Writes nothing.

        This reads only the headers of the model, unless `config` has a target. With a target, bits
        follow from measurements. They need calibration (or `statistics`), a trial at every width,
        and runs of the model.

        Parameters
        ----------
        model_path, config, statistics, calibration_data
            As for :meth:`quantize_diffusion_model`.
        progress_callback
            Called with a message and a fraction from 0 to 1.

        Returns
        -------
        ModelPlan
            One entry per tensor, and what is known of the model.

        Raises
        ------
        ArrowQuantError
            One of its subclasses.
        """
        return plan_files(
            model_path,
            self._checked(config),
            progress_callback=progress_callback,
            statistics=statistics,
            calibration_data=calibration_data,
        )

    @overload
    def quantize(
        self, weights: Mapping[str, Any] | StrPath, bit_width: int = 4, **settings: Any
    ) -> dict[str, QuantizedTensor]: ...

    @overload
    def quantize(self, weights: Any, bit_width: int = 4, **settings: Any) -> QuantizedTensor: ...

    @_no_v1_call
    def quantize(
        self,
        weights: Any,
        bit_width: int = 4,
        *,
        importance: Any = None,
        progress_callback: ProgressCallback | None = None,
        **settings: Any,
    ) -> QuantizedTensor | dict[str, QuantizedTensor]:
        """Quantize arrays in memory.

        Parameters
        ----------
        weights
            An array (numpy, torch, DLPack), a mapping from names to arrays, or the path of a
            safetensors file. In a mapping or file, arrays of at least two dimensions are quantized
            and the others kept.
        bit_width
            2, 4, or 8.
        importance
            One weight per column (input) of a single array: errors in columns of high importance
            cost more.
        progress_callback
            Called with a message and a fraction.
        **settings
            Fields of :class:`DiffusionQuantConfig`, such as ``group_size``.

        Returns
        -------
        QuantizedTensor or dict of str to QuantizedTensor
            One tensor for an array, one per name otherwise.
        """
        check_callback(progress_callback)
        config = DiffusionQuantConfig(bit_width=bit_width, **settings)  # type: ignore[arg-type]
        if config.target is not None:
            raise ConfigurationError(
                f"{config.target[0]} is for models, not for arrays",
                hint="Use quantize_diffusion_model.",
            )
        if config.fold_equalization:
            raise ConfigurationError(
                "fold_equalization is for models, not for arrays: it needs calibration",
                hint="Use quantize_diffusion_model.",
            )
        if not isinstance(weights, (Mapping, str, os.PathLike)):
            return array_quantizer.quantize_array(
                weights, config, importance=importance, progress_callback=progress_callback
            )
        if importance is not None:
            raise ConfigurationError("importance: expected None unless weights is a single array")
        if isinstance(weights, Mapping):
            return array_quantizer.quantize_arrays(weights, config, progress_callback)
        return array_quantizer.quantize_file(weights, config, progress_callback)

    def validate_quality(
        self,
        original_path: StrPath,
        quantized_path: StrPath,
        config: DiffusionQuantConfig | None = None,
        *,
        level: Literal["weights", "outputs"] = "weights",
        min_accuracy: float | None = None,
        num_threads: int = 0,
        progress_callback: ProgressCallback | None = None,
    ) -> ValidationResult:
        """Check an artefact and compare it with the model that it was made from.

        The hash of every file is checked, and every tensor is looked up by its name. Tensors that
        are not quantized must be equal bit for bit. Quantized ones are compared by cosine
        similarity, NMSE and SQNR.

        Parameters
        ----------
        original_path, quantized_path
            The model and the artefact.
        config
            Its ``validation_thresholds`` has the mean cosine similarity to reach, by the narrowest
            codes of the artefact; None takes 0.70, 0.90 or
            0.95 for 2, 4 or 8 bits.
        level
            ``"weights"``, or ``"outputs"`` to run both models as well. Both get the same samples
            of the original's own trajectories, and their outputs are compared by diffusion time.
            This needs torch and the library of the model. Outputs must reach the threshold too.
        min_accuracy
            Overrides the threshold.
        num_threads
            Threads to use; 0 takes those of `config`, or all cores.
        progress_callback
            Called with a message and a fraction.

        Returns
        -------
        ValidationResult
            ``passed`` is false when the mean cosine similarity is below the threshold or when
            tensors are missing, extra or different; ``problems`` says which. Mean and worst are
            both there; the threshold is for the mean.

        Raises
        ------
        ValidationError
            The artefact is damaged.
        ConfigurationError
            The models cannot be run, at level ``"outputs"``.
        """
        return validate_quality(
            original_path,
            quantized_path,
            self._checked(config),
            level=level,
            min_accuracy=min_accuracy,
            num_threads=num_threads,
            progress_callback=progress_callback,
        )

    def _checked(self, config: DiffusionQuantConfig | None) -> DiffusionQuantConfig:
        config = checked_config(config)
        if self._mode == "base":
            return with_settings(config, enable_time_aware=False, enable_spatial=False)
        return config
