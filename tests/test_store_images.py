"""Evaluation images come back bit for bit from few, viewable files."""

from __future__ import annotations

import os
import time
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from grpo_bench.errors import UserError
from grpo_bench.store import images
from grpo_bench.store.images import contact_sheet, load_images, save_images


def noise(count: int, height: int = 32, width: int = 32) -> np.ndarray[tuple[int, ...], np.dtype[np.uint8]]:
    return np.random.default_rng(0).integers(0, 256, (count, height, width, 3), dtype=np.uint8)


@pytest.mark.parametrize(("count", "columns"), [(1, 1), (12, 4), (7, 3), (2, 5)])
def test_images_come_back_bit_for_bit(count: int, columns: int, tmp_path: Path) -> None:
    stored = noise(count, 8, 6)
    read = load_images(save_images(tmp_path, "000000", stored, columns))
    assert read.dtype == np.uint8
    np.testing.assert_array_equal(read, stored)


def test_a_sheet_has_one_row_a_prompt(tmp_path: Path) -> None:
    stored = noise(6, 4, 5)
    path = save_images(tmp_path, "000000", stored, 3)
    with Image.open(path / "000.png") as sheet:
        pixels = np.asarray(sheet)
    assert pixels.shape == (8, 15, 3)
    np.testing.assert_array_equal(pixels[4:8, 5:10], stored[4])  # second row, second column


def test_many_pixels_are_cut_into_sheets_between_rows(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(images, "SHEET_PIXELS", 2 * 3 * 4 * 4 + 1)
    stored = noise(14, 4, 4)  # five rows of three: two, two and one
    path = save_images(tmp_path, "000000", stored, 3)
    assert sorted(os.listdir(path)) == ["000.png", "001.png", "002.png", "index.json"]
    np.testing.assert_array_equal(load_images(path), stored)


def test_a_resumed_point_replaces_its_images(tmp_path: Path) -> None:
    save_images(tmp_path, "000004", noise(9), 3)
    path = save_images(tmp_path, "000004", noise(2), 3)
    np.testing.assert_array_equal(load_images(path), noise(2))
    assert os.listdir(tmp_path) == ["000004"]


def test_an_evaluation_is_stored_in_a_moment(tmp_path: Path) -> None:
    stored = noise(256)
    best = min(_seconds_to_save(tmp_path, stored) for _ in range(3))
    assert best < 0.3, f"256 images of 32x32 took {best:.2f} s"


def _seconds_to_save(folder: Path, stored: np.ndarray[tuple[int, ...], np.dtype[np.uint8]]) -> float:
    start = time.perf_counter()
    save_images(folder, "timed", stored, 4)
    return time.perf_counter() - start


@pytest.mark.parametrize("damage", ["truncated", "missing", "index", "other"])
def test_damaged_images_are_one_sentence(damage: str, tmp_path: Path) -> None:
    path = save_images(tmp_path, "000000", noise(4), 2)
    sheet = path / "000.png"
    if damage == "truncated":
        sheet.write_bytes(sheet.read_bytes()[:200])
    elif damage == "missing":
        sheet.unlink()
    elif damage == "index":
        (path / "index.json").write_text("{}", encoding="utf-8")
    else:
        Image.new("RGB", (64, 32)).save(sheet)
    with pytest.raises(UserError, match=r"images in .* damaged"):
        load_images(path)


def test_a_wrong_array_and_a_hostile_name_are_refused(tmp_path: Path) -> None:
    for wrong in (noise(2).astype(np.float32), noise(2)[0], noise(0), noise(2)[..., :1]):
        with pytest.raises(ValueError, match=r"uint8 \(B, H, W, 3\)"):
            save_images(tmp_path, "a", wrong, 1)  # type: ignore[arg-type]
    with pytest.raises(UserError, match="not a valid name"):
        save_images(tmp_path, "../a", noise(1), 1)
    assert os.listdir(tmp_path) == []


def test_an_unfilled_row_is_black() -> None:
    assert contact_sheet(np.full((3, 2, 2, 3), 9, np.uint8), 2)[2:, 2:].sum() == 0
