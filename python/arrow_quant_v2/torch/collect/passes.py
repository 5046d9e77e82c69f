"""Statistics within bounded memory: what one pass observes, and joining the files of passes."""

from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq

from arrow_quant_v2.errors import ConfigurationError
from arrow_quant_v2.torch.collect.accumulate import BUFFERED_TOKENS

__all__ = ["input_bytes", "join_files", "plan_passes"]

_TILE = 256
_INPUT = 1  # position of the column 'input'
_TIME_SPANS = 64
_SAMPLE_TOKENS = 4
_MB = 1 << 20


def gram_bytes(channels: int, block: int = 0) -> int:
    """Memory of one Gram matrix, of which about half is kept, or its diagonal blocks."""
    whole, rest = divmod(channels, block or channels)
    return whole * _triangle_bytes(block or channels) + _triangle_bytes(rest)


def _triangle_bytes(side: int) -> int:
    """Of f32 tiles on and above the diagonal."""
    return 4 * side * (side + min(side, _TILE)) // 2


def input_bytes(channels: int, block: int = 0) -> int:
    """Memory that the statistics of one input take while they are collected."""
    by_time = _TIME_SPANS * channels * (4 + 4 + 4 * 8 + 2 * 4 * _SAMPLE_TOKENS)
    buffers = 2 * 2 * BUFFERED_TOKENS * channels * 4
    return 2 * gram_bytes(channels, block) + by_time + buffers


def choose_block(channels: int, limit: int) -> int:
    """Channels of a diagonal block with which an input fits into `limit` bytes; 0: all of them.

    Raises
    ------
    ConfigurationError
        Not even the smallest blocks fit.
    """
    if input_bytes(channels) <= limit:
        return 0
    block = (channels - 1) // _TILE * _TILE
    while block > 0 and input_bytes(channels, block) > limit:
        block = block // 2 // _TILE * _TILE
    if block == 0:
        least = input_bytes(channels, _TILE)
        raise ConfigurationError(
            f"statistics of {channels} channels need {least} bytes, and max_memory_mb allows "
            f"{limit}",
            hint=f"Set max_memory_mb to {least // _MB + 1} or more, or 'keep' the layer.",
        )
    return block


def plan_passes(channels: Sequence[int], limit: int) -> list[list[tuple[int, int]]]:
    """Inputs (their position and block) for every pass, in order, within `limit` bytes each."""
    passes: list[list[tuple[int, int]]] = []
    used = limit
    for number, count in enumerate(channels):
        block = choose_block(count, limit)
        need = input_bytes(count, block)
        if used + need > limit:
            passes.append([])
            used = 0
        passes[-1].append((number, block))
        used += need
    return passes


def join_files(parts: Sequence[Path], path: Path) -> None:
    """Write statistics of different inputs of one model as one file.

    Parts are read a row group at a time, so that the whole may be larger than memory.
    """
    schema = pq.read_schema(parts[0])
    notes = dict.fromkeys(
        note for part in parts for note in pq.read_schema(part).metadata[b"notes"].splitlines()
    )
    schema = schema.with_metadata({**schema.metadata, b"notes": b"\n".join(notes)})
    partial = path.with_name(f".{path.name}.{os.getpid()}.joining")
    first = 0
    try:
        with pq.ParquetWriter(
            partial, schema, compression="none", use_dictionary=False, write_page_checksum=True
        ) as writer:
            for part in parts:
                file = pq.ParquetFile(part)
                count = 0
                for i in range(file.num_row_groups):
                    group = file.read_row_group(i)
                    inputs = group.column("input").combine_chunks().to_numpy(zero_copy_only=False)
                    count = max(count, int(inputs.max()) + 1)
                    numbers = pa.array(inputs + first, pa.int32())
                    group = group.set_column(_INPUT, schema.field(_INPUT), numbers)
                    writer.write_table(group.cast(schema))
                first += count
        os.replace(partial, path)
    finally:
        partial.unlink(missing_ok=True)
