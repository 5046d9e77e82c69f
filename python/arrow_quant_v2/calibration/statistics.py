"""Statistics of what enters the layers of a model, and the file that keeps them.

Whoever can run a model can collect them: hand over the activations of every layer as numpy arrays.
For torch modules :func:`arrow_quant_v2.torch.calibrate` does that.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
import numpy.typing as npt

from arrow_quant_v2._native import core
from arrow_quant_v2.errors import ConfigurationError, ShapeMismatchError
from arrow_quant_v2.paths import StrPath, path_bytes
from arrow_quant_v2.tensors.array_input import plain_array
from arrow_quant_v2.tensors.dtypes import FLOAT_NAMES

__all__ = ["CalibrationStatistics", "Fold", "FoldSource", "TimeStatistics"]


@dataclass(frozen=True)
class TimeStatistics:
    """One input over the tokens of a span of time.

    Attributes
    ----------
    begin, end
        Timesteps from `begin` up to, but not including, `end`.
    tokens
        How many rows of activations were seen.
    low, high, mean, variance
        One value per channel.
    """

    begin: float
    end: float
    tokens: int
    low: npt.NDArray[np.float32]
    high: npt.NDArray[np.float32]
    mean: npt.NDArray[np.float64]
    variance: npt.NDArray[np.float64]


@dataclass(frozen=True)
class FoldSource:
    """Consecutive rows of a parameter that make the channels of an input.

    Attributes
    ----------
    name
        Of the parameter, as in the weight file.
    row
        The first of them.
    offset
        What is added to each before it is used: 1 for the scale of an adaptive norm.
    """

    name: str
    row: int
    offset: float = 0.0


@dataclass(frozen=True)
class Fold:
    """Layers whose equalization scales can be fused into parameters before them.

    Rows p of all `sources` become (p + offset) / f - offset, with one scale f per channel. The
    input channels of all `layers` are multiplied by f. The network computes the same as before.

    Attributes
    ----------
    layers
        Weights of all layers that read the input.
    sources
        What makes it.
    """

    layers: tuple[str, ...]
    sources: tuple[FoldSource, ...]


class CalibrationStatistics:
    """Gram matrices, ranges and moments of the inputs of a model's layers.

    Statistics of one model add up (:meth:`merge`), so several runs or machines can share the work.
    A few weights of every layer are kept with them; they are refused for any other model.

    Parameters
    ----------
    component
        The component of the pipeline that the layers belong to; empty when there is one only.
    num_threads
        Threads to use; 0 means all cores.
    data
        ``"user"``: the samples are the user's; ``"neutral"``: they were made up.

    Examples
    --------
    >>> import numpy as np
    >>> from arrow_quant_v2 import CalibrationStatistics
    >>> statistics = CalibrationStatistics()
    >>> weight = np.eye(3, 4, dtype=np.float32)
    >>> number = statistics.add_input({"proj.weight": weight})
    >>> statistics.add(number, np.ones((10, 4), dtype=np.float32), timestep=500)
    >>> statistics.gram(number)[0].tolist()
    [10.0, 10.0, 10.0, 10.0]
    """

    def __init__(
        self,
        component: str = "",
        num_threads: int = 0,
        *,
        data: Literal["user", "neutral"] = "user",
    ) -> None:
        if not 0 <= num_threads <= 1024:
            raise ConfigurationError(
                f"Invalid num_threads: {num_threads!r}. Must be between 0 and 1024."
            )
        self._core = core.CalibrationStatistics(component, data, num_threads)

    @classmethod
    def load(cls, path: StrPath, num_threads: int = 0) -> CalibrationStatistics:
        """Read a file that :meth:`save` wrote.

        Parameters
        ----------
        path
            The file.
        num_threads
            Threads to use; 0 means all cores.

        Raises
        ------
        ModelNotFoundError, MetadataError, ValidationError
            The file is absent, of another kind, or damaged.
        """
        statistics = cls(num_threads=num_threads)
        statistics._core = core.CalibrationStatistics.load(path_bytes(path, "path"), num_threads)
        return statistics

    def save(self, path: StrPath, *, overwrite: bool = False) -> None:
        """Write everything to one Parquet file, in one step.

        Parameters
        ----------
        path
            The file to write.
        overwrite
            Replace an existing file.

        Raises
        ------
        OutputError
            The file exists and `overwrite` is false, or it cannot be written.
        """
        self._core.save(path_bytes(path, "path"), overwrite)

    def add_input(self, weights: Mapping[str, Any], *, block: int = 0) -> int:
        """Announce an input by the weights that multiply it.

        Parameters
        ----------
        weights
            Their names, as in the weight file, and the arrays: ``[out, in]``, or a convolution's
            ``[out, in, ...]``, whose input is unfolded to ``in * kernel`` channels.
        block
            Keep only diagonal blocks of this many channels of the Gram matrix, a multiple of 256;
            0 keeps all of it.

        Returns
        -------
        int
            The number of the input, for :meth:`add`.

        Raises
        ------
        ShapeMismatchError
            The weights differ in their number of inputs, or one of them is known already.
        """
        layers = [_layer(name, weight) for name, weight in weights.items()]
        channels = math.prod(layers[0].shape[1:]) if layers else 0
        return self._core.add_input(layers, channels, block)

    def add(
        self,
        input: int,
        activations: Any,
        timestep: float | npt.ArrayLike = 0.0,
        *,
        weight: float = 1.0,
        held_out: bool = False,
    ) -> None:
        """Add activations to an input's statistics.

        Parameters
        ----------
        input
            What :meth:`add_input` returned.
        activations
            An array of floats whose last dimension is the input's channels; each vector along it is
            a token.
        timestep
            Their diffusion time: a step, a noise level, or the ratio of masked tokens. One number
            for all, or an array with one for each token.
        weight
            How much they count in the Gram matrix.
        held_out
            Set them aside: they choose between methods and are not fitted to.

        Raises
        ------
        QuantizationError
            A value is NaN, infinite or beyond 1e15; nothing has been added.
        """
        array = plain_array(activations, "activations")
        if array.dtype not in FLOAT_NAMES:
            raise TypeError(f"expected floating-point activations; found an array of {array.dtype}")
        values = array.values.astype(np.float32, copy=False)
        if not array.shape or array.shape[-1] != self.channels(input):
            raise ShapeMismatchError(
                f"expected activations whose last dimension is {self.channels(input)}, "
                f"found shape {list(array.shape)}",
                tensor=self.layers(input)[0],
            )
        times = np.asarray(timestep, np.float64)
        if times.shape not in ((), array.shape[:-1]):
            raise ShapeMismatchError(
                f"expected one timestep, or an array of shape {list(array.shape[:-1])}, "
                f"found shape {list(times.shape)}",
                tensor=self.layers(input)[0],
            )
        times = np.ascontiguousarray(np.broadcast_to(times, array.shape[:-1])).reshape(-1)
        self._core.add(input, values, times, float(weight), held_out)

    def add_note(self, text: str) -> None:
        """Keep a remark, the one line `text`: what could not be observed, and why."""
        self._core.add_note(text)

    def set_folds(self, folds: Iterable[Fold]) -> None:
        """Say where equalization scales can be fused into parameters before the layers: `folds`."""
        self._core.set_folds(
            [
                core.Fold(
                    list(fold.layers),
                    [core.FoldSource(s.name, s.row, s.offset) for s in fold.sources],
                )
                for fold in folds
            ]
        )

    @property
    def folds(self) -> list[Fold] | None:
        """Where equalization scales can be fused; None if nobody looked."""
        found = self._core.folds
        if found is None:
            return None
        return [
            Fold(
                tuple(fold.layers),
                tuple(FoldSource(s.name, s.row, s.offset) for s in fold.sources),
            )
            for fold in found
        ]

    def set_sensitivities(self, sensitivities: Mapping[str, float]) -> None:
        """Say how much errors of layers change the prediction.

        `sensitivities` maps the name of a weight to the NMSE of the prediction divided by the NMSE
        of the layer's output.

        Raises
        ------
        ConfigurationError
            One is negative or not finite.
        """
        self._core.set_sensitivities(dict(sensitivities))

    @property
    def sensitivities(self) -> dict[str, float]:
        """What :meth:`set_sensitivities` was told; empty where nobody measured."""
        return self._core.sensitivities

    def set_roles(self, roles: Mapping[str, str]) -> None:
        """Say which weights are not to be quantized.

        `roles` maps the name of a weight to what it is to the network.
        """
        self._core.set_roles(dict(roles))

    @property
    def roles(self) -> dict[str, str]:
        """What :meth:`set_roles` was told; empty where nobody looked."""
        return self._core.roles

    def merge(self, other: CalibrationStatistics) -> None:
        """Add what `other` has seen.

        Folds are kept that both know. The sensitivity of a layer becomes the mean of all runs that
        measured it, whatever the order of merging.

        Raises
        ------
        ShapeMismatchError
            The two are not of the same model, or layers share their inputs differently.
        """
        self._core.merge(other._core)

    @property
    def component(self) -> str:
        """The component of the pipeline that the layers belong to."""
        return self._core.component

    @property
    def data(self) -> str:
        """``"user"``, or ``"neutral"`` when all samples were made up."""
        return self._core.data

    @property
    def notes(self) -> list[str]:
        """What could not be observed, and why."""
        return self._core.notes

    def __len__(self) -> int:
        return len(self._core)

    def __repr__(self) -> str:
        tokens = sum(self.tokens(number) for number in range(len(self)))
        return f"CalibrationStatistics({len(self)} inputs, {tokens} tokens)"

    def layers(self, input: int) -> list[str]:
        """Names of the weights that the input number `input` feeds."""
        return [layer.name for layer in self._core.layers(input)]

    def channels(self, input: int) -> int:
        """Channels of the input number `input`."""
        return self._core.channels(input)

    def tokens(self, input: int, *, held_out: bool = False) -> int:
        """Rows of activations that were added to `input`: fitted, or with `held_out` set aside."""
        return self._core.tokens(input, held_out)

    def gram(self, input: int, *, held_out: bool = False) -> npt.NDArray[np.float32]:
        """The Gram matrix sum x x^T of `input`, of shape ``[channels, channels]``.

        `held_out` takes that of the tokens that were set aside.
        """
        channels = self.channels(input)
        matrix = np.empty((channels, channels), dtype=np.float32)
        self._core.gram(input, held_out, matrix)
        return matrix

    def times(self, input: int) -> list[TimeStatistics]:
        """Statistics of `input` by time, in order: at most 64 spans of equal width."""
        result = []
        for span in self._core.bins(input):
            mean = span.sum / span.tokens
            variance = np.maximum(span.squares / span.tokens - mean**2, 0.0)
            result.append(
                TimeStatistics(
                    span.begin, span.end, span.tokens, span.low, span.high, mean, variance
                )
            )
        return result


def _layer(name: str, weight: Any) -> core.CalibratedLayer:
    array = plain_array(weight, name)
    if array.dtype not in FLOAT_NAMES:
        raise TypeError(f"{name}: expected floating-point weights; found an array of {array.dtype}")
    sample = array.values[core.weight_sample_positions(array.values.size)].astype(np.float32)
    return core.CalibratedLayer(name, list(array.shape), sample)
