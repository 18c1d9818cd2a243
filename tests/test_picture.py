"""A picture of forests has every edge of every forest once, as what it is, and the same colour for the same method."""

from __future__ import annotations

from itertools import combinations
from pathlib import Path

import numpy as np
import pytest
from forest_strategy import forests
from fresh import loaded_by
from hypothesis import given, settings
from hypothesis import strategies as st
from matplotlib.collections import LineCollection
from matplotlib.colors import to_rgb
from matplotlib.figure import Figure

from grpo_bench.errors import UserError
from grpo_bench.forest.builders import branching, chains, trunk
from grpo_bench.forest.forest import Forest
from grpo_bench.forest.layout import edges, place
from grpo_bench.forest.picture import draw_png, forest_figure
from grpo_bench.forest.sketch import Sketch
from grpo_bench.palette import KNOWN, method_colour
from grpo_bench.sampling.schedule import shifted_grid

TEN = np.arange(10) < 9
STEP_T = np.arange(10)


def flat() -> Forest:
    return chains(shifted_grid(10), 24, TEN)


def tree() -> Forest:
    return branching(shifted_grid(10), dict.fromkeys((1, 2, 3), 3), (STEP_T >= 1) & (STEP_T <= 3))


def branch() -> Forest:
    return branching(shifted_grid(10), dict.fromkeys((0, 1, 3, 4), 2), TEN, sibling_noise=4.0)


def tempflow() -> Forest:
    return trunk(shifted_grid(10), dict.fromkeys(range(9), 6), roots=4)


def nft() -> Forest:
    return chains(shifted_grid(10), 24, np.zeros(10, dtype=bool))


def drawn(figure: Figure) -> dict[str, int]:
    """The number of lines in each named collection, `panel/kind`."""
    (axes,) = figure.axes
    return {
        str(lines.get_gid()): len(lines.get_segments())
        for lines in axes.collections
        if isinstance(lines, LineCollection) and lines.get_gid() != "legend"
    }


def words(figure: Figure) -> list[str]:
    return [text.get_text() for text in figure.axes[0].texts]


def test_every_method_is_drawn_edge_by_edge() -> None:
    sketches = [
        Sketch("flat", flat()),
        Sketch("tree", tree()),
        Sketch("tempflow", tempflow()),
        Sketch("nft", nft(), draws=9),
    ]

    # methods.md's counts: flat 24 chains of 9 noisy steps and one ODE step; tree 3 + 9 + 27 noisy edges behind one ODE
    # step, then 6 ODE steps of 27 leaves; tempflow 4 x 54 noisy edges, of 1116 + 216 - 4 in all; nft 24 x 9 draws
    assert drawn(forest_figure(sketches)) == {
        "0/trained": 216, "0/ode": 24,
        "1/trained": 39, "1/ode": 1 + 6 * 27,
        "2/trained": 216, "2/ode": 1116 + 216 - 4 - 216,
        "3/ode": 240, "3/draws": 216,
    }  # fmt: skip


def test_pruned_edges_are_drawn_as_dropped_and_counted() -> None:
    # given branch, of whose first leaf the edges below the last split (steps 5 to 8) are dropped
    forest = branch()
    keep_N = np.ones(forest.nodes, dtype=bool)
    keep_N[forest.path_LD[0, 6:]] = False

    figure = forest_figure([Sketch("branch", forest, keep_N)])

    assert drawn(figure) == {"0/trained": 98 - 4, "0/pruned": 4, "0/ode": 16}
    assert "after pruning: 79 training evaluations, 94 edges" in words(figure)
    # one cross, where the path is cut, and one in the legend
    crosses = [line for line in figure.axes[0].lines if line.get_marker() == "x"]
    assert sum(len(line.get_xdata()) for line in crosses) == 2


