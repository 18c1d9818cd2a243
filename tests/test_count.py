"""`count`: captions that round-trip, splits that share no scene, and a judge that says yes or no, exactly."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from grpo_bench.errors import UserError
from grpo_bench.workloads.count.judge import right
from grpo_bench.workloads.count.render import render
from grpo_bench.workloads.count.scenes import (
    BLIND,
    SPLITS,
    Kind,
    Scene,
    all_scenes,
    caption,
    parse,
    prompts,
    taught,
)
from grpo_bench.workloads.shapes.geometry import coverage
from grpo_bench.workloads.shapes.render import PALETTE
from grpo_bench.workloads.shapes.scenes import COLOURS, SHAPES, Thing

SCENES = all_scenes()[::7]
TRAIN_HELDOUT_TUNING = [152, 64, 30]
FEWER = [scene for scene in SCENES if sum(kind.count for kind in scene) > 1]
MORE = [scene for scene in SCENES if sum(kind.count for kind in scene) < 3]


def judged(pictures: np.ndarray, asked: list[Scene]) -> np.ndarray:
    """Scores after rounding to bytes, as evaluation sees the pictures."""
    return right((np.round(pictures * 255) / 255).astype(np.float32), list(map(caption, asked)))


def drawn(scenes: list[Scene]) -> np.ndarray:
    return render(scenes, np.random.default_rng(5))


def changed(scene: Scene, **values: object) -> Scene:
    """The scene with another first kind."""
    return (replace(scene[0], **values), *scene[1:])


def free_colour(scene: Scene) -> str:
    return next(colour for colour in COLOURS if colour not in {kind.thing.colour for kind in scene})


def test_every_scene_survives_being_told_and_read() -> None:
    scenes = all_scenes()
    # By hand: 18 things three times; pairs of other colours 15 * 9 once and twice (either may be the double); 20 * 27.
    assert len(scenes) == 18 * 3 + 135 + 270 + 540
    assert [parse(caption(scene)) for scene in scenes] == list(scenes)


def test_a_caption_reads_as_a_person_would_say_it() -> None:
    scene = (Kind(2, Thing("red", "circle")), Kind(1, Thing("blue", "square")))
    assert caption(scene) == "two red circles and one blue square"


@pytest.mark.parametrize(
    "text",
    [
        "",
        "a red circle",
        "two red circle",
        "one red circles",
        "four red circles",
        "one red circle and one red square",
        "two red circles and two blue squares",
        "one red circle and a cat",
        "one red circle and ",
    ],
)
def test_a_text_outside_the_grammar_is_refused(text: str) -> None:
    with pytest.raises(UserError, match="a count prompt reads"):
        parse(text)


def test_the_splits_are_frozen_and_disjoint_and_plain_captions_untaught() -> None:
    parts = [set(prompts(split)) for split in SPLITS]
    assert [len(part) for part in parts] == TRAIN_HELDOUT_TUNING
    assert len(set.union(*parts)) == sum(TRAIN_HELDOUT_TUNING)
    taught_prompts = set(map(caption, taught()))
    assert len(taught_prompts) == len(all_scenes()) - 18 - 38 - 38
    for split in ("heldout", "tuning"):
        assert not {text for text in prompts(split) if BLIND not in map(thing, parse(text))} & taught_prompts


def thing(kind: Kind) -> Thing:
    return kind.thing


def test_each_split_has_easy_and_hard_captions() -> None:
    for split in SPLITS:
        scenes = list(map(parse, prompts(split)))
        assert {len(scene) for scene in scenes} >= {2, 3}
        blind = sum(BLIND in map(thing, scene) for scene in scenes)
        assert 0.45 <= blind / len(scenes) <= 0.55


def test_true_pictures_are_right() -> None:
    assert judged(drawn(list(SCENES)), list(SCENES)).min() == 1


def test_a_wrong_number_is_wrong() -> None:
    less = [changed(scene, count=scene[0].count - 1) if scene[0].count > 1 else scene[1:] for scene in FEWER]
    assert judged(drawn(less), FEWER).max() == 0
    more = [changed(scene, count=scene[0].count + 1) for scene in MORE]
    assert judged(drawn(more), MORE).max() == 0


def test_a_wrong_colour_is_wrong() -> None:
    painted = [changed(scene, thing=Thing(free_colour(scene), scene[0].thing.shape)) for scene in SCENES]
    assert judged(drawn(painted), list(SCENES)).max() == 0


def test_a_wrong_shape_is_wrong() -> None:
    def turned(thing: Thing) -> Thing:
        return Thing(thing.colour, SHAPES[SHAPES.index(thing.shape) - 1])

    shaped = [changed(scene, thing=turned(scene[0].thing)) for scene in SCENES]
    assert judged(drawn(shaped), list(SCENES)).max() == 0


def test_exchanged_colours_are_wrong() -> None:
    asked = parse("two red circles and one blue square")
    drawn_instead = parse("two blue circles and one red square")
    assert judged(drawn([drawn_instead] * 8), [asked] * 8).max() == 0


def test_an_object_that_nobody_asked_for_is_wrong() -> None:
    extra = [(*scene, Kind(1, Thing(free_colour(scene), "circle"))) for scene in MORE]
    assert judged(drawn(extra), MORE).max() == 0


def test_pictures_of_nothing_are_wrong() -> None:
    rng = np.random.default_rng(0)
    flat = [np.broadcast_to(paint[:, None, None], (3, 32, 32)) for paint in PALETTE]
    nothing = np.stack([np.zeros((3, 32, 32)), np.ones((3, 32, 32)), rng.random((3, 32, 32)), *flat])
    for text in ("one red circle", "two red circles", "one red circle and one blue square"):
        assert right(nothing.astype(np.float32), [text] * len(nothing)).max() == 0


def test_touching_objects_are_one() -> None:
    def circles(distance: float) -> np.ndarray:
        middle = np.array([16 - distance / 2, 16 + distance / 2], np.float32)
        size = np.full(2, 8.0, np.float32)
        mask = coverage(middle, np.full(2, 16, np.float32), size)[:, 0].max(0)
        return 1 - mask * (1 - PALETTE[0])[:, None, None]

    pictures = np.stack([circles(14.0), circles(6.0)]).astype(np.float32)
    assert right(pictures, ["two red circles"] * 2).tolist() == [1, 0]
