"""Which runs a figure takes: each seed's own base and last point, the seeds both have, and over seconds timed runs."""

from __future__ import annotations

import math
from collections.abc import Callable
from pathlib import Path

import pytest
from studies import Spend, write_study

from grpo_bench.analysis.study import View, studies
from grpo_bench.analysis.summary import summarise
from grpo_bench.store.suite import References

BUDGET = 64_000


def only(folder: Path) -> View:
    (view,) = studies(folder)[0].views
    return view


def line(base: float, gain: float, of_seed: float = 0.0) -> Callable[[int, float], float]:
    """From `base` up by `gain`, and `of_seed` higher from seed to seed."""
    return lambda seed, nfe: base + of_seed * seed + gain * nfe / BUDGET


def test_a_gain_is_from_the_seeds_own_base_to_its_last_point(tmp_path: Path) -> None:
    # Seeds start at 0.50, 0.52, 0.54, peak at half of the budget and end 0.10, 0.13, 0.16 above their start.
    def gold(seed: int, nfe: float) -> float:
        return 0.50 + 0.02 * seed + (0.9 if nfe == BUDGET / 2 else (0.10 + 0.03 * seed) * nfe / BUDGET)

    references = References(base=0.4, best=1.0, costs={}, targets={})
    write_study(
        tmp_path, {"flat": gold}, range(3), references=references, proxy=lambda seed, nfe: 1 + 2 * gold(seed, nfe)
    )

    flat = summarise(only(tmp_path)).method("flat")

    assert flat.base == pytest.approx(0.52)
    assert flat.gain.mean == pytest.approx(0.13)
    assert flat.gold.mean == pytest.approx(0.65)
    assert flat.proxy_gain.mean == pytest.approx(0.26)


def test_differences_are_of_the_seeds_that_both_have(tmp_path: Path) -> None:
    """Given seeds far apart, of which each misses another one, then every difference is 0.05 and none crosses seeds."""
    write_study(
        tmp_path, {"flat": line(0.1, 0.1, 0.15), "tree": line(0.1, 0.15, 0.15)}, range(5), contrasts=("tree",),
        missing=[("flat", 0), ("tree", 4), ("tree", 2)],
        references=References(base=0.1, best=1.1, costs={"nfe": BUDGET}, targets={}),
    )  # fmt: skip

    found = summarise(only(tmp_path))
    tree, (contrast,) = found.method("tree"), found.contrasts

    assert (contrast.seeds, contrast.result.difference.n) == (2, 2)
    assert contrast.result.difference.mean == pytest.approx(0.05)
    assert (tree.difference_at["nfe"].n, tree.difference_at["nfe"].mean) == (2, pytest.approx(0.05))
    # Stairs below a line: (1 + ... + 19) / 400 of its rise; the box is 1 high. What both start above the base cancels.
    assert tree.hypervolume_difference["nfe"].n == 2
    assert tree.hypervolume_difference["nfe"].mean == pytest.approx(0.05 * 190 / 400)
    assert math.isnan(found.method("flat").hypervolume_difference["nfe"].mean)


@pytest.fixture
def shared(tmp_path: Path) -> View:
    """Five seeds of each; two of flat shared their device, took ten times as long and ended higher than any other."""
    timed = {"flat": line(0.5, 0.1), "tree": line(0.5, 0.2)}
    write_study(tmp_path, timed, range(3), suite=False, name="alone")
    write_study(tmp_path, {"tree": timed["tree"]}, (3, 4), suite=False, name="more")
    write_study(
        tmp_path, {"flat": line(0.5, 0.4)}, (3, 4), suite=False, name="together", timed=False,
        spend={"flat": Spend(seconds=20.0)},
    )  # fmt: skip
    return only(tmp_path)


def test_over_seconds_runs_that_shared_their_device_count_nowhere(shared: View) -> None:
    found = summarise(shared)
    flat, tree = found.method("flat"), found.method("tree")
    (seconds,) = (axis for axis in found.axes if axis.axis == "seconds")

    assert (seconds.runs, seconds.untimed, seconds.cut) == (8, 2, 128)
    assert (flat.gold_at["seconds"].n, flat.gold_at["seconds"].mean) == (3, pytest.approx(0.6))
    assert (tree.difference_at["seconds"].n, tree.difference_at["seconds"].mean) == (3, pytest.approx(0.1))
    assert tree.hypervolume_difference["seconds"].n == 3
    assert [(one.label, one.seeds) for one in seconds.frontier] == [("tree", 3)]
    assert seconds.frontier[-1].margin.mean == pytest.approx(0.1)
    assert {reached["seconds"].of for reached in flat.targets.values()} == {3}
    assert (flat.costs["seconds"], flat.costs["rollout_seconds"]) == (128, 64)


def test_over_counted_costs_they_count_as_any_other(shared: View) -> None:
    found = summarise(shared)
    (nfe,) = (axis for axis in found.axes if axis.axis == "nfe")

    assert (nfe.runs, nfe.untimed) == (10, 0)
    assert found.method("flat").gold_at["nfe"].mean == pytest.approx((3 * 0.6 + 2 * 0.9) / 5)
    assert found.method("tree").difference_at["nfe"].mean == pytest.approx((3 * 0.1 - 2 * 0.2) / 5)
    assert {reached["nfe"].of for reached in found.method("flat").targets.values()} == {5}