def test_steps_without_gradient_are_thin_and_grey() -> None:
    figure = forest_figure([Sketch("flat", chains(shifted_grid(10), 2, TEN, trained=STEP_T < 4))])

    assert drawn(figure) == {"0/trained": 8, "0/untrained": 10, "0/ode": 2}
    lines = {line.get_gid(): line for line in figure.axes[0].collections}
    assert tuple(lines["0/trained"].get_colors()[0][:3]) == to_rgb(method_colour("flat"))
    red, green, blue, _ = lines["0/untrained"].get_colors()[0]
    assert red == green == blue
    assert max(lines["0/untrained"].get_linewidths()) < min(lines["0/trained"].get_linewidths())


@settings(max_examples=20, deadline=None)
@given(forests(max_steps=4), st.integers(0, 2**32 - 1), st.integers(0, 2))
def test_any_forest_is_drawn_whole(forest: Forest, seed: int, draws: int) -> None:
    keep_N = np.random.default_rng(seed).random(forest.nodes) < 0.5
    counts = drawn(forest_figure([Sketch("mine", forest, keep_N, draws=draws)]))

    assert counts.pop("0/draws", 0) == draws * forest.images
    assert sum(counts.values()) == forest.nodes - forest.roots
    assert counts.get("0/trained", 0) == (keep_N & forest.trained_N).sum()
    assert counts.get("0/pruned", 0) == (~keep_N & forest.trained_N).sum()
    assert counts.get("0/ode", 0) == (~forest.stochastic_N[forest.roots :]).sum()


def test_costs_stand_below_each_panel() -> None:
    said = words(
        forest_figure([Sketch("flat", flat()), Sketch("tree", tree()), Sketch("nft", nft(), frozen=2, draws=9)])
    )

    for text in (
        "240 rollout + 216 training evaluations",
        "216 trained edges, 24 images",
        "nfe 888",
        # 1 + 13 + 27 x 6 rollout evaluations, 13 trained: 176 + 39
        "176 rollout + 13 training evaluations",
        "nfe 215 = 0.24 x flat",
        "240 rollout + 216 training + 432 reference evaluations",
        "0 trained edges, 24 images, 9 forward draws a leaf",
    ):
        assert text in said, said


def test_the_legend_names_what_occurs_and_nothing_else() -> None:
    one, several = (
        forest_figure([Sketch("nft", nft(), draws=9)]),
        forest_figure([Sketch("flat", flat()), Sketch("tree", tree())]),
    )

    assert {"forward draws, trained", "deterministic step (ODE)", "image"} <= set(words(one))
    assert not {"stochastic step (SDE), trained", "split", "nfe: rollout evaluations"} & set(words(one))
    assert {"stochastic step (SDE), trained", "split", "nfe: rollout evaluations"} <= set(words(several))
    assert not {"nfe: reference evaluations", "pruned after example rewards"} & set(words(several))


def test_noise_is_a_wave_and_an_ode_step_is_smooth() -> None:
    forest = chains([1, 0.5, 0], 1, [True, False])
    layout = place(forest, 100, 50)
    wavy, plain = (edges(layout, forest, np.array([node]), waves=waves)[0] for node, waves in ((1, True), (2, False)))

    # a wave crosses its middle line twice a cycle, 50 points hold 8 waves of about 6 points; the other stays level
    assert np.count_nonzero(np.diff(np.sign(wavy[1:-1, 1] - 25)) != 0) >= 15
    assert np.ptp(plain[:, 1]) == 0
    # and both meet their nodes
    assert np.allclose([wavy[0], wavy[-1], plain[0], plain[-1]], [[0, 25], [50, 25], [50, 25], [100, 25]])


def test_trees_stand_apart_and_parents_in_the_middle() -> None:
    forest = branching([1, 0.5, 0], {0: 2}, [True, False], roots=2)
    height_N = place(forest, 100, 50).point_N2[:, 1]

    # two leaves a tree and a gap of one row: five rows of ten points
    assert height_N[forest.leaves_L].tolist() == [45, 35, 15, 5]
    assert height_N[:2].tolist() == [40, 10]


