"""calibrate(): any torch module runs, and what enters its layers is summed in weight order."""

from __future__ import annotations

from collections.abc import Iterator
from functools import partial
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional

from arrow_quant_v2 import (
    CalibrationStatistics,
    ConfigurationError,
    OutputError,
    QuantizationError,
)
from arrow_quant_v2 import torch as arrow_torch
from arrow_quant_v2.torch import Batch

pytestmark = [
    pytest.mark.filterwarnings("ignore:one calibration run gave fewer than"),
    pytest.mark.filterwarnings("ignore:Using padding='same' with even kernel lengths"),
]

#: What is summed is checked where every token counts the same.
calibrate = partial(arrow_torch.calibrate, time_aware=False)


def noise(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed))


def gram_of(statistics: CalibrationStatistics, name: str, *, held_out: bool = False) -> np.ndarray:
    return statistics.gram(number_of(statistics, name), held_out=held_out)


def number_of(statistics: CalibrationStatistics, name: str) -> int:
    return next(i for i in range(len(statistics)) if name in statistics.layers(i))


def assert_gram(found: np.ndarray, tokens: Tensor) -> None:
    expected = (tokens.T @ tokens).numpy()
    np.testing.assert_allclose(found, expected, rtol=1e-4, atol=1e-3 * np.abs(expected).max())


CONVOLUTIONS = {
    "stride and zeros": nn.Conv2d(3, 4, (3, 2), stride=2, padding=1),
    "dilation": nn.Conv2d(3, 4, 3, padding=2, dilation=2),
    "same": nn.Conv2d(3, 4, (2, 4), padding="same"),
    "valid": nn.Conv2d(3, 4, 3, padding="valid"),
    "circular": nn.Conv2d(3, 4, 3, padding=1, padding_mode="circular"),
    "one dimension": nn.Conv1d(3, 4, 5, padding=2),
    "three dimensions": nn.Conv3d(3, 4, (1, 3, 2), padding=(0, 1, 1)),
}


@pytest.mark.parametrize("name", CONVOLUTIONS)
def test_inputs_of_a_convolution_are_unfolded_in_the_order_of_its_weight(
    name: str, tmp_path: Path
) -> None:
    convolution = CONVOLUTIONS[name]
    dims = len(convolution.kernel_size)
    x = noise(4, 3, *(7, 6, 5)[:dims])
    calibrate(convolution, [((x,), {}, 0.0)], tmp_path / "s", held_out=False)
    statistics = CalibrationStatistics.load(tmp_path / "s")
    # The output for unit weights is the token, channel by channel.
    channels = statistics.channels(0)
    units = torch.eye(channels).reshape(channels, *convolution.weight.shape[1:])
    with torch.no_grad():
        tokens = convolution._conv_forward(x, units, None)
    assert_gram(statistics.gram(0), tokens.movedim(1, -1).reshape(-1, channels))


