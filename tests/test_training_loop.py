"""The loop owns the budget, the evaluation grid and the counters; the same seed gives the same points."""

from __future__ import annotations

import itertools
from functools import partial
from pathlib import Path

import pytest
from running import (
    FLAT_IMAGES,
    FLAT_NFE,
    FLAT_PAIR,
    FLAT_ROLLOUT,
    FLAT_TRAIN,
    Make,
    Watcher,
    config,
    reproducible,
    run,
    same_images,
    same_points,
)
from thrift import thrifty

from grpo_bench.config import Table
from grpo_bench.metering.ledger import Ledger

PROMPTS = 2
STEP = PROMPTS * FLAT_NFE
"""nfe an iteration: 2 prompts x (8 + 3 x 6)."""


@pytest.mark.parametrize(
    ("budget", "iterations"),
    [
        ({"iterations": 2.0}, 2),
        ({"iterations": 1.1}, 2),
        ({"nfe": 2 * STEP - 1.0}, 2),
        ({"nfe": 2 * STEP + 0.0}, 2),
        ({"rollout-nfe": PROMPTS * FLAT_ROLLOUT + 1.0}, 2),
        ({"reward-calls": PROMPTS * FLAT_IMAGES + 1.0}, 2),
        ({"updates": 2.0}, 2),
    ],
    ids=str,
)
def test_counted_budget_ends_with_the_first_iteration_at_or_past_it(
    make: Make, results: Path, budget: dict[str, float], iterations: int
) -> None:
    # given a budget of so many iterations, or a little less
    done = run(make(budget=budget), results)

    # then the last point says so, with every counter a multiple of the hand-counted iteration
    last = done.store.rows()[-1]
    assert done.record.status == "done"
    assert last["iteration"] == iterations
    assert last["nfe"] == iterations * STEP
    assert last["rollout_nfe"] == iterations * PROMPTS * FLAT_ROLLOUT
    assert last["train_nfe"] == iterations * PROMPTS * FLAT_TRAIN
    assert last["reward_calls"] == last["images"] == last["decodes"] == iterations * PROMPTS * FLAT_IMAGES
    assert last["trained_edges"] == iterations * PROMPTS * FLAT_TRAIN  # one trained edge a trained parent in a chain
    assert last["updates"] == iterations


def test_a_budget_lies_between_two_points_unless_one_is_at_it(make: Make, results: Path) -> None:
    between = run(make(budget={"nfe": 2.5 * STEP}, evaluation={"every": 10 * STEP, "noises": 2}), results).store
    at_it = run(make(budget={"nfe": 3.0 * STEP}, evaluation={"every": 10 * STEP, "noises": 2}), results).store

    assert [row["nfe"] for row in between.rows()] == [0, 2 * STEP, 3 * STEP]
    assert [row["nfe"] for row in at_it.rows()] == [0, 3 * STEP]
    for store in (between, at_it):  # all of them under every noise
        noises = store.prompt_scores().groupby("iteration")["noise"].nunique()
        assert noises.to_dict() == {row["iteration"]: 2 for row in store.rows()}


@pytest.mark.parametrize("seconds", [1e-9, 1.0])
def test_seconds_budget_ends_with_the_first_iteration_past_it(
    make: Make, results: Path, monkeypatch: pytest.MonkeyPatch, seconds: float
) -> None:
    # given a clock that goes on by 0.05 s each time that somebody looks
    ticks = itertools.count()
    monkeypatch.setattr("grpo_bench.training.session.Ledger", partial(Ledger, clock=lambda: next(ticks) / 20))
    watcher = Watcher()
    done = run(make(budget={"seconds": seconds}), results, watcher)

    spent = [progress.spent for progress in watcher.iterations]
    assert spent[-1] >= seconds
    assert all(earlier < seconds for earlier in spent[:-1])
    assert done.store.rows()[-1]["iteration"] == len(spent)
    assert len(spent) == 1 if seconds == 1e-9 else len(spent) > 1


@pytest.mark.parametrize(
    ("every", "at"),
    [
        (0, [0, 5]),
        (100, [0, 2, 4, 5]),  # marks 100, 200 at 104, 208; the last point is always evaluated
        (STEP, [0, 1, 2, 3, 4, 5]),
        (20, [0, 1, 2, 3, 4, 5]),  # two marks inside one iteration are one evaluation
        (5 * STEP, [0, 5]),  # a mark on the last iteration is not evaluated twice
        (10_000, [0, 5]),
    ],
)
def test_evaluation_marks_are_absolute(make: Make, results: Path, every: int, at: list[int]) -> None:
    done = run(make(budget={"iterations": 5.0}, evaluation={"every": every}), results)

    assert [row["iteration"] for row in done.store.rows()] == at
    assert [row["nfe"] for row in done.store.rows()] == [iteration * STEP for iteration in at]


def test_an_nfe_budget_is_evaluated_at_its_tenths(make: Make, results: Path) -> None:
    # given a budget of 5 iterations: marks every half iteration, so at each boundary
    done = run(make(budget={"nfe": 5.0 * STEP}), results)

    assert [row["iteration"] for row in done.store.rows()] == [0, 1, 2, 3, 4, 5]


def test_the_first_point_is_the_base_and_has_spent_nothing(make: Make, results: Path) -> None:
    first = run(make(budget={"iterations": 1.0}), results).store.rows()[0]

    counters = ["iteration", "nfe", "rollout_nfe", "train_nfe", "reference_nfe", "reward_calls", "updates", "images"]
    assert {name: first[name] for name in [*counters, "decodes", "trained_edges", "seconds"]} == dict.fromkeys(
        [*counters, "decodes", "trained_edges", "seconds"], 0
    )
    assert first["base_distance"] == 0


