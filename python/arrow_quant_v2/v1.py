"""The vocabulary of V1, for programs that move to V2 one call at a time.

Replace ``from arrow_quant import ArrowQuant`` by ``from arrow_quant_v2.v1 import ArrowQuant``:
calls, settings and result keep their V1 names, and every use warns with its V2 spelling.
``arrow-quant migrate FILE.py`` rewrites a whole program. No module called ``arrow_quant`` is
installed, so V1 itself may stay beside V2.
"""

from __future__ import annotations

import os
from collections.abc import Iterator, Mapping
from typing import Any, overload

from arrow_quant_v2.api import ArrowQuantV2
from arrow_quant_v2.caller_warnings import warn_caller
from arrow_quant_v2.config.settings import V1_NAMES, DiffusionQuantConfig, v2_spelling
from arrow_quant_v2.errors import ConfigurationError, QuantizationError
from arrow_quant_v2.paths import StrPath
from arrow_quant_v2.quantize.result import V1_KEYS, QuantizationResult
from arrow_quant_v2.tensors.tensor import QuantizedTensor

__all__ = ["ArrowQuant", "QuantizationError", "V1Result"]


class V1Result(Mapping[str, Any]):
    """A result under the keys of V1: ``path, compression, accuracy, size``.

    Each access warns with the V2 key. The keys of V2 work as well, so that a program can change
    them before its calls; `v2` is the whole V2 result.
    """

    def __init__(self, result: QuantizationResult) -> None:
        self.v2 = result

    def __getitem__(self, key: str) -> Any:
        new = V1_KEYS.get(key)
        if new is None:
            return self.v2[key]
        _deprecated(f"result[{key!r}]", f"result[{new!r}]")
        return self.v2[new]

    def __iter__(self) -> Iterator[str]:
        return iter(V1_KEYS)

    def __len__(self) -> int:
        return len(V1_KEYS)

    def __repr__(self) -> str:
        values = {old: self.v2[new] for old, new in V1_KEYS.items()}
        return f"V1Result({values})"


class ArrowQuant:
    """The quantizer of V1: plain quantization, no fallback to more bits.

    Examples
    --------
    >>> from arrow_quant_v2.v1 import ArrowQuant
    >>> quantizer = ArrowQuant()
    >>> result = quantizer.quantize("model/", "quantized/", {"bits": 4})  # doctest: +SKIP
    >>> result["size"]  # doctest: +SKIP
    """

    def __init__(self) -> None:
        _deprecated("ArrowQuant()", "ArrowQuantV2(mode='diffusion')")
        self._quantizer = ArrowQuantV2(mode="base")

    @overload
    def quantize(
        self,
        model_path: StrPath,
        output_path: StrPath,
        config: Mapping[str, Any] | None = None,
        **settings: Any,
    ) -> V1Result: ...

    @overload
    def quantize(
        self, model_path: Any, output_path: None = None, config: None = None, **settings: Any
    ) -> QuantizedTensor | dict[str, QuantizedTensor]: ...

    def quantize(
        self,
        model_path: Any,
        output_path: StrPath | None = None,
        config: Mapping[str, Any] | None = None,
        **settings: Any,
    ) -> V1Result | QuantizedTensor | dict[str, QuantizedTensor]:
        """Quantize a model, or arrays when there is no `output_path`.

        Parameters
        ----------
        model_path
            The model; or an array, or a mapping of arrays.
        output_path
            Directory to create.
        config
            Settings under their V1 or V2 names: ``bits, group_size, samples, min_acc, threads,
            strategy``.
        **settings
            The same as keyword arguments.

        Raises
        ------
        QuantizationError
            The accuracy was missed: V1 does not go on to more bits by itself.
        ConfigurationError
            A setting is unknown or invalid.
        """
        given = _settings(config, settings)
        if output_path is None:
            shown = v2_spelling(given, "quantize", "weights")
            _deprecated("ArrowQuant.quantize(weights)", f"ArrowQuantV2(mode='base').{shown}")
            tensors: QuantizedTensor | dict[str, QuantizedTensor] = self._quantizer.quantize(
                model_path, **_v2_names(given)
            )
            return tensors
        _deprecated(
            "quantize(model_path, output_path, ...)",
            "quantize_diffusion_model("
            f"{os.fspath(model_path)!r}, {os.fspath(output_path)!r}, {v2_spelling(given)})",
        )
        wanted = DiffusionQuantConfig(**{"fail_fast": True, **_v2_names(given)})
        return V1Result(self._quantizer.quantize_diffusion_model(model_path, output_path, wanted))


def _settings(config: Mapping[str, Any] | None, others: Mapping[str, Any]) -> dict[str, Any]:
    if config is not None and not isinstance(config, Mapping):
        raise ConfigurationError(
            f"config: expected a dict as in V1, found {type(config).__name__}",
            hint="A DiffusionQuantConfig goes to ArrowQuantV2().quantize_diffusion_model().",
        )
    given = {**(config or {}), **others}
    strategy = given.get("strategy")
    if strategy is not None and strategy not in ("r2q", "gptq"):
        raise ConfigurationError(
            f"Invalid strategy: {strategy!r}. Must be 'r2q' or 'gptq'.",
            hint="Leave it out: V2 chooses the method by the modality of the model.",
        )
    return given


def _v2_names(given: Mapping[str, Any]) -> dict[str, Any]:
    """The settings under their V2 names.

    Raises
    ------
    ConfigurationError
        One is given under both names.
    """
    renamed: dict[str, Any] = {}
    for name, value in given.items():
        new = V1_NAMES.get(name, name)
        if new in renamed:
            raise ConfigurationError(f"{new!r} is given twice, as {name!r} and under its V2 name")
        renamed[new] = value
    return renamed


def _deprecated(old: str, new: str) -> None:
    warn_caller(f"{old} is V1. V2: {new}", DeprecationWarning)
