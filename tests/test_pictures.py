"""The learning curve and the image grid: from stored files, of the stated size, showing what they should."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from run_folder import point, save_images, stored

from grpo_bench.analysis.grid import GAP, LABEL, MARGIN, bands, paint
from grpo_bench.analysis.pictures import draw_outcome, image_grid, learning_curve
from grpo_bench.errors import UserError

BLUE, ORANGE = (0x00, 0x72, 0xB2), (0xD5, 0x5E, 0x00)
TILE = 160


def pixels(path: Path) -> np.ndarray:
    with Image.open(path) as image:
        image.verify()
    with Image.open(path) as image:
        return np.asarray(image.convert("RGB"))


def coloured(picture: np.ndarray, colour: tuple[int, int, int]) -> int:
    return int((picture == colour).all(axis=-1).sum())


def tile(picture: np.ndarray, row: int, column: int) -> np.ndarray:
    top, left = MARGIN + row * (TILE + GAP), MARGIN + LABEL + column * (TILE + GAP)
    return picture[top : top + TILE, left : left + TILE]


def flat_images(levels: list[int], side: int = 32) -> np.ndarray:
    return np.stack([np.full((side, side, 3), level, np.uint8) for level in levels])


def test_an_outcome_is_drawn_into_the_runs_folder(tmp_path: Path) -> None:
    store = stored(tmp_path, [point(0, 0.4), point(1, 0.43), point(2, 0.45)])
    prompts = [f"prompt {i}" for i in range(12)]
    save_images(store, prompts)
    curve, grid = draw_outcome(store)
    assert (curve, grid) == (store.folder / "curve.png", store.folder / "grid.png")
    assert pixels(curve).shape == (760, 1080, 3)
    picture = pixels(grid)
    assert picture.shape[1] == 2 * MARGIN + LABEL + 8 * TILE + 7 * GAP
    # 8 of 12 prompts are 0, 1, 3, 4, 6, 7, 9, 10; the first image of prompt p is grey 10 p, plus 100 when trained.
    for column, prompt in enumerate((0, 1, 3, 4, 6, 7, 9, 10)):
        assert (tile(picture, 0, column) == 10 * prompt).all()
        assert (tile(picture, 1, column) == 10 * prompt + 100).all()
    assert not list(store.folder.glob(".*.tmp"))


def test_a_run_without_points_cannot_be_drawn(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="no point to draw"):
        draw_outcome(stored(tmp_path, [], status="diverged"))


def test_images_that_do_not_match_the_prompts_are_an_error(tmp_path: Path) -> None:
    store = stored(tmp_path, [point(0, 0.4)])
    save_images(store, ["a", "b", "c"], per_prompt=1)
    store.save_prompts(["a", "b"])
    with pytest.raises(UserError, match="3 images for 2 prompts"):
        draw_outcome(store)


def test_the_proxy_has_a_line_of_its_own_only_where_it_is_another_judge(tmp_path: Path) -> None:
    rows = [point(0, 0.4, proxy=0.2), point(3, 0.45, proxy=0.9)]
    learning_curve(rows, tmp_path / "one.png", "one", gold_is_proxy=True)
    learning_curve(rows, tmp_path / "two.png", "two", gold_is_proxy=False)
    one, two = pixels(tmp_path / "one.png"), pixels(tmp_path / "two.png")
    assert coloured(one, BLUE) > 1000
    assert coloured(two, BLUE) > 1000
    assert coloured(one, ORANGE) == 0
    assert coloured(two, ORANGE) > 500


def test_a_higher_gain_is_drawn_higher(tmp_path: Path) -> None:
    learning_curve([point(0, 0.4), point(2, 0.6)], tmp_path / "up.png", "up", gold_is_proxy=True)
    learning_curve([point(0, 0.6), point(2, 0.4)], tmp_path / "down.png", "down", gold_is_proxy=True)
    left, right = slice(110, 400), slice(560, 830)
    for name, rises in (("up", True), ("down", False)):
        blue = (pixels(tmp_path / f"{name}.png") == BLUE).all(axis=-1)
        height_left, height_right = np.nonzero(blue[:, left])[0].mean(), np.nonzero(blue[:, right])[0].mean()
        assert (height_right < height_left) == rises


def test_noise_is_not_drawn_as_a_gain(tmp_path: Path) -> None:
    # 0.001 of at least 0.05 x 1 in height: both lines lie within a few pixels of the base's.
    learning_curve([point(0, 1.0), point(1, 1.001)], tmp_path / "c.png", "idle", gold_is_proxy=True)
    blue_rows = np.nonzero((pixels(tmp_path / "c.png")[:, 150:780] == BLUE).all(axis=-1))[0]
    assert np.ptp(blue_rows) < 50


@pytest.mark.parametrize(
    "rows",
    [
        [point(0, 0.4)],
        [point(0, float("nan")), point(1, float("nan"))],
        [point(0, 0.4), point(1, float("nan")), point(2, 0.4)],
        [point(0, 0.4), point(2, 0.4, seconds=0.0)],
    ],
    ids=["one point", "no number", "a gap", "no time"],
)
def test_poor_points_still_make_a_picture(tmp_path: Path, rows: list[dict[str, float]]) -> None:
    learning_curve(rows, tmp_path / "c.png", "poor", gold_is_proxy=True)
    assert pixels(tmp_path / "c.png").std() > 5


def test_a_hostile_title_or_caption_is_only_text(tmp_path: Path) -> None:
    hostile = "$\\frac{ [red]\x1b[31m" + "w" * 3000 + "\n\x00"
    learning_curve([point(0, 0.4)], tmp_path / "c.png", hostile, gold_is_proxy=True)
    image_grid(flat_images([1]), flat_images([2]), [hostile], tmp_path / "g.png")
    assert pixels(tmp_path / "c.png").shape == (760, 1080, 3)
    assert pixels(tmp_path / "g.png").shape[1] == 2 * MARGIN + LABEL + TILE
    # Four lines of caption at most.
    assert pixels(tmp_path / "g.png").shape[0] < 2 * TILE + 160


def test_a_caption_is_written_under_its_own_column() -> None:
    picture = paint(bands(flat_images([0, 0]), flat_images([0, 0]), ["", "words"]))
    captions = picture[MARGIN + 2 * TILE + GAP :]
    boundary = MARGIN + LABEL + TILE + GAP
    assert (captions[:, :boundary] == 255).all()
    assert (captions[:, boundary:] < 200).any()


def test_small_pixels_stay_sharp_and_large_images_are_reduced() -> None:
    checks = (np.indices((32, 32)).sum(axis=0) % 2 * 255).astype(np.uint8)
    small = np.repeat(checks[None, :, :, None], 3, axis=3)
    picture = paint(bands(small, small, ["x"]))
    assert set(np.unique(tile(picture, 0, 0))) == {0, 255}
    large = flat_images([9], side=512)
    assert paint(bands(large, large, ["x"])).shape[1] == 2 * MARGIN + LABEL + 256


def test_several_images_a_prompt_make_a_band_each() -> None:
    base = np.stack([flat_images([0, 20, 40]), flat_images([60, 80, 100])])
    picture = paint(bands(base, base + 100, ["first", "second"]))
    assert (tile(picture, 0, 2) == 40).all()
    assert (tile(picture, 1, 2) == 140).all()
    single = paint(bands(base[:1], base[:1], ["first"]))
    assert picture.shape[0] > 1.9 * single.shape[0]


def test_images_that_do_not_pair_up_are_refused() -> None:
    with pytest.raises(ValueError, match="do not match"):
        bands(flat_images([1, 2]), flat_images([1]), ["a", "b"])
    with pytest.raises(ValueError, match="do not match"):
        bands(flat_images([1, 2]), flat_images([1, 2]), ["a"])
