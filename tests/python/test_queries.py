"""What the artefact says of itself, and that other programs read it: pyarrow, Polars, DuckDB."""

from __future__ import annotations

import json
from pathlib import Path

import pyarrow.parquet as pq
import pytest
from support import arrow_quant

from arrow_quant_v2 import open_quantized


@pytest.fixture
def table(unet_artefacts: dict[int, Path]) -> Path:
    return unet_artefacts[2] / "unet" / "weights.parquet"


def test_the_example_of_the_guide_reads_the_metadata(
    table: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(table.parent.parent)
    example = """
import pyarrow.parquet as pq
table = pq.read_table("unet/weights.parquet")
metadata = table.schema.metadata
print(f"Modality: {metadata[b'modality']}")
print(f"Time-aware: {metadata[b'time_aware_quant']}")
"""
    exec(example, {})
    lines = capsys.readouterr().out.splitlines()
    assert lines[0] == "Modality: b'image'"
    assert "enabled" in lines[1]


def test_every_json_value_of_the_metadata_is_what_its_name_says(table: Path) -> None:
    metadata = pq.read_schema(table).metadata
    assert json.loads(metadata[b"is_diffusion_model"]) is True
    for key in (b"time_aware_quant", b"spatial_quant", b"activation_stats"):
        entry = json.loads(metadata[key])
        assert isinstance(entry["enabled"], bool)
        if not entry["enabled"]:
            assert entry["reason"]
    calibration = json.loads(metadata[b"calibration"])
    assert calibration["kind"] == "none"
    assert calibration["reason"]
    config = json.loads(metadata[b"config"])
    assert config["bit_width"] == 2
    assert not {"num_threads", "max_memory_mb"} & set(config)
    assert b"memory_limits" not in metadata, "nothing was withheld"


def test_inspect_shows_the_metadata(unet_artefacts: dict[int, Path]) -> None:
    run = arrow_quant("inspect", unet_artefacts[2], "--metadata", "--json")
    assert run.code == 0
    entry = run.json["unet"]
    assert entry["modality"] == "image"
    assert entry["is_diffusion_model"] is True
    assert entry["time_aware_quant"]["enabled"] is False
    lines = arrow_quant("inspect", unet_artefacts[2], "--metadata").out.splitlines()
    shown = {line.split()[0] for line in lines if not line.startswith(" ")}
    assert {"component", "modality", "time_aware_quant", "spatial_quant", "config"} <= shown


def test_polars_reads_the_table(table: Path, unet_artefacts: dict[int, Path]) -> None:
    polars = pytest.importorskip("polars")
    frame = polars.read_parquet(table)
    tensors = open_quantized(unet_artefacts[2])
    assert set(frame["name"]) == set(tensors)
    worst = frame.filter(polars.col("bit_width") == 2).sort("nmse", descending=True)
    assert worst["name"][0] == max(
        (name for name, tensor in tensors.items() if tensor.is_quantized),
        key=lambda name: tensors[name].nmse,
    )
    row = frame.filter(polars.col("name") == "conv_in.weight")
    assert row["shape"].to_list()[0] == [32, 1, 3, 3]
    codes = dict(zip(frame["name"], frame["codes"], strict=True))
    quantized = worst["name"][0]
    assert codes[quantized] == tensors[quantized].codes.tobytes()


def test_duckdb_queries_the_table_in_place(table: Path, unet_artefacts: dict[int, Path]) -> None:
    duckdb = pytest.importorskip("duckdb")
    tensors = open_quantized(unet_artefacts[2])
    rows = duckdb.sql(
        f"SELECT name, bit_width, nmse FROM '{table}' ORDER BY nmse DESC LIMIT 5"
    ).fetchall()
    assert len(rows) == 5
    for name, bits, nmse in rows:
        assert bits == tensors[name].bit_width == 2
        assert nmse == pytest.approx(tensors[name].nmse)
    counts = duckdb.sql(f"SELECT bit_width, count(*) FROM '{table}' GROUP BY 1").fetchall()
    quantized = sum(tensor.is_quantized for tensor in tensors.values())
    assert dict(counts)[2] == quantized
    keys = duckdb.sql(f"SELECT key FROM parquet_kv_metadata('{table}')").fetchall()
    assert (b"time_aware_quant",) in keys
