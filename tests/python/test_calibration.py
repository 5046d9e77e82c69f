"""CalibrationStatistics: activations in as numpy arrays, sums out, and the file between runs."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import numpy.typing as npt
import pyarrow.parquet as pq
import pytest

from arrow_quant_v2 import (
    CalibrationStatistics,
    ConfigurationError,
    MetadataError,
    OutputError,
    QuantizationError,
    ShapeMismatchError,
)

RNG = np.random.default_rng(7)
WEIGHTS = {
    "to_q.weight": RNG.standard_normal((8, 6), dtype=np.float32),
    "to_k.weight": RNG.standard_normal((4, 6), dtype=np.float32),
}


def activations(tokens: int = 50, channels: int = 6) -> npt.NDArray[np.float32]:
    return np.random.default_rng(tokens).standard_normal((tokens, channels)).astype(np.float32)


def collected(tokens: int = 50) -> CalibrationStatistics:
    statistics = CalibrationStatistics("unet")
    statistics.add_input(WEIGHTS)
    statistics.add(0, activations(tokens), timestep=3)
    return statistics


def test_gram_matrix_and_moments_are_those_of_numpy() -> None:
    x, y = activations(50), activations(70)
    statistics = CalibrationStatistics()
    assert statistics.add_input(WEIGHTS) == 0
    statistics.add(0, x.reshape(5, 10, 6), timestep=0.1)
    statistics.add(0, y.astype(np.float64), timestep=0.9, held_out=True)
    np.testing.assert_allclose(statistics.gram(0), x.T @ x, rtol=1e-4, atol=1e-4)
    np.testing.assert_allclose(statistics.gram(0, held_out=True), y.T @ y, rtol=1e-4, atol=1e-4)
    assert (statistics.tokens(0), statistics.tokens(0, held_out=True)) == (50, 70)
    first, second = statistics.times(0)
    assert first.begin <= 0.1 < first.end <= second.begin <= 0.9 < second.end
    np.testing.assert_array_equal(first.low, x.min(axis=0))
    np.testing.assert_array_equal(second.high, y.max(axis=0))
    np.testing.assert_allclose(first.mean, x.mean(axis=0), atol=1e-6)
    np.testing.assert_allclose(first.variance, x.var(axis=0), rtol=1e-5)
    assert statistics.layers(0) == ["to_q.weight", "to_k.weight"]
    assert repr(statistics) == "CalibrationStatistics(1 inputs, 50 tokens)"


def test_strided_half_precision_and_big_endian_activations_are_taken() -> None:
    x = activations(20)
    expected = x.T @ x
    doubled = np.repeat(x, 2, axis=0)[::2]
    for form in (doubled, x.astype(">f4"), np.asfortranarray(x)):
        statistics = CalibrationStatistics()
        statistics.add_input(WEIGHTS)
        statistics.add(0, form)
        np.testing.assert_allclose(statistics.gram(0), expected, rtol=1e-4, atol=1e-4)


def test_file_gives_back_everything_and_merges(tmp_path: Path) -> None:
    statistics = collected()
    path = tmp_path / "statistics.parquet"
    statistics.save(path)
    back = CalibrationStatistics.load(path)
    assert back.component == "unet"
    np.testing.assert_array_equal(back.gram(0), statistics.gram(0))
    back.merge(collected(70))
    both = activations(50).T @ activations(50) + activations(70).T @ activations(70)
    np.testing.assert_allclose(back.gram(0), both, rtol=1e-4, atol=1e-4)
    assert back.tokens(0) == 120


def test_file_is_a_table_that_pyarrow_reads(tmp_path: Path) -> None:
    collected().save(tmp_path / "s.parquet")
    table = pq.read_table(tmp_path / "s.parquet")
    assert table.schema.metadata[b"arrow_quant_v2.calibration"] == b"2"
    rows = table.to_pylist()
    assert [row["kind"] for row in rows] == ["layer", "layer", "time", "gram"]
    assert rows[0]["name"] == "to_q.weight"
    assert rows[0]["shape"] == [8, 6]
    assert rows[2]["low"] == activations().min(axis=0).tolist()
    upper = np.frombuffer(rows[3]["gram"], np.float32)
    np.testing.assert_allclose(
        upper, (activations().T @ activations())[np.triu_indices(6)], rtol=1e-4, atol=1e-4
    )


def test_every_token_may_have_a_timestep_of_its_own() -> None:
    x = activations(40).reshape(4, 10, 6)
    times = np.repeat([[0.9], [0.1], [0.9], [0.5]], 10, axis=1)
    together, apart = CalibrationStatistics(), CalibrationStatistics()
    for statistics in (together, apart):
        statistics.add_input(WEIGHTS)
    together.add(0, x, times)
    for sample, t in zip(x, times[:, 0], strict=True):
        apart.add(0, sample, float(t))
    np.testing.assert_allclose(together.gram(0), apart.gram(0), rtol=1e-5)
    for a, b in zip(together.times(0), apart.times(0), strict=True):
        assert (a.begin, a.end, a.tokens) == (b.begin, b.end, b.tokens)
        np.testing.assert_array_equal(a.low, b.low)
        np.testing.assert_allclose(a.mean, b.mean, rtol=1e-9)
    with pytest.raises(ShapeMismatchError, match=r"array of shape \[4, 10\].*\[4\]"):
        together.add(0, x, [1.0, 2.0, 3.0, 4.0])
    broken = x.copy()
    broken[1, 3, 2] = np.inf
    with pytest.raises(QuantizationError, match=r"token 13, channel 2, timestep 0\.1"):
        together.add(0, broken, times)


def test_kind_of_data_and_notes_are_kept_and_merged(tmp_path: Path) -> None:
    neutral = CalibrationStatistics(data="neutral")
    neutral.add_note("late.weight: 3 tokens for 6 channels")
    neutral.save(tmp_path / "neutral")
    back = CalibrationStatistics.load(tmp_path / "neutral")
    assert (back.data, back.notes) == ("neutral", ["late.weight: 3 tokens for 6 channels"])
    other = CalibrationStatistics()
    for text in ("late.weight: 3 tokens for 6 channels", "other.weight: never called"):
        other.add_note(text)
    back.merge(other)
    assert back.data == "user"
    assert back.notes == ["late.weight: 3 tokens for 6 channels", "other.weight: never called"]
    with pytest.raises(ConfigurationError, match="one line"):
        other.add_note("two\nlines")
    with pytest.raises(ConfigurationError, match="'neutral' or 'user'"):
        CalibrationStatistics(data="guessed")  # type: ignore[arg-type]


def test_statistics_of_another_model_are_refused() -> None:
    other = CalibrationStatistics("unet")
    other.add_input({**WEIGHTS, "to_q.weight": WEIGHTS["to_q.weight"] * 1.5})
    with pytest.raises(ShapeMismatchError, match=r"to_q\.weight.*same weight"):
        collected().merge(other)


@pytest.mark.parametrize(
    ("values", "error", "words"),
    [
        (np.full((3, 6), np.nan, np.float32), QuantizationError, "NaN or Inf at token 0"),
        (np.full((3, 6), 1e16, np.float32), QuantizationError, "1e15"),
        (np.zeros((3, 5), np.float32), ShapeMismatchError, r"last dimension is 6.*\[3, 5\]"),
        (np.zeros((3, 6), np.int32), TypeError, "floating-point activations"),
        ([[1.0] * 6], TypeError, "expected numpy arrays"),
    ],
)
def test_bad_activations_are_named_and_leave_the_sums_alone(
    values: object, error: type[Exception], words: str
) -> None:
    statistics = collected()
    before = statistics.gram(0)
    with pytest.raises(error, match=words):
        statistics.add(0, values, timestep=9)
    np.testing.assert_array_equal(statistics.gram(0), before)
    assert statistics.tokens(0) == 50


def test_other_mistakes_say_what_they_are(tmp_path: Path) -> None:
    statistics = collected()
    with pytest.raises(IndexError):
        statistics.add(1, activations())
    with pytest.raises(ShapeMismatchError, match="another input already"):
        statistics.add_input({"to_q.weight": WEIGHTS["to_q.weight"]})
    with pytest.raises(ConfigurationError, match="at least one layer"):
        statistics.add_input({})
    with pytest.raises(ConfigurationError, match="num_threads"):
        CalibrationStatistics(num_threads=-1)
    statistics.save(tmp_path / "s")
    with pytest.raises(OutputError, match="exists"):
        statistics.save(tmp_path / "s")
    statistics.save(tmp_path / "s", overwrite=True)
    (tmp_path / "other").write_text("no statistics")
    with pytest.raises(MetadataError, match="not a file of calibration statistics"):
        CalibrationStatistics.load(tmp_path / "other")