def test_the_seconds_of_a_phase_are_of_timed_runs_though_most_shared_their_device(tmp_path: Path) -> None:
    # 64 iterations of 2 s, half of it rollout, on the one seed that had its device to itself.
    write_study(tmp_path, {"flat": line(0.5, 0.1)}, (0,), suite=False, name="alone")
    write_study(
        tmp_path, {"flat": line(0.5, 0.1)}, (1, 2), suite=False, name="together", timed=False,
        spend={"flat": Spend(seconds=20.0, reward_calls=10)},
    )  # fmt: skip

    costs = summarise(only(tmp_path)).method("flat").costs

    assert (costs["seconds"], costs["rollout_seconds"], costs["train_seconds"]) == (128, 64, pytest.approx(51.2))
    assert costs["reward_calls"] == 64 * 10


def test_costs_are_medians_over_seeds(tmp_path: Path) -> None:
    for seed, calls in enumerate((10, 60, 20)):
        write_study(
            tmp_path, {"flat": line(0.5, 0.1)}, (seed,), suite=False, name=f"run{seed}",
            spend={"flat": Spend(reward_calls=calls)},
        )  # fmt: skip

    assert summarise(only(tmp_path)).method("flat").costs["reward_calls"] == 64 * 20


def test_the_frontier_is_of_means_and_says_in_how_many_seeds_it_holds(tmp_path: Path) -> None:
    # Tree gains 0.3 on the last of three seeds and nothing else; its mean of 0.1 is the highest, its median the lowest.
    labels = {
        "flat": line(0.5, 0.06),
        "tree": lambda seed, nfe: 0.5 + (0.3 if seed == 2 else 0.0) * nfe / BUDGET,
        "nft": line(0.5, 0.01),
        "mix": line(0.5, 0.07),
    }
    write_study(tmp_path, labels, range(3))

    axis = next(axis for axis in summarise(only(tmp_path)).axes if axis.axis == "nfe")

    (stretch,) = axis.frontier
    assert (stretch.label, stretch.runner_up, stretch.ahead, stretch.seeds) == ("tree", "mix", 1, 3)
    assert stretch.margin.mean == pytest.approx(0.03)


def test_a_leader_is_ahead_in_a_seed_only_where_no_label_is_above_it(tmp_path: Path) -> None:
    # Tree has the highest mean. In seed 0 mix, the runner-up, is above it; in seed 1 flat, the last, is.
    ends = {"flat": (0.0, 0.35, 0.0), "mix": (0.35, 0.1, 0.1), "tree": (0.3, 0.3, 0.3)}
    write_study(
        tmp_path,
        {label: lambda seed, nfe, own=own: 0.5 + own[seed] * nfe / BUDGET for label, own in ends.items()},
        range(3),
    )

    (stretch,) = next(axis for axis in summarise(only(tmp_path)).axes if axis.axis == "nfe").frontier

    assert (stretch.label, stretch.runner_up, stretch.ahead, stretch.seeds) == ("tree", "mix", 1, 3)


def test_stretches_follow_one_another_over_the_grid(tmp_path: Path) -> None:
    early = lambda seed, nfe: 0.5 if nfe == 0 else 0.542  # noqa: E731
    write_study(tmp_path, {"flat": line(0.5, 0.1), "mix": early}, range(2))

    axis = next(axis for axis in summarise(only(tmp_path)).axes if axis.axis == "nfe")

    # Of the costs k / 20 of the budget flat is above mix from the ninth on, at 0.045.
    assert [(one.label, one.first, one.last) for one in axis.frontier] == [
        ("mix", 3_200, pytest.approx(8 * 3_200)),
        ("flat", pytest.approx(9 * 3_200), 64_000),
    ]


def test_targets_and_noise_floor_are_read_against_the_frozen_references(tmp_path: Path) -> None:
    references = References(base=0.4, best=0.9, costs={"nfe": BUDGET}, targets={"50": 0.55})
    write_study(tmp_path, {"flat": line(0.5, 0.1)}, range(2), references=references, bases=(0.5, 0.53))

    found = summarise(only(tmp_path))

    assert list(found.method("flat").targets) == ["50"]
    assert found.method("flat").targets["50"]["nfe"].median == pytest.approx(BUDGET / 2)
    assert found.floor is not None
    assert (found.floor.gold, found.floor.share) == pytest.approx((0.03, 0.03 / 0.5))


def test_interrupted_runs_are_listed_too_and_in_no_figure(tmp_path: Path) -> None:
    write_study(tmp_path, {"flat": line(0.5, 0.1)}, range(2), status={("flat", 1): ("interrupted", "stopped")})

    found = summarise(only(tmp_path))

    assert found.method("flat").seeds == (0,)
    assert [(one.seed, one.status, one.reason) for one in found.ended] == [(1, "interrupted", "stopped")]
