"""The gold of `shapes`: near 1 on true pictures, low on each kind of wrong one, and fond of clean ones."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from grpo_bench.errors import UserError
from grpo_bench.workloads.shapes.judge import appeal, correctness, judge
from grpo_bench.workloads.shapes.render import PALETTE, render, render_ideal
from grpo_bench.workloads.shapes.scenes import COLOURS, INVERSE, SHAPES, Scene, Thing, all_scenes, caption, parse

TURNED = {"left of": "above", "right of": "below", "above": "right of", "below": "left of"}
SCENES = all_scenes()[::3]
PAIRS = [scene for scene in SCENES if scene.second is not None]


def recoloured(scene: Scene) -> Scene:
    free = next(colour for colour in COLOURS if colour not in {thing.colour for thing in scene.things})
    return replace(scene, first=Thing(free, scene.first.shape))


def reshaped(scene: Scene) -> Scene:
    return replace(scene, first=Thing(scene.first.colour, SHAPES[SHAPES.index(scene.first.shape) - 1]))


def exchanged(scene: Scene) -> Scene:
    """The two objects keep their shapes and trade their colours."""
    assert scene.second is not None
    return replace(
        scene, first=Thing(scene.second.colour, scene.first.shape), second=Thing(scene.first.colour, scene.second.shape)
    )


WRONG = {  # what is drawn instead, and the mean correctness that it may not exceed (all from the formula's weights)
    "relation swapped": (lambda s: replace(s, relation=INVERSE[s.relation]), 0.33),  # (0.24 + 0.40) / 2
    "relation turned": (lambda s: replace(s, relation=TURNED[s.relation]), 0.45),
    "second object missing": (lambda s: Scene(s.first), 0.17),  # 0.32 / 2
    "colour wrong": (recoloured, 0.17),
    "shape wrong": (reshaped, 0.41),  # 0.80 / 2
    "colours exchanged": (exchanged, 0.33),
}


def told(scenes: list[Scene]) -> list[str]:
    return [caption(scene) for scene in scenes]


def test_true_pictures_are_right_whatever_their_nuisance() -> None:
    pictures = render(SCENES, np.random.default_rng(7))
    scores = correctness(pictures, told(list(SCENES)))
    assert scores.mean() >= 0.97
    assert (scores > 0.95).mean() >= 0.97


def test_ideal_pictures_are_fully_right_and_appealing() -> None:
    right, liked = judge(render_ideal(SCENES), told(list(SCENES)))
    assert right.min() >= 0.97
    assert liked.min() >= 0.9


@pytest.mark.parametrize("kind", WRONG)
@pytest.mark.parametrize("ideal", [True, False])
def test_a_wrong_picture_scores_low(kind: str, ideal: bool) -> None:
    change, bound = WRONG[kind]
    drawn = [change(scene) for scene in PAIRS]
    pictures = render_ideal(drawn) if ideal else render(drawn, np.random.default_rng(7))
    scores = correctness(pictures, told(PAIRS))
    assert scores.mean() <= bound, f"{kind}: {scores.mean():.3f}"


def test_a_lone_object_of_the_wrong_shape_or_colour_scores_low() -> None:
    asked = [parse("a red circle")] * 2
    pictures = render_ideal([parse("a red square"), parse("a green circle")])
    shape, colour = correctness(pictures, told(asked))
    assert shape == pytest.approx(0.5 * 0.4, abs=0.01)  # the colour's share of the mean, nothing of the product
    assert colour <= 0.01


def test_an_object_nobody_asked_for_costs() -> None:
    picture = render_ideal([parse("a red circle above a green square")])
    assert correctness(picture, ["a red circle"])[0] < 0.5


def test_pictures_of_nothing_score_nothing() -> None:
    rng = np.random.default_rng(7)
    nothing = np.stack(
        [
            np.ones((3, 32, 32)),
            np.zeros((3, 32, 32)),
            np.full((3, 32, 32), 0.5),
            rng.random((3, 32, 32)),
            np.broadcast_to(PALETTE[0][:, None, None], (3, 32, 32)),
        ]
    ).astype(np.float32)
    for prompt in ("a red circle", "a red circle left of a blue square"):
        right, liked = judge(nothing, [prompt] * len(nothing))
        assert right.max() <= 0.02, right
        assert liked.max() <= 0.1, liked


def painted(*, radius: float = 5.5, purity: float = 1.0, ground: float = 1.0, ripple: float = 0.0) -> np.ndarray:
    """A red disc in the middle, by hand."""
    y, x = np.mgrid[:32, :32] - 15.5
    disc = np.clip(radius + 0.5 - np.hypot(x, y), 0, 1)
    red = purity * PALETTE[0] + (1 - purity) * 0.5
    back = ground + ripple * np.sin(x)
    return (disc * red[:, None, None] + (1 - disc) * np.clip(back, 0, 1)).astype(np.float32)


@pytest.mark.parametrize(
    "worse",
    [{"radius": 3.5}, {"radius": 10.0}, {"purity": 0.6}, {"ground": 0.7}, {"ground": 0.9, "ripple": 0.1}],
    ids=str,
)
def test_each_flaw_costs_appeal_but_not_correctness(worse: dict[str, float]) -> None:
    pictures = np.stack([painted(), painted(**worse)])
    right, liked = judge(pictures, ["a red circle"] * 2)
    assert right.min() >= 0.97
    assert liked[0] >= 0.95
    assert liked[1] < liked[0] - 0.05


def test_appeal_rises_smoothly_with_purity() -> None:
    pictures = np.stack([painted(purity=purity, ground=0.8) for purity in np.linspace(0.35, 0.9, 12)])
    assert (np.diff(appeal(pictures, ["a red circle"] * 12)) > 0.01).all()


def test_the_training_pictures_leave_room_for_appeal() -> None:
    liked = appeal(render(SCENES, np.random.default_rng(7)), told(list(SCENES)))
    assert 0.3 <= liked.mean() <= 0.6
    assert liked.max() > 0.75  # the better pictures do occur


def test_a_batch_is_judged_as_its_pictures_one_at_a_time() -> None:
    scenes = list(SCENES[:40])
    pictures = render(scenes, np.random.default_rng(7))
    batched = judge(pictures, told(scenes))
    single = [judge(pictures[i : i + 1], told(scenes[i : i + 1])) for i in range(len(scenes))]
    np.testing.assert_allclose(np.stack(batched, 1), np.concatenate([np.stack(pair, 1) for pair in single]), atol=1e-5)


def test_a_strange_caption_is_refused() -> None:
    with pytest.raises(UserError, match="a shapes prompt reads"):
        correctness(np.ones((1, 3, 32, 32), np.float32), ["a cat"])


def test_a_renderer_s_seed_decides_its_pictures() -> None:
    first, again = (render(SCENES[:8], np.random.default_rng(3)) for _ in range(2))
    assert np.array_equal(first, again)
    assert not np.array_equal(first, render(SCENES[:8], np.random.default_rng(4)))
