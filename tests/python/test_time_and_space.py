"""Equalization and groups of time: kept where they pay, the same function, read back exactly."""

from __future__ import annotations

import itertools
import warnings
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest
from format_reference import decode_file
from safetensors.numpy import load_file
from support import gaussian, write_safetensors

from arrow_quant_v2 import (
    ArrowQuantV2,
    CalibrationStatistics,
    DiffusionQuantConfig,
    QuantizationResult,
    export_safetensors,
    open_quantized,
)

WEIGHTS = "diffusion_pytorch_model.safetensors"
LINEAR, CONV = "mid.linear.weight", "mid.conv.weight"
BIAS = "mid.linear.bias"
TIMES = tuple(range(25, 1000, 50))

Floats = npt.NDArray[np.float32]


def loud_channels(channels: int) -> Floats:
    """A few channels are far larger than the others."""
    scale = np.ones(channels, np.float32)
    scale[:: max(2, channels // 6)] = 40
    return scale


def inputs(timestep: float, tokens: int, channels: int, span: int, seed: int) -> Floats:
    """Tokens whose means move with time; channel j of a kernel of `span` positions is j // span."""
    rng = np.random.default_rng([seed, int(timestep)])
    drift = np.random.default_rng(5).standard_normal(channels).astype(np.float32)
    means = drift * np.float32(3 * np.cos(timestep / 160))
    x = rng.standard_normal((tokens, channels * span), dtype=np.float32)
    return (x + means.repeat(span)) * loud_channels(channels).repeat(span)


def statistics_of(path: Path, weights: dict[str, Floats]) -> Path:
    statistics = CalibrationStatistics()
    for name, weight in weights.items():
        number = statistics.add_input({name: weight})
        span = int(np.prod(weight.shape[2:]))
        for timestep in TIMES:
            for seed, held_out in ((1, False), (2, True)):
                x = inputs(timestep, 120, weight.shape[1], span, seed)
                statistics.add(number, x, timestep, held_out=held_out)
    statistics.save(path)
    return path


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    """A linear layer with a bias, a convolution without, and what enters them."""
    folder = tmp_path_factory.mktemp("model")
    weights = {LINEAR: gaussian(96, 1024, seed=1), CONV: gaussian(96, 64, 3, 3, seed=2)}
    # Where inputs are loud, weights are small, as training makes them.
    weights[LINEAR] /= loud_channels(1024)
    weights[CONV] /= loud_channels(64)[:, None, None]
    write_safetensors(folder / "m" / WEIGHTS, {**weights, BIAS: gaussian(96, seed=3)})
    return folder / "m", statistics_of(folder / "statistics", weights)


def quantize(model: tuple[Path, Path], out: Path, **settings: Any) -> QuantizationResult:
    common = {"min_accuracy": 0.0, "group_size": 64, "bit_width": 4, "modality": "image"}
    config = DiffusionQuantConfig(**{**common, **settings})
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        return ArrowQuantV2().quantize_diffusion_model(model[0], out, config, statistics=model[1])


def plain(model: tuple[Path, Path], out: Path, **settings: Any) -> QuantizationResult:
    return quantize(model, out, enable_spatial=False, enable_time_aware=False, **settings)


def test_equalization_is_kept_where_it_lowers_the_error(
    model: tuple[Path, Path], tmp_path: Path
) -> None:
    without = plain(model, tmp_path / "a", method="rtn")
    with_factors = quantize(model, tmp_path / "b", method="rtn", enable_time_aware=False)
    assert all(t.equalized for t in with_factors.tensors if t.bit_width)
    assert with_factors["output_nmse"] < 0.5 * without["output_nmse"]
    spatial = open_quantized(tmp_path / "b").metadata["spatial_quant"]
    assert spatial["enabled"] is True
    assert spatial["equalized_layers"] == [LINEAR, CONV]
    assert len(spatial["equalization_scales"]) == 2
    off = open_quantized(tmp_path / "a").metadata["spatial_quant"]
    assert (off["enabled"], "reason" in off) == (False, True)


def test_factors_change_the_rounding_and_not_the_function(
    model: tuple[Path, Path], tmp_path: Path
) -> None:
    quantize(model, tmp_path / "out", bit_width=8, method="rtn", enable_time_aware=False)
    original = load_file(model[0] / WEIGHTS)
    quantized = open_quantized(tmp_path / "out")
    for name, channels in ((LINEAR, 1024), (CONV, 64)):
        tensor = quantized[name]
        factors = tensor.equalization
        if factors is None:
            continue
        assert factors.shape == (channels,)
        assert (factors > 0).all()
        assert np.log(factors).mean() == pytest.approx(0, abs=0.05)
        restored = tensor.dequantize()
        assert tensor.nmse == pytest.approx(
            ((restored - original[name]) ** 2).sum() / (original[name] ** 2).sum(), rel=1e-3
        )
        matrix, scales = tensor.as_int8()
        spread = factors.repeat(matrix.shape[1] // channels)
        # Codes times the inputs divided by the factors are the layer itself.
        x = gaussian(7, matrix.shape[1], seed=9)
        by_codes = (x / spread) @ (matrix * scales[:, None]).T
        by_weights = x @ restored.reshape(len(restored), -1).T
        np.testing.assert_allclose(by_codes, by_weights, rtol=1e-3, atol=1e-3)
    decoded = decode_file(tmp_path / "out" / "weights.parquet")
    for name, tensor in quantized.items():
        np.testing.assert_array_equal(decoded[name], np.asarray(tensor))


def test_validation_sees_through_the_factors(model: tuple[Path, Path], tmp_path: Path) -> None:
    result = quantize(model, tmp_path / "out", method="rtn")
    found = ArrowQuantV2().validate_quality(model[0], tmp_path / "out", min_accuracy=0.9)
    assert found["passed"]
    by_name = {t["name"]: t["nmse"] for t in found["tensors"]}
    for tensor in result.tensors:
        assert by_name[tensor.name] == pytest.approx(tensor.nmse, rel=1e-5)


def test_biases_by_time_make_up_for_the_mean_error(
    model: tuple[Path, Path], tmp_path: Path
) -> None:
    without = plain(model, tmp_path / "a", method="search")
    with_time = quantize(model, tmp_path / "b", method="search", enable_spatial=False)
    errors = {t.name: t.output_nmse for t in without.tensors}
    linear = next(t for t in with_time.tensors if t.name == LINEAR)
    assert linear.time_groups > 1
    assert linear.output_nmse is not None
    assert linear.output_nmse < 0.5 * errors[LINEAR]
    conv = next(t for t in with_time.tensors if t.name == CONV)
    assert conv.time_groups == 0, "it has no bias that others could take the correction up in"

    tensor = open_quantized(tmp_path / "b")[LINEAR]
    weight, restored = load_file(model[0] / WEIGHTS)[LINEAR], tensor.dequantize()
    error = energy = 0.0
    for timestep in TIMES:
        x = inputs(timestep, 120, 1024, 1, seed=2).astype(np.float64)
        (group,) = [g for g in tensor.time_groups if g.begin <= timestep < g.end]
        assert group.output_bias is not None
        y = x @ weight.T
        error += ((x @ restored.T + group.output_bias - y) ** 2).sum()
        energy += (y**2).sum()
    assert linear.output_nmse == pytest.approx(error / energy, rel=5e-3)
    metadata = open_quantized(tmp_path / "b").metadata["time_aware_quant"]
    assert metadata["enabled"] is True
    assert metadata["num_time_groups"] == linear.time_groups == len(metadata["time_group_params"])
    edges = [g["time_range"] for g in metadata["time_group_params"]]
    assert all(a[1] == b[0] for a, b in itertools.pairwise(edges))


def test_an_export_takes_the_mean_correction_up_in_the_bias(
    model: tuple[Path, Path], tmp_path: Path
) -> None:
    quantize(model, tmp_path / "out", method="search", enable_spatial=False)
    (file,) = export_safetensors(tmp_path / "out", tmp_path / "export").glob("*.safetensors")
    exported = load_file(file)
    correction = open_quantized(tmp_path / "out")[LINEAR].mean_output_bias
    assert correction is not None
    original = load_file(model[0] / WEIGHTS)
    np.testing.assert_allclose(exported[BIAS], original[BIAS] + correction, rtol=1e-6)


@pytest.mark.parametrize("groups", [1, 4])
def test_static_activations_get_a_range_for_each_group(
    groups: int, model: tuple[Path, Path], tmp_path: Path
) -> None:
    quantize(model, tmp_path / "out", activation_bits=8, num_time_groups=groups)
    for tensor in open_quantized(tmp_path / "out").values():
        if not tensor.is_quantized:
            continue
        assert len(tensor.time_groups) in (1, groups)
        channels = tensor.shape[1]
        span = int(np.prod(tensor.shape[2:]))
        factors = np.ones(channels) if tensor.equalization is None else tensor.equalization
        for timestep in TIMES:
            (group,) = [g for g in tensor.time_groups if g.begin <= timestep < g.end]
            x = inputs(timestep, 120, channels, span, seed=1) / factors.repeat(span)
            codes = np.round(x / group.activation_scale) + group.activation_zero
            clipped = (codes < -128.5) | (codes > 127.5)
            assert clipped.mean() < 0.01
    everywhere = [g.activation_scale for g in open_quantized(tmp_path / "out")[LINEAR].time_groups]
    assert min(everywhere) > 0


def test_static_activations_have_one_range_where_nothing_depends_on_time(
    model: tuple[Path, Path], tmp_path: Path
) -> None:
    plain(model, tmp_path / "out", activation_bits=8)
    quantized = open_quantized(tmp_path / "out")
    for name in (LINEAR, CONV):
        (group,) = quantized[name].time_groups
        assert group.activation_scale > 0
        assert group.output_bias is None
        assert group.begin <= min(TIMES)
        assert group.end >= max(TIMES)
    off = quantized.metadata["time_aware_quant"]
    assert off == {"enabled": False, "reason": "enable_time_aware is false"}


def test_switches_turn_everything_off(model: tuple[Path, Path], tmp_path: Path) -> None:
    plain(model, tmp_path / "out", bit_width=2)
    for tensor in open_quantized(tmp_path / "out").values():
        assert tensor.equalization is None
        assert tensor.time_groups == ()


def test_bytes_do_not_depend_on_threads(model: tuple[Path, Path], tmp_path: Path) -> None:
    trees = []
    for threads in (1, 3):
        out = tmp_path / str(threads)
        quantize(model, out, bit_width=2, activation_bits=8, num_threads=threads)
        trees.append({f.name: f.read_bytes() for f in out.rglob("*") if f.is_file()})
    assert trees[0] == trees[1]


@pytest.fixture(scope="module")
def one_sensitive_layer(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    """Eight layers, of which the outputs of one are nearly the prediction."""
    folder = tmp_path_factory.mktemp("sensitive")
    weights = {f"layers.{i}.weight": gaussian(32, 64, seed=i) for i in range(8)}
    write_safetensors(folder / "m" / WEIGHTS, weights)
    path = statistics_of(folder / "statistics", weights)
    statistics = CalibrationStatistics.load(path)
    statistics.set_sensitivities(dict.fromkeys(weights, 1e-4) | {"layers.7.weight": 1.0})
    statistics.save(path, overwrite=True)
    return folder / "m", path


@pytest.mark.parametrize("activation", ["static", "dynamic"])
def test_the_few_layers_that_8_bits_would_spoil_keep_floating_point_inputs(
    activation: str, one_sensitive_layer: tuple[Path, Path], tmp_path: Path
) -> None:
    torch = pytest.importorskip("torch")
    from arrow_quant_v2.torch import load_quantized, timestep

    quantize(one_sensitive_layer, tmp_path / "out", bit_width=8, activation_bits=8)
    tensors = open_quantized(tmp_path / "out")
    assert [name for name, t in tensors.items() if t.float_inputs] == ["layers.7.weight"]
    assert not any(group.activation_scale for group in tensors["layers.7.weight"].time_groups)
    assert all(group.activation_scale for group in tensors["layers.0.weight"].time_groups)

    class Layers(torch.nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.layers = torch.nn.ModuleList(torch.nn.Linear(64, 32, bias=False) for _ in range(8))

    with warnings.catch_warnings():
        warnings.simplefilter("error")  # nothing is wrong with a layer like that
        model = load_quantized(tmp_path / "out", activation=activation, module=Layers())
    assert [layer.activation for layer in model.layers] == [*[activation] * 7, "none"]
    x = torch.from_numpy(inputs(500, 20, 64, 1, seed=3))
    with timestep(500):
        found = model.layers[7](x)
    weight = torch.from_numpy(tensors["layers.7.weight"].dequantize())
    assert float((found - x @ weight.T).norm() / found.norm()) < 1e-4