class Attention(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.to_q, self.to_k, self.to_v = (nn.Linear(8, 8) for _ in range(3))
        self.context = nn.Linear(6, 8)
        self.out = nn.Linear(8, 8)

    def forward(self, x: Tensor, context: Tensor) -> Tensor:
        q, k, v = self.to_q(x), self.to_k(x), self.to_v(x)
        mixed = functional.scaled_dot_product_attention(q, k, v) + self.context(context)
        x.add_(1.0)  # the same tensor, and no longer the same input
        return self.out(x) + mixed


def test_layers_with_the_same_input_share_one_matrix(tmp_path: Path) -> None:
    batches = [((noise(2, 5, 8, seed=i), noise(2, 1, 6, seed=i)), {}, i) for i in range(3)]
    clean = torch.cat([args[0].reshape(-1, 8).clone() for args, _, _ in batches])
    # The module changes its input, so every run of the batches needs its own copy.
    copies = [((Copied(args[0]), args[1]), kwargs, t) for args, kwargs, t in batches]
    module = Attention()
    calibrate(Copying(module), copies, tmp_path / "s", held_out=False)
    statistics = CalibrationStatistics.load(tmp_path / "s")
    groups = sorted(sorted(statistics.layers(i)) for i in range(len(statistics)))
    prefix = "module."
    assert groups == [
        [f"{prefix}context.weight"],
        [f"{prefix}out.weight"],
        [f"{prefix}to_k.weight", f"{prefix}to_q.weight", f"{prefix}to_v.weight"],
    ]
    assert_gram(gram_of(statistics, f"{prefix}to_q.weight"), clean)
    assert_gram(gram_of(statistics, f"{prefix}out.weight"), clean + 1.0)


class Copied:
    """A tensor that is copied for every call."""

    def __init__(self, tensor: Tensor) -> None:
        self.tensor = tensor


class Copying(nn.Module):
    def __init__(self, module: nn.Module) -> None:
        super().__init__()
        self.module = module

    def forward(self, x: Copied, context: Tensor) -> Tensor:
        result: Tensor = self.module(x.tensor.clone(), context)
        return result


def test_projections_inside_torch_attention_are_seen(tmp_path: Path) -> None:
    layer = nn.TransformerEncoderLayer(8, 2, 16, batch_first=True).eval()
    x = noise(3, 5, 8)
    run = calibrate(layer, [((x,), {}, 0.0)], tmp_path / "s", held_out=False)
    assert set(run.layers) == {
        "self_attn.in_proj_weight",
        "self_attn.out_proj.weight",
        "linear1.weight",
        "linear2.weight",
    }
    statistics = CalibrationStatistics.load(tmp_path / "s")
    assert_gram(gram_of(statistics, "self_attn.in_proj_weight"), x.reshape(-1, 8))
    with torch.no_grad():
        attended = layer.self_attn(x, x, x, need_weights=False)[0]
        weight, bias = layer.self_attn.out_proj.weight, layer.self_attn.out_proj.bias
        heads = torch.linalg.solve(weight.T, (attended - bias).reshape(-1, 8), left=False)
    assert_gram(gram_of(statistics, "self_attn.out_proj.weight"), heads)


def test_samples_keep_their_timesteps_and_every_fifth_is_held_out(tmp_path: Path) -> None:
    x = noise(10, 6, 4)
    times = torch.linspace(0, 900, 10)
    calibrate(nn.Linear(4, 3), [((x,), {}, times)], tmp_path / "s")
    statistics = CalibrationStatistics.load(tmp_path / "s")
    held = torch.tensor([4, 9])
    rest = torch.tensor([i for i in range(10) if i not in (4, 9)])
    assert_gram(statistics.gram(0), x[rest].reshape(-1, 4))
    assert_gram(statistics.gram(0, held_out=True), x[held].reshape(-1, 4))
    spans = statistics.times(0)
    assert [span.tokens for span in spans] == [6] * 10
    for span, sample, t in zip(spans, x, times.tolist(), strict=True):
        assert span.begin <= t < span.end
        np.testing.assert_array_equal(span.low, sample.amin(dim=0).numpy())


def test_samples_are_held_out_whole_also_where_a_layer_sees_several_rows_of_each(
    tmp_path: Path,
) -> None:
    class Frames(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.proj = nn.Linear(4, 3)

        def forward(self, x: Tensor) -> Tensor:
            result: Tensor = self.proj(x.flatten(0, 1))
            return result

    x = noise(6, 3, 5, 4)
    flags = torch.tensor([False, True, False, False, True, False])
    batch = Batch(args=(x,), timestep=torch.arange(6), held_out=flags)
    calibrate(Frames(), [batch], tmp_path / "s")
    statistics = CalibrationStatistics.load(tmp_path / "s")
    assert_gram(statistics.gram(0, held_out=True), x[flags].reshape(-1, 4))
    assert_gram(statistics.gram(0), x[~flags].reshape(-1, 4))


def test_padding_does_not_count(tmp_path: Path) -> None:
    x = noise(2, 6, 4)
    valid = torch.tensor([[True] * 6, [True] * 2 + [False] * 4])
    batch = Batch(args=(x,), timestep=torch.tensor([0.2, 0.8]), valid=valid)
    calibrate(nn.Linear(4, 3), [batch], tmp_path / "s", held_out=False)
    assert_gram(CalibrationStatistics.load(tmp_path / "s").gram(0), x[valid])


def test_a_layer_sees_about_eight_tokens_a_channel_and_the_same_ones_every_time(
    tmp_path: Path,
) -> None:
    module = nn.Linear(1024, 4)
    batches = [((noise(4, 1200, 1024, seed=i),), {}, float(i)) for i in range(5)]
    for name in ("a", "b"):
        calibrate(module, iter(batches), tmp_path / name, seed=3)
    calibrate(module, batches, tmp_path / "c", seed=4)
    a, b, c = (CalibrationStatistics.load(tmp_path / name) for name in "abc")
    assert 8 * 1024 <= a.tokens(0) < 8.1 * 1024
    assert a.tokens(0, held_out=True) == a.tokens(0) / 4
    np.testing.assert_array_equal(a.gram(0), b.gram(0))
    assert not np.array_equal(a.gram(0), c.gram(0))
    np.testing.assert_allclose(np.diag(a.gram(0)) / a.tokens(0), 1.0, atol=0.12)


def deep() -> nn.Module:
    return nn.Sequential(nn.Linear(600, 700), nn.GELU(), nn.Linear(700, 520), nn.Linear(520, 8))


def test_little_memory_takes_more_passes_and_gives_the_same_file(tmp_path: Path) -> None:
    module, x = deep(), [((noise(40, 600, seed=i),), {}, i) for i in range(2)]
    one = calibrate(module, x, tmp_path / "one")
    some = calibrate(module, x, tmp_path / "some", max_memory_mb=20)
    assert (one.passes, some.passes) == (1, 3)
    a, b = (CalibrationStatistics.load(tmp_path / name) for name in ("one", "some"))
    assert a.notes
    assert len(a) == len(b) == 3
    for i in range(3):
        assert a.layers(i) == b.layers(i)
        np.testing.assert_array_equal(a.gram(i), b.gram(i))
        assert (a.tokens(i), a.tokens(i, held_out=True)) == (
            b.tokens(i),
            b.tokens(i, held_out=True),
        )
    assert sorted(path.name for path in tmp_path.iterdir()) == ["one", "some"]


@pytest.mark.filterwarnings("ignore:.*for want of memory")
def test_a_matrix_larger_than_memory_keeps_its_diagonal_blocks(tmp_path: Path) -> None:
    module, x = nn.Linear(1200, 8), noise(30, 1200)
    run = calibrate(module, [((x,), {}, 0)], tmp_path / "s", held_out=False, max_memory_mb=28)
    assert "blocks of 512 channels only" in run.notes[0]
    statistics = CalibrationStatistics.load(tmp_path / "s")
    assert statistics.notes == list(run.notes)
    found = statistics.gram(0)
    expected = (x.T @ x).numpy()
    np.testing.assert_allclose(found[:512, :512], expected[:512, :512], rtol=1e-3, atol=1e-3)
    assert not found[:512, 512:].any()
    with pytest.raises(ConfigurationError, match=r"1200 channels need \d+ bytes"):
        calibrate(module, [((x,), {}, 0)], tmp_path / "t", max_memory_mb=20)


class Odd(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.grouped = nn.Conv1d(4, 4, 3, groups=2)
        self.upsample = nn.ConvTranspose1d(4, 4, 3)
        self.idle = nn.Linear(4, 4)
        self.small = nn.Linear(4, 3, dtype=torch.bfloat16)

    def forward(self, x: Tensor) -> Tensor:
        x = self.upsample(self.grouped(x))
        result: Tensor = self.small(x.movedim(1, 2).bfloat16())
        return result


def test_what_cannot_be_observed_is_said_in_a_warning_and_in_the_file(tmp_path: Path) -> None:
    module = Odd().train()
    with pytest.warns(UserWarning, match="calibrat") as caught:
        run = calibrate(
            module,
            [((noise(3, 4, 8),), {}, 0.5)],
            tmp_path / "s",
            layers=[*(f"{n}.weight" for n in ("grouped", "upsample", "idle", "small")), "gone"],
        )
    assert run.layers == ("small.weight",)
    assert [str(warning.message) for warning in caught] == list(run.notes)
    text = "\n".join(CalibrationStatistics.load(tmp_path / "s").notes)
    for words in (
        "gone: not calibrated: the module has no such parameter",
        "grouped.weight: not calibrated: the groups of a grouped convolution",
        "upsample.weight: not calibrated: the rows of a transposed convolution",
        "idle.weight: not calibrated: no linear map or convolution used it",
    ):
        assert words in text
    assert module.training


def test_few_tokens_are_a_warning(tmp_path: Path) -> None:
    with pytest.warns(UserWarning, match=r"fewer than 4 tokens a channel to weight \(8 tokens for"):
        calibrate(nn.Linear(16, 4), [((noise(10, 16),), {}, 0)], tmp_path / "s")


def test_nan_names_layer_and_timestep_and_writes_nothing(tmp_path: Path) -> None:
    x = noise(6, 4, 8)
    x[3, 1, 2] = torch.nan
    with pytest.raises(QuantizationError, match=r"weight.*NaN or Inf.*timestep 30"):
        calibrate(nn.Linear(8, 4), [((x,), {}, torch.arange(6) * 10)], tmp_path / "s")
    assert not list(tmp_path.iterdir())


def test_an_interrupt_leaves_no_file_and_the_module_as_it_was(tmp_path: Path) -> None:
    module = deep().train()

    def stop(message: str, fraction: float) -> None:
        if fraction > 0.4:
            raise KeyboardInterrupt

    batches = [((noise(4, 600),), {}, 0)] * 4
    with pytest.raises(KeyboardInterrupt):
        calibrate(module, batches, tmp_path / "s", max_memory_mb=20, progress_callback=stop)
    assert not list(tmp_path.iterdir())
    assert module.training
    assert torch.backends.mha.get_fastpath_enabled()


def test_progress_never_decreases_and_ends_at_one(tmp_path: Path) -> None:
    seen: list[float] = []
    calibrate(
        deep(),
        [((noise(4, 600),), {}, 0)] * 3,
        tmp_path / "s",
        max_memory_mb=20,
        progress_callback=lambda _, fraction: seen.append(fraction),
    )
    assert seen == sorted(seen)
    assert seen[-1] == 1.0


def test_mistakes_say_what_was_expected(tmp_path: Path) -> None:
    module, path = nn.Linear(4, 4), tmp_path / "s"
    good = [((noise(2, 4),), {}, 0)]

    def none() -> Iterator[object]:
        yield from ()

    with pytest.raises(ValueError, match="at least one batch"):
        calibrate(module, none(), path)
    with pytest.raises(TypeError, match=r"\(args, kwargs, timestep\).*found Tensor"):
        calibrate(module, [noise(2, 4)], path)
    with pytest.raises(ValueError, match="held_out for 2 samples, found 3"):
        calibrate(module, [Batch(args=(noise(2, 4),), held_out=torch.zeros(3))], path)
    with pytest.raises(ConfigurationError, match="observed no layer"):
        calibrate(module, good, path, layers=["bias"])
    calibrate(module, good, path)
    with pytest.raises(OutputError, match="exists"):
        calibrate(module, good, path)
    calibrate(module, good, path, overwrite=True)
