"""What each held-out prompt scored, under every evaluation noise, is stored beside the points."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest
from running import Make, Watcher, run, same_points
from thrift import thrifty

from grpo_bench.analysis.by_prompt import by_prompt
from grpo_bench.errors import UserError
from grpo_bench.store.prompt_scores import encode, parse_prompt_scores, with_scores
from grpo_bench.store.run import PROMPT_SCORES
from grpo_bench.training.run import resume

EVERY = {"evaluation": {"prompts": 2, "images": 2, "steps": 2, "noises": 3, "every": 1}}


def test_the_first_and_the_last_point_are_scored_under_every_noise(make: Make, results: Path) -> None:
    # given a run of three iterations that is evaluated after each
    store = run(make(**EVERY), results).store
    scores = store.prompt_scores()

    # then its ends have three noises and the points between one, each with both prompts
    noises = scores.groupby("iteration")["noise"].unique().map(sorted).to_dict()
    assert noises == {0: [0, 1, 2], 1: [0], 2: [0], 3: [0, 1, 2]}
    assert (scores.groupby(["iteration", "noise"])["prompt"].apply(list).map(tuple) == (0, 1)).all()

    # and a point is the mean of its prompts under the first noise, while the others draw other images
    first = scores[scores["noise"] == 0].groupby("iteration")["jpeg-compressibility"].mean()
    points = store.points().set_index("iteration")["reward/jpeg-compressibility"]
    np.testing.assert_allclose(first, points, rtol=1e-6)
    base = scores[scores["iteration"] == 0].pivot(index="prompt", columns="noise", values="jpeg-compressibility")
    assert base.nunique(axis=1).eq(3).all()


def test_more_noises_change_no_point(make: Make, tmp_path: Path) -> None:
    one, three = (run(make(evaluation={"noises": n}), tmp_path / str(n)).store for n in (1, 3))

    counters = [name for name in one.points() if not name.startswith("eval") and "seconds" not in name]
    counters.remove("peak_memory_bytes")
    assert one.points()[counters].equals(three.points()[counters])
    assert three.points()["eval_nfe"].iloc[-1] > one.points()["eval_nfe"].iloc[-1]


@pytest.mark.slow
@pytest.mark.parametrize("stop_after", thrifty([1, 2], 1))
def test_a_resumed_run_has_the_scores_of_the_uninterrupted_one(make: Make, tmp_path: Path, stop_after: int) -> None:
    whole = run(make(**EVERY), tmp_path / "whole").store
    stopped = run(make(**EVERY), tmp_path / "stopped", Watcher(stop_after=stop_after)).store
    (stopped.folder / PROMPT_SCORES).write_bytes(b"cut off")

    resume(stopped, Watcher())

    same_points(whole, stopped)


def test_scoring_again_replaces_and_other_evaluations_stay(tmp_path: Path) -> None:
    table = with_scores(None, 0, 0, {"gold": np.array([0.25, 0.5])})
    table = with_scores(table, 0, 1, {"gold": np.array([0.0, 1.0])})
    table = with_scores(table, 0, 0, {"gold": np.array([0.75, 0.5])})

    back = parse_prompt_scores(encode(table), tmp_path / "x").to_pandas().set_index(["noise", "prompt"])["gold"]
    assert back.to_dict() == {(1, 0): 0.0, (1, 1): 1.0, (0, 0): 0.75, (0, 1): 0.5}


@pytest.mark.parametrize(
    ("changed", "said"),
    [
        ({"prompt": [0, 0]}, "two rows of one prompt"),
        ({"gold": [0.5, float("nan")]}, "'gold' holds no finite scores"),
        ({"gold": [0.5, None]}, "'gold' holds no finite scores"),
        ({"gold": ["a", "b"]}, "'gold' holds no finite scores"),
        ({"noise": [0.5, 0.5]}, "not named by iteration, noise, prompt"),
    ],
)
def test_what_no_evaluation_gives_is_refused(tmp_path: Path, changed: dict[str, list[object]], said: str) -> None:

    sound = {"iteration": [0, 0], "noise": [0, 0], "prompt": [0, 1], "gold": [0.5, 0.5]}
    data = encode(pa.table(sound | changed))

    with pytest.raises(UserError, match=said):
        parse_prompt_scores(data, tmp_path / "prompt_scores.parquet")


@pytest.mark.parametrize(
    ("prompt", "noise"),
    [([0, 2], [0, 0]), ([0, 1], [1, 1]), ([-1, 0], [0, 0]), ([0, 10**12], [0, 0]), ([0, 1, 0], [0, 0, 1]), ([], [])],
    ids=["gap", "from-1", "negative", "huge", "half", "none"],
)
def test_scores_of_prompts_that_are_not_counted_are_refused(prompt: list[int], noise: list[int]) -> None:
    """Also where a small table would ask for an array of any size."""
    keys = {"iteration": [0] * len(prompt), "noise": noise, "prompt": prompt}
    table = {name: pa.array(values, pa.int64()) for name, values in keys.items()}
    scores = pa.table(table | {"r": pa.array([0.5] * len(prompt), pa.float32())})
    with pytest.raises(UserError, match=r"counted from 0|every prompt and noise"):
        by_prompt(scores, {"r": 1.0}, [0, 1], [0, 1], 1)
