"""A drawn forest fits the terminal, counts its images, and shows each kind of edge where it is."""

from __future__ import annotations

import numpy as np
import pytest
from forest_strategy import forests
from fresh import loaded_by
from hypothesis import given

from grpo_bench.forest.builders import branching, chains, trunk
from grpo_bench.forest.draw import MOST_ROWS, draw_text
from grpo_bench.forest.forest import Forest
from grpo_bench.sampling.schedule import shifted_grid


def window(start: int, width: int, steps: int = 10) -> np.ndarray:
    step_T = np.arange(steps)
    return (start <= step_T) & (step_T < start + width)


def published() -> dict[str, Forest]:
    grid, grid_20, ten, twenty = shifted_grid(10), shifted_grid(20), window(0, 9), window(0, 19, 20)
    chosen = np.random.default_rng(0).random((24, 10)) < 0.6
    chosen[:, -1] = False
    return {
        "flat": chains(grid, 24, ten),
        "flat, steps by chain": chains(grid, 24, ten, shared_noise=True, trained=chosen),
        "mix at 40 steps": chains(shifted_grid(40), 24, window(4, 4, 40), shared_noise=True),
        "tree": branching(grid, dict.fromkeys((1, 2, 3), 3), window(1, 3)),
        "wide tree": branching(grid, dict.fromkeys(range(4), 4), window(0, 4)),
        "branch": branching(grid_20, {0: 2, 3: 2, 6: 2, 9: 2}, twenty),
        "tempflow": trunk(grid, dict.fromkeys(range(9), 6), roots=4),
    }


def forest_rows(text: str) -> list[str]:
    return [line for line in text.splitlines() if "◆" in line and "image" not in line]


def test_a_small_tree_by_hand() -> None:
    # given a deterministic step, two stochastic splits of which the second is not trained, and the last step
    forest = branching(
        [1, 0.75, 0.5, 0.25, 0], {1: 2, 2: 3}, [False, True, True, False], trained=[False, True, False, False]
    )
    assert draw_text(forest).splitlines() == [
        "step    0      1      2      3       images",
        "sigma  1      0.75   0.5    0.25   0",
        "      ●┄┄┄┄┄┄┄┬━━━━━━<×3────•┄┄┄┄┄┄◆      3",
        "              └━━━━━━<×3────•┄┄┄┄┄┄◆      3",
        "",
        "━ stochastic, trained   ─ stochastic, untrained   ┄ deterministic   < equal branches   ◆ image",
    ]


def test_a_trunk_is_a_staircase() -> None:
    rows = forest_rows(draw_text(trunk([1, 0.7, 0.4, 0.1, 0], {0: 6, 1: 6, 2: 6}, roots=4)))
    assert rows == [
        "  4 × ●┬×6━━━━•┄┄┄┄┄┄•┄┄┄┄┄┄•┄┄┄┄┄┄◆     24",
        "       └┄┄┄┄┄┄┬×6━━━━•┄┄┄┄┄┄•┄┄┄┄┄┄◆     24",
        "              └┄┄┄┄┄┄<×6━━━━•┄┄┄┄┄┄◆     24",
    ]


def test_equal_chains_are_one_row() -> None:
    assert forest_rows(draw_text(chains([1, 0.5, 0], 24, [True, False]))) == [" 24 × ●━━━━━━━•┄┄┄┄┄┄◆     24"]


def test_chains_that_train_different_steps_are_drawn_each() -> None:
    trained = np.array([[True, False, False], [True, False, False], [False, True, False]])
    forest = chains([1, 0.6, 0.3, 0], 3, [True, True, False], shared_noise=True, trained=trained)
    assert forest_rows(draw_text(forest)) == [
        "      ●┬×2━━━━•──────•┄┄┄┄┄┄◆      2",
        "       └──────•━━━━━━•┄┄┄┄┄┄◆      1",
    ]


@pytest.mark.parametrize("name", list(published()))
def test_published_forests_fit_a_terminal(name: str) -> None:
    forest = published()[name]
    text = draw_text(forest)
    lines = text.splitlines()
    assert max(map(len, lines)) <= 100 and len(lines) <= 40, text
    assert sum(int(row.split()[-1]) for row in forest_rows(text)) == forest.images, text
    assert "\x1b" not in text


@given(forests(max_steps=4))
def test_the_images_column_adds_up(forest: Forest) -> None:
    text = draw_text(forest)
    rows = forest_rows(text)
    if "more rows" not in text:
        assert sum(int(row.split()[-1]) for row in rows) == forest.images, text
    assert len(rows) <= MOST_ROWS
    # and a kind of edge appears when the forest has one
    drawn = "".join(rows)
    if "more rows" not in text:
        assert ("━" in drawn) == forest.trained_N.any(), text
        assert ("┄" in drawn) == (~forest.stochastic_N[forest.roots :]).any(), text


def test_a_forest_of_different_branches_is_cut_in_the_middle() -> None:
    # given 64 chains, each training its own subset of six steps
    trained = np.array([[bool(chain >> step & 1) for step in range(6)] + [False] for chain in range(64)])
    forest = chains(np.linspace(1, 0, 8), 64, window(0, 6, 7), shared_noise=True, trained=trained)
    text = draw_text(forest)
    assert len(text.splitlines()) <= 40
    assert f"{64 - 35} more rows" in text


def test_many_steps_are_drawn_without_error() -> None:
    forest = chains(shifted_grid(1000), 2, window(0, 999, 1000))
    assert forest_rows(draw_text(forest))[0].startswith("  2 × ●")


def test_drawing_text_needs_no_matplotlib() -> None:
    code = (
        "from grpo_bench.forest.draw import draw_text\n"
        "from grpo_bench.forest.builders import chains\n"
        "draw_text(chains([1, .5, 0], 2, [True, False]))"
    )
    assert not {"matplotlib", "torch"} & loaded_by(code)