@pytest.mark.parametrize(
    ("name", "forest"), [("tempflow", tempflow()), ("one step", chains([1, 0.0], 2, [False])), ("nft", nft())]
)
def test_a_picture_is_a_png_of_at_most_a_page(name: str, forest: Forest, tmp_path: Path) -> None:
    from PIL import Image

    draw_png([Sketch(name, forest)], tmp_path / "picture.png")
    with Image.open(tmp_path / "picture.png") as image:
        assert (image.format, image.width) == ("PNG", 1400)
        assert image.height <= 1600


def test_many_steps_and_a_hostile_name_are_drawn(tmp_path: Path) -> None:
    sketch = Sketch("$\\frac{\x1b[31m", chains(shifted_grid(300), 2, np.arange(300) < 299))
    draw_png([sketch, sketch], tmp_path / "picture.png")
    assert (tmp_path / "picture.png").stat().st_size > 1000


def test_a_keep_of_the_wrong_shape_is_refused() -> None:
    with pytest.raises(UserError, match="give 264"):
        Sketch("flat", flat(), np.ones(3, dtype=bool))


@pytest.mark.slow
def test_a_picture_needs_no_pyplot_and_no_torch(tmp_path: Path) -> None:
    imports = (
        "import pathlib\n"
        "from grpo_bench.forest.builders import chains\n"
        "from grpo_bench.forest.picture import draw_png\n"
        "from grpo_bench.forest.sketch import Sketch\n"
    )
    drawing = (
        "sketch = Sketch('flat', chains([1, .5, 0], 2, [True, False]))\n"
        f"draw_png([sketch], pathlib.Path({str(tmp_path / 'small.png')!r}))"
    )
    assert not {"matplotlib", "torch", "PIL"} & loaded_by(imports)
    assert not {"matplotlib.pyplot", "torch"} & loaded_by(imports + drawing)


# Machado, Oliveira and Fernandes 2009, severity 1, on linear RGB; OKLab by Ottosson 2020.
VISION = {
    "normal": np.eye(3),
    "protan": [[0.152286, 1.052583, -0.204868], [0.114503, 0.786281, 0.099216], [-0.003882, -0.048116, 1.051998]],
    "deutan": [[0.367322, 0.860646, -0.227968], [0.280085, 0.672501, 0.047413], [-0.011820, 0.042940, 0.968881]],
    "tritan": [[1.255528, -0.076749, -0.178779], [-0.078411, 0.930809, 0.147602], [0.004733, 0.691367, 0.303900]],
}
LMS = [[0.41222147, 0.53633254, 0.05144599], [0.2119035, 0.6806995, 0.1073970], [0.0883025, 0.2817188, 0.6299787]]
LAB = [[0.2104543, 0.7936178, -0.0040720], [1.9779985, -2.4285922, 0.4505937], [0.0259040, 0.7827718, -0.8086758]]


def linear(colour: str) -> np.ndarray:
    part = np.array(to_rgb(colour))
    return np.where(part <= 0.04045, part / 12.92, ((part + 0.055) / 1.055) ** 2.4)


@pytest.mark.parametrize("vision", VISION)
def test_methods_colours_are_told_apart_by_every_eye(vision: str) -> None:
    seen = {
        name: np.array(LAB) @ np.cbrt(np.array(LMS) @ np.clip(VISION[vision] @ linear(method_colour(name)), 0, 1))
        for name in KNOWN
    }
    apart = {pair: float(np.linalg.norm(seen[pair[0]] - seen[pair[1]])) for pair in combinations(KNOWN, 2)}
    assert min(apart.values()) > 0.065, min(apart, key=lambda pair: apart[pair])


def test_any_name_has_a_colour_that_shows_on_white() -> None:
    for name in (*KNOWN, "mine", "late", "x"):
        luminance = linear(method_colour(name)) @ [0.2126, 0.7152, 0.0722]
        assert 1.05 / (luminance + 0.05) > 2.2, name
    assert method_colour("late") == method_colour("late")
