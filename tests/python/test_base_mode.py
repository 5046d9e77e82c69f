"""Arrays in memory: every layout and origin, and the way back."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import ml_dtypes
import numpy as np
import pytest
from support import Array, gaussian, nmse, write_safetensors

from arrow_quant_v2 import (
    ArrowQuantV2,
    ConfigurationError,
    MetadataError,
    QuantizationError,
    QuantizedTensor,
    ShapeMismatchError,
)

WEIGHTS = gaussian(48, 200)


def quantize(weights: Any, bit_width: int = 4, **settings: Any) -> Any:
    return ArrowQuantV2(mode="base").quantize(weights, bit_width, **settings)


def misaligned(array: Array) -> Array:
    buffer = np.zeros(array.nbytes + 1, np.uint8)
    buffer[1:] = np.frombuffer(array.tobytes(), np.uint8)
    return np.frombuffer(buffer, array.dtype, offset=1).reshape(array.shape)


def read_only(array: Array) -> Array:
    copy = array.copy()
    copy.flags.writeable = False
    return copy


def strided(array: Array) -> Array:
    wide = np.zeros((array.shape[0], array.shape[1] * 2), array.dtype)
    wide[:, ::2] = array
    return wide[:, ::2]


LAYOUTS: dict[str, Callable[[Array], Array]] = {
    "fortran order": np.asfortranarray,
    "transposed": lambda a: np.ascontiguousarray(a.T).T,
    "strided": strided,
    "negative strides": lambda a: np.ascontiguousarray(a[::-1, ::-1])[::-1, ::-1],
    "big endian": lambda a: a.astype(">f4"),
    "read only": read_only,
    "misaligned": misaligned,
}


@pytest.mark.parametrize("layout", LAYOUTS)
def test_every_layout_gives_the_same_codes(layout: str) -> None:
    expected = quantize(WEIGHTS)
    array = LAYOUTS[layout](WEIGHTS)
    assert np.array_equal(array, WEIGHTS)
    found = quantize(array)
    assert found.codes.tobytes() == expected.codes.tobytes()
    np.testing.assert_array_equal(found.dequantize(), expected.dequantize())


def test_a_broadcast_array_is_read_as_what_it_shows() -> None:
    row = gaussian(1, 200)
    shown = np.broadcast_to(row, (8, 200))
    np.testing.assert_array_equal(
        quantize(shown).dequantize(), quantize(np.ascontiguousarray(shown)).dequantize()
    )


@pytest.mark.parametrize(
    "dtype",
    [np.float64, np.float16, ml_dtypes.bfloat16, ml_dtypes.float8_e4m3fn, ml_dtypes.float8_e5m2],
)
def test_every_float_type_is_read_exactly(dtype: Any) -> None:
    whole = np.random.default_rng(0).integers(-8, 9, (32, 128)).astype(np.float32)
    found = quantize(whole.astype(dtype))
    assert found.codes.tobytes() == quantize(whole).codes.tobytes()
    assert found.dequantize("source").dtype == np.dtype(dtype) or found.source_dtype[:2] == "F8"


def test_torch_tensors_are_taken_as_they_are() -> None:
    torch = pytest.importorskip("torch")
    expected = quantize(WEIGHTS)
    tensor = torch.from_numpy(WEIGHTS.copy())
    for given in (tensor, tensor.t().contiguous().t(), tensor.clone().requires_grad_()):
        assert quantize(given).codes.tobytes() == expected.codes.tobytes()
    half = quantize(tensor.to(torch.bfloat16))
    assert half.source_dtype == "BF16"
    native = quantize(WEIGHTS.astype(ml_dtypes.bfloat16))
    assert half.codes.tobytes() == native.codes.tobytes()
    with pytest.raises(TypeError, match="meta"):
        quantize(torch.empty(4, 4, device="meta"))
    with pytest.raises(TypeError, match="layout"):
        quantize(tensor.to_sparse())


def test_dlpack_arrays_are_taken() -> None:
    class Other:
        """An array of some other library."""

        def __dlpack__(self, **arguments: Any) -> Any:
            return WEIGHTS.__dlpack__(**arguments)

        def __dlpack_device__(self) -> tuple[int, int]:
            return WEIGHTS.__dlpack_device__()

    assert quantize(Other()).codes.tobytes() == quantize(WEIGHTS).codes.tobytes()

    class OnGpu(Other):
        def __dlpack_device__(self) -> tuple[int, int]:
            return (2, 0)

    with pytest.raises(TypeError, match="DLPack device type 2"):
        quantize(OnGpu())


@pytest.mark.parametrize(
    "weights",
    [
        None,
        [[1.0, 2.0]],
        3.0,
        object(),
        np.array(["a"]),
        np.array([object()]),
        np.zeros((4, 4), complex),
        np.zeros((4, 4), np.int32),
        np.zeros(4, [("a", "f4")]),
        np.ma.masked_array(np.zeros((4, 4), np.float32)),
        np.zeros((4, 4), np.longdouble),
    ],
)
def test_what_is_no_array_of_floats_is_a_type_error(weights: Any) -> None:
    with pytest.raises(TypeError, match="expected"):
        quantize(weights)


@pytest.mark.parametrize(
    "shape", [(), (1,), (7,), (1000,), (1, 1), (5, 3), (3, 4, 5), (2, 3, 4, 5), (2, 2, 2, 2, 2, 2)]
)
@pytest.mark.parametrize("bits", [2, 4, 8])
def test_any_shape_comes_back(shape: tuple[int, ...], bits: int) -> None:
    weights = np.asarray(gaussian(*shape), np.float32).reshape(shape)
    tensor = quantize(weights, bits)
    assert tensor.shape == shape
    assert tensor.bit_width == bits
    assert tensor.dequantize().shape == shape
    assert tensor.unpack().shape == shape
    assert np.asarray(tensor).dtype == np.float32
    assert nmse(weights, tensor.dequantize()) == pytest.approx(tensor.nmse, rel=1e-3, abs=1e-7)


@pytest.mark.parametrize("shape", [(0,), (0, 5), (5, 0)])
def test_an_empty_array_gives_an_empty_tensor(shape: tuple[int, ...]) -> None:
    tensor = quantize(np.zeros(shape, np.float32))
    assert tensor.shape == shape
    assert tensor.dequantize().shape == shape
    assert tensor.cosine == 1.0
    assert tensor.nmse == 0.0


def test_a_mapping_gives_a_mapping_and_keeps_what_has_no_codes() -> None:
    given = {
        "down.weight": gaussian(16, 256),
        "up.weight": gaussian(256, 16, dtype=np.float16),
        "alpha": np.float32(8.0),
        "bias": gaussian(16),
        "steps": np.arange(5, dtype=">i8"),
        "empty.weight": np.zeros((0, 4), np.float32),
    }
    seen: list[tuple[str, float]] = []
    found = quantize(given, 8, progress_callback=lambda m, f: seen.append((m, f)))
    assert list(found) == list(given)
    assert [name for name, _ in seen] == list(given)
    assert seen[-1][1] == 1.0
    for name in ("down.weight", "up.weight"):
        assert found[name].bit_width == 8
        assert found[name].name == name
    for name in ("alpha", "bias", "steps", "empty.weight"):
        assert not found[name].is_quantized
        assert found[name].bit_width is None
        np.testing.assert_array_equal(np.asarray(found[name]), given[name])
    with pytest.raises(TypeError, match="names as keys"):
        quantize({1: WEIGHTS})


def test_a_torch_state_dict_is_a_mapping() -> None:
    torch = pytest.importorskip("torch")
    layer = torch.nn.Linear(128, 32)
    found = quantize(layer.state_dict())
    assert found["weight"].bit_width == 4
    assert not found["bias"].is_quantized
    np.testing.assert_array_equal(np.asarray(found["bias"]), layer.bias.detach().numpy())


def test_a_lora_file_is_quantized_and_comes_back(tmp_path: Path) -> None:
    given = {
        "unet.to_q.lora_down.weight": gaussian(8, 320, dtype=np.float16),
        "unet.to_q.lora_up.weight": gaussian(320, 8, dtype=np.float16),
        "unet.to_q.alpha": np.array(8.0, np.float32),
        "unet.scale.weight": gaussian(4, 64, dtype=ml_dtypes.bfloat16),
    }
    path = write_safetensors(tmp_path / "lora.safetensors", given)
    from_file, from_arrays = quantize(path, 8), quantize(given, 8)
    assert list(from_file) == list(given)
    for name, tensor in from_file.items():
        assert tensor.source_dtype == from_arrays[name].source_dtype
        assert tensor.codes.tobytes() == from_arrays[name].codes.tobytes()
    (tmp_path / "bad.safetensors").write_bytes(b"\x80\x04pickle")
    with pytest.raises(MetadataError):
        quantize(tmp_path / "bad.safetensors")


def test_importance_moves_the_error_away_from_columns_that_matter() -> None:
    importance = np.ones(200)
    importance[:50] = 100
    plain, weighted = quantize(WEIGHTS, 2), quantize(WEIGHTS, 2, importance=importance)

    def error(tensor: QuantizedTensor) -> float:
        return float(((tensor.dequantize() - WEIGHTS)[:, :50] ** 2).sum())

    assert error(weighted) < error(plain)
    with pytest.raises(ShapeMismatchError, match="200 columns"):
        quantize(WEIGHTS, importance=np.ones(3))
    with pytest.raises(ConfigurationError, match="finite"):
        quantize(WEIGHTS, importance=np.full(200, np.nan))
    with pytest.raises(ConfigurationError, match="single array"):
        quantize({"a": WEIGHTS}, importance=importance)


def test_settings_reach_the_engine() -> None:
    tensor = quantize(WEIGHTS, 4, group_size=32, param_encoding="fp16", method="rtn")
    assert (tensor.group_size, tensor.param_encoding) == (32, "fp16")
    assert tensor.row_scales is None
    with pytest.raises(ConfigurationError, match="int8"):
        tensor.as_int8()
    with pytest.raises(ConfigurationError, match="Invalid bit_width: 3"):
        quantize(WEIGHTS, 3)
    with pytest.raises(ConfigurationError, match="multiple of 32"):
        quantize(WEIGHTS, 4, group_size=40, param_encoding="two_level")
    with pytest.raises(ConfigurationError, match="row"):
        quantize(WEIGHTS, 4, param_encoding="row")
    with pytest.raises(ConfigurationError, match="Unknown setting"):
        quantize(WEIGHTS, bits=4)
    assert quantize(WEIGHTS, method="search").nmse < quantize(WEIGHTS, method="rtn").nmse


def test_more_bits_are_better() -> None:
    errors = [quantize(WEIGHTS, bits).nmse for bits in (2, 4, 8)]
    assert errors[0] > 10 * errors[1] > 100 * errors[2]


@pytest.mark.parametrize("bad", [np.nan, np.inf, -np.inf])
def test_values_that_are_not_finite_are_an_error(bad: float) -> None:
    weights = WEIGHTS.copy()
    weights[1, 2] = bad
    with pytest.raises(QuantizationError, match="element 202"):
        quantize(weights)


def test_dequantize_writes_where_it_is_told() -> None:
    tensor = quantize(WEIGHTS)
    expected = tensor.dequantize()
    for dtype in ("float32", "float16", "float64", "bfloat16"):
        values = tensor.dequantize(dtype)
        out = np.empty(values.shape, values.dtype)
        assert tensor.dequantize(dtype, out=out) is out
        np.testing.assert_array_equal(out, expected.astype(values.dtype))
    for out in (np.empty((3, 3), np.float32), np.empty(WEIGHTS.shape, np.float16)):
        with pytest.raises(ShapeMismatchError, match="'out'"):
            tensor.dequantize(out=out)
    with pytest.raises(ShapeMismatchError, match="read-only"):
        tensor.dequantize(out=read_only(expected))
    with pytest.raises(ShapeMismatchError):
        tensor.dequantize(out=np.empty((200, 48), np.float32).T)
    with pytest.raises(ConfigurationError, match="Invalid dtype"):
        tensor.dequantize("int8")


def test_a_kept_tensor_says_what_it_cannot_do() -> None:
    kept = quantize({"bias": gaussian(8), "w": WEIGHTS})["bias"]
    assert "kept as F32" in repr(kept)
    for method in (kept.unpack, kept.as_int8):
        with pytest.raises(ConfigurationError, match="kept"):
            method()
    assert kept.dequantize("float16").dtype == np.float16


def test_other_threads_run_while_the_engine_works() -> None:
    weights = gaussian(2048, 4096)
    seen: list[float] = []
    done = threading.Event()

    def watch() -> None:
        while not done.is_set():
            seen.append(time.monotonic())
            time.sleep(0.001)

    watcher = threading.Thread(target=watch)
    watcher.start()
    start = time.monotonic()
    quantize(weights, 2, num_threads=1)
    end = time.monotonic()
    done.set()
    watcher.join()
    assert len([moment for moment in seen if start < moment < end]) > 5


def test_progress_and_its_exceptions_reach_single_arrays() -> None:
    seen: list[float] = []
    quantize(WEIGHTS, progress_callback=lambda message, fraction: seen.append(fraction))
    assert seen[-1] == 1.0

    def stop(message: str, fraction: float) -> None:
        raise LookupError("stop")

    with pytest.raises(LookupError, match="stop"):
        quantize(WEIGHTS, progress_callback=stop)
