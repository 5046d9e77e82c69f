"""The quantizer for programs that run an asyncio loop."""

from __future__ import annotations

import asyncio
import contextvars
import threading
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from typing import Any, Literal, TypeVar

from arrow_quant_v2.api import ArrowQuantV2
from arrow_quant_v2.batch import Job
from arrow_quant_v2.caller_warnings import held_warnings, warn_caller
from arrow_quant_v2.config.settings import DiffusionQuantConfig
from arrow_quant_v2.paths import StrPath
from arrow_quant_v2.plan.model_plan import ModelPlan
from arrow_quant_v2.progress import ProgressCallback
from arrow_quant_v2.quantize.result import QuantizationResult, ValidationResult
from arrow_quant_v2.tensors.tensor import QuantizedTensor

__all__ = ["AsyncArrowQuantV2"]

_Returned = TypeVar("_Returned")


class _Stopped(BaseException):
    """The task that waits for the run does not want it any more."""


class _Watch:
    """The progress callback of a run in another thread: it tells the loop, and it can stop the run.

    The engine calls :meth:`poll` several times a second.
    """

    def __init__(self, callback: ProgressCallback | None) -> None:
        self._callback = callback
        self._loop = asyncio.get_running_loop()
        self._stop = threading.Event()
        self.error: BaseException | None = None

    def stop(self) -> None:
        self._stop.set()

    def poll(self) -> None:
        if self._stop.is_set():
            raise _Stopped

    def __call__(self, message: str, fraction: float) -> None:
        self.poll()
        if self._callback is not None:
            self._loop.call_soon_threadsafe(self._tell, message, fraction)

    def _tell(self, message: str, fraction: float) -> None:
        if self._callback is None or self.error is not None:
            return
        try:
            self._callback(message, fraction)
        except BaseException as error:
            self.error = error
            self.stop()