def test_evaluation_is_counted_apart(make: Make, results: Path) -> None:
    # given 2 held-out prompts x 2 images x 2 steps, and the distance from the base at 4 levels of the 2 prompts
    rows = run(make(budget={"iterations": 2.0}, evaluation={"every": STEP}), results).store.rows()

    assert [row["eval_nfe"] for row in rows] == [16, 32, 48]
    assert [row["nfe"] for row in rows] == [0, STEP, 2 * STEP]


def test_guidance_counts_two_and_a_reference_once_a_parent(make: Make, results: Path) -> None:
    done = run(make(budget={"iterations": 1.0}, sampling={"guidance": 2.0}, objective={"beta": 0.01}), results)

    last = done.store.rows()[-1]
    assert last["rollout_nfe"] == 2 * PROMPTS * FLAT_ROLLOUT
    assert last["train_nfe"] == last["reference_nfe"] == 2 * PROMPTS * FLAT_TRAIN
    assert last["nfe"] == last["rollout_nfe"] + last["reference_nfe"] + 3 * last["train_nfe"]


def test_updates_are_split_over_the_prompts(make: Make, results: Path) -> None:
    # given two updates an iteration
    once = run(make(budget={"iterations": 2.0}), results)
    twice = run(make(budget={"iterations": 2.0}, training={"updates": 2}), results)

    # then there are twice as many, for the same evaluations, and the policy ends elsewhere
    assert [done.store.rows()[-1]["updates"] for done in (once, twice)] == [2, 4]
    assert once.store.rows()[-1]["nfe"] == twice.store.rows()[-1]["nfe"]
    assert once.store.rows()[-1]["base_distance"] != twice.store.rows()[-1]["base_distance"]


METHODS = {
    "flat": FLAT_PAIR,
    "mix": {"name": "mix", "group": 2, "window": 1},
    "tree": {"name": "tree", "branching": 2, "window": 2},
}


@pytest.mark.slow
@pytest.mark.parametrize("method", thrifty(METHODS, 2))
def test_the_same_seed_gives_the_same_points_and_images(make: Make, tmp_path: Path, method: str) -> None:
    chosen = make(method=METHODS[method], budget={"iterations": 2.0}, training={"updates": 2})

    first, second = run(chosen, tmp_path / "first"), run(chosen, tmp_path / "second")

    assert first.record.run == second.record.run
    assert first.store.rows()[-1]["base_distance"] > 0
    same_points(first.store, second.store)
    same_images(first.store, second.store)


@pytest.mark.parametrize(
    "over", thrifty([{"model": {"trainable": "lora", "lora_rank": 2}}, {"model": {"dtype": "bf16"}}], 0)
)
def test_the_same_seed_gives_the_same_points_in_other_ways_to_train(make: Make, tmp_path: Path, over: Table) -> None:
    chosen = make(budget={"iterations": 2.0}, **over)

    first, second = run(chosen, tmp_path / "first"), run(chosen, tmp_path / "second")

    assert first.store.rows()[-1]["base_distance"] > 0
    same_points(first.store, second.store)


def test_another_seed_starts_from_the_same_base_and_ends_elsewhere(make: Make, results: Path) -> None:
    first, second = (run(make(seed=seed), results) for seed in (0, 1))

    assert first.record.run != second.record.run
    a, b = reproducible(first.store), reproducible(second.store)
    assert a.iloc[0].equals(b.iloc[0])
    assert a.iloc[-1]["base_distance"] != b.iloc[-1]["base_distance"]


def test_raw_rewards_are_added_before_the_z_score(make: Make, results: Path) -> None:
    # given one reward and its negative with weights 0.7 and 0.3: raw they add to 0.4 of the first, whose z-score is the
    # first's own, so that the run is the one on the first alone
    alone = run(make(), results)
    raw = run(make(reward={"name": "jpeg-compressibility:0.7,jpeg-incompressibility:0.3", "combine": "raw"}), results)

    a, b = alone.store.rows()[-1], raw.store.rows()[-1]
    assert b["base_distance"] == pytest.approx(a["base_distance"], rel=1e-3)
    assert b["proxy"] == pytest.approx(
        0.7 * b["reward/jpeg-compressibility"] + 0.3 * b["reward/jpeg-incompressibility"]
    )
    assert b["reward_calls"] == 2 * a["reward_calls"]


def test_z_scores_of_opposite_rewards_cancel(make: Make, results: Path) -> None:
    # given equal weights on a reward and its negative: no advantage, no gradient, and without decay no step
    spec = "jpeg-compressibility:0.5,jpeg-incompressibility:0.5"
    done = run(make(reward={"name": spec}, training={"weight_decay": 0.0}), results)

    assert done.store.rows()[-1]["proxy"] == pytest.approx(0)
    assert done.store.rows()[-1]["base_distance"] < 1e-12


def test_fewer_prompts_than_an_iteration_takes(make: Make, results: Path, tmp_path: Path, tiny_model: Path) -> None:
    # given one training prompt and five an iteration
    few = tmp_path / "few.txt"
    few.write_text("a\nb\n", encoding="utf-8")

    done = run(config(tiny_model, few, training={"prompts": 5}, budget={"iterations": 1.0}), results)

    assert done.store.rows()[-1]["images"] == 5 * FLAT_IMAGES


def test_an_average_of_the_weights_is_what_is_evaluated(make: Make, results: Path) -> None:
    plain, averaged = run(make(), results), run(make(training={"ema_decay": 0.9}), results)

    # then the average has moved, but less far than the weights
    assert 0 < averaged.store.rows()[-1]["base_distance"] < plain.store.rows()[-1]["base_distance"]
