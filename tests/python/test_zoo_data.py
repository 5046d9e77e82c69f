"""The held-out images of the repository are those that training left out."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from zoo.data import (
    DEFAULT_DATA,
    IMAGE_FILES,
    load_held_out,
    load_held_out_labels,
    load_images,
    load_labels,
    read_idx_labels,
)


def test_the_committed_images_are_the_held_out_part_of_the_split() -> None:
    if not (DEFAULT_DATA / IMAGE_FILES["mnist"]).is_file():
        pytest.skip(f"no images in {DEFAULT_DATA}")
    split = load_images("mnist")
    np.testing.assert_array_equal(load_held_out("mnist"), split.held_out)
    assert split.held_out.shape == (1000, 1, 32, 32)
    labels = load_labels("mnist")
    np.testing.assert_array_equal(load_held_out_labels("mnist"), labels.held_out)
    assert len(labels.train) == len(split.train)


def test_held_out_digits_need_no_other_data(tmp_path: Path) -> None:
    images = load_held_out("mnist", tmp_path)
    assert images.shape == (1000, 1, 32, 32)
    assert images.dtype == np.float32
    assert (images.min(), images.max()) == (-1, 1)
    assert 0.08 < (images > 0).mean() < 0.12  # ink on a black ground


def test_a_missing_data_folder_is_named(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError, match=r"fashion-t10k.*no such file.*--data"):
        load_held_out("fashion-mnist", tmp_path)


def test_held_out_labels_need_no_other_data(tmp_path: Path) -> None:
    labels = load_held_out_labels("mnist", tmp_path)
    assert labels.shape == (1000,)
    assert set(labels.tolist()) == set(range(10))


def test_labels_of_another_length_are_refused(tmp_path: Path) -> None:
    import gzip

    path = tmp_path / "labels.gz"
    path.write_bytes(gzip.compress(b"\x00\x00\x08\x01\x00\x00\x00\x05\x01\x02"))
    with pytest.raises(ValueError, match="expected 5 labels, found 2"):
        read_idx_labels(path)
    path.write_bytes(gzip.compress(b"\x00\x00\x08\x03\x00\x00\x00\x05\x01\x02"))
    with pytest.raises(ValueError, match=r"expected IDX labels \(magic 00000801\), found 00000803"):
        read_idx_labels(path)