class AsyncArrowQuantV2:
    """:class:`ArrowQuantV2` with calls to await. The loop goes on while the engine works.

    Every call takes and returns what its namesake of :class:`ArrowQuantV2` does.
    `progress_callback` runs on the loop's thread. An exception that it raises stops the run and
    comes out of the ``await``.
    Cancelling the task stops the engine within a fraction of a second. The ``await`` ends only when
    that has happened. No thread works on then. The output path is as it was before, or complete if
    the run had just ended.

    Parameters
    ----------
    mode
        ``"diffusion"`` or ``"base"``, as for :class:`ArrowQuantV2`.

    Examples
    --------
    >>> import asyncio
    >>> from arrow_quant_v2 import AsyncArrowQuantV2
    >>> async def run():
    ...     quantizer = AsyncArrowQuantV2(mode="diffusion")
    ...     return await quantizer.quantize_diffusion_model("model/", "quantized/")
    >>> result = asyncio.run(run())  # doctest: +SKIP
    """

    def __init__(self, mode: Literal["diffusion", "base"] = "diffusion") -> None:
        self._quantizer = ArrowQuantV2(mode)

    @property
    def mode(self) -> str:
        """``"diffusion"`` or ``"base"``."""
        return self._quantizer.mode

    def __repr__(self) -> str:
        return f"AsyncArrowQuantV2(mode={self.mode!r})"

    async def quantize_diffusion_model(
        self,
        model_path: StrPath,
        output_path: StrPath,
        config: DiffusionQuantConfig | None = None,
        progress_callback: ProgressCallback | None = None,
        **others: Any,
    ) -> QuantizationResult:
        """Quantize a model into a directory of packed Parquet weights.

        Parameters are those of :meth:`arrow_quant_v2.ArrowQuantV2.quantize_diffusion_model`;
        `others` are its further keyword arguments.
        """
        call = self._quantizer.quantize_diffusion_model
        return await _run(call, progress_callback, model_path, output_path, config, **others)

    async def quantize_model(
        self,
        model_path: StrPath,
        output_path: StrPath,
        config: DiffusionQuantConfig | None = None,
        progress_callback: ProgressCallback | None = None,
        **others: Any,
    ) -> QuantizationResult:
        """Quantize any model.

        Parameters are those of :meth:`arrow_quant_v2.ArrowQuantV2.quantize_diffusion_model`;
        `others` are its further keyword arguments.
        """
        call = self._quantizer.quantize_model
        return await _run(call, progress_callback, model_path, output_path, config, **others)

    async def quantize_many(
        self, jobs: Sequence[Job], progress_callback: ProgressCallback | None = None
    ) -> list[QuantizationResult | Exception]:
        """Quantize several models, one after the other. A failure is that model's result.

        Parameters are those of :meth:`arrow_quant_v2.ArrowQuantV2.quantize_many`.
        """
        return await _run(self._quantizer.quantize_many, progress_callback, jobs)

    async def quantize(
        self,
        weights: Any,
        bit_width: int = 4,
        *,
        progress_callback: ProgressCallback | None = None,
        **settings: Any,
    ) -> QuantizedTensor | dict[str, QuantizedTensor]:
        """Quantize arrays in memory.

        Parameters are those of :meth:`arrow_quant_v2.ArrowQuantV2.quantize`; `settings` are fields
        of :class:`DiffusionQuantConfig`.
        """
        call: Callable[..., QuantizedTensor | dict[str, QuantizedTensor]] = self._quantizer.quantize
        return await _run(call, progress_callback, weights, bit_width, **settings)

    async def validate_quality(
        self,
        original_path: StrPath,
        quantized_path: StrPath,
        config: DiffusionQuantConfig | None = None,
        *,
        progress_callback: ProgressCallback | None = None,
        **others: Any,
    ) -> ValidationResult:
        """Check an artefact and compare it with the model that it was made from.

        Parameters are those of :meth:`arrow_quant_v2.ArrowQuantV2.validate_quality`; `others` are
        its further keyword arguments.
        """
        call = self._quantizer.validate_quality
        return await _run(call, progress_callback, original_path, quantized_path, config, **others)

    async def plan(
        self, model_path: StrPath, config: DiffusionQuantConfig | None = None
    ) -> ModelPlan:
        """Say what will happen to every tensor of a model, and why. Writes nothing.

        Parameters are those of :meth:`arrow_quant_v2.ArrowQuantV2.plan`.
        """
        return await asyncio.to_thread(self._quantizer.plan, model_path, config)


async def _run(
    call: Callable[..., _Returned],
    progress_callback: ProgressCallback | None,
    *args: Any,
    **kwargs: Any,
) -> _Returned:
    """Run `call` in a thread; returns or raises only when that thread is done with it."""
    watch = _Watch(progress_callback)
    cancelled: asyncio.CancelledError | None = None
    executor = ThreadPoolExecutor(1)  # of its own, so that the run never waits for others
    with held_warnings() as held:
        thread = partial(contextvars.copy_context().run, _guarded, call, watch, args, kwargs)
        work = asyncio.get_running_loop().run_in_executor(executor, thread)
        while not work.done():
            try:
                await asyncio.wait([work])
            except asyncio.CancelledError as error:
                cancelled = error
                watch.stop()
    executor.shutdown()  # at once: its only thread has nothing left to do
    returned, raised = work.result()
    for failure in (cancelled, watch.error, raised):
        if failure is not None:
            raise failure
    for message, category in held:
        warn_caller(message, category)
    return returned  # type: ignore[return-value]


def _guarded(
    call: Callable[..., _Returned],
    watch: _Watch,
    args: tuple[Any, ...],
    kwargs: Mapping[str, Any],
) -> tuple[_Returned | None, BaseException | None]:
    """What `call` returns and what it raises: a future takes no BaseException of ours."""
    try:
        return call(*args, progress_callback=watch, **kwargs), None
    except BaseException as error:
        return None, error
