"""The held-out images of the repository are those that training left out."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from zoo.data import DEFAULT_DATA, IMAGE_FILES, load_held_out, load_images


def test_the_committed_images_are_the_held_out_part_of_the_split() -> None:
    if not (DEFAULT_DATA / IMAGE_FILES["mnist"]).is_file():
        pytest.skip(f"no images in {DEFAULT_DATA}")
    split = load_images("mnist")
    np.testing.assert_array_equal(load_held_out("mnist"), split.held_out)
    assert split.held_out.shape == (1000, 1, 32, 32)


def test_held_out_digits_need_no_other_data(tmp_path: Path) -> None:
    images = load_held_out("mnist", tmp_path)
    assert images.shape == (1000, 1, 32, 32)
    assert images.dtype == np.float32
    assert (images.min(), images.max()) == (-1, 1)
    assert 0.08 < (images > 0).mean() < 0.12  # ink on a black ground


def test_a_missing_data_folder_is_named(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError, match=r"fashion-t10k.*no such file.*--data"):
        load_held_out("fashion-mnist", tmp_path)
