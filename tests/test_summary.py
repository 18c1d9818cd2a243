"""A view's figures, against closed forms: curves are straight lines whose areas and differences are known by hand."""

from __future__ import annotations

import json
import math
from pathlib import Path

import numpy as np
import pytest
from scipy import stats
from studies import Spend, write_study

from grpo_bench.analysis.study import View, studies
from grpo_bench.analysis.summary import summarise, to_json
from grpo_bench.store.suite import References

BUDGET = 64_000
NOISE = (0.010, -0.004, 0.003, -0.007, 0.001, 0.006, -0.002, 0.004, -0.009, 0.005)


def line(gain: float, seed_share: float = 1.0):  # type: ignore[no-untyped-def]  # noqa: ANN201
    """A straight line from 0.5 up by `gain` and the seed's own noise."""
    return lambda seed, nfe: 0.5 + (gain + seed_share * NOISE[seed % len(NOISE)]) * nfe / BUDGET


def only(folder: Path) -> View:
    (view,) = studies(folder)[0].views
    return view


def test_gold_and_gain_are_the_seeds_mean_with_a_t_interval(tmp_path: Path) -> None:
    write_study(tmp_path, {"flat": line(0.1)}, range(5))

    figures = summarise(only(tmp_path)).method("flat")

    gains = 0.1 + np.array(NOISE[:5])
    half = stats.t.ppf(0.975, 4) * gains.std(ddof=1) / math.sqrt(5)
    assert figures.gain.mean == pytest.approx(gains.mean())
    assert (figures.gain.low, figures.gain.high) == pytest.approx((gains.mean() - half, gains.mean() + half))
    assert figures.gold.mean == pytest.approx(0.5 + gains.mean())
    assert (figures.base, figures.learned, figures.seeds) == (0.5, "gain", (0, 1, 2, 3, 4))


def test_the_hypervolume_of_a_line_is_the_stairs_below_it(tmp_path: Path) -> None:
    # 20 costs, k/20 of the budget worth k/20 of the gain: stairs of area (1 + ... + 19) / 400 of budget x gain.
    references = References(base=0.5, best=1.0, costs={"nfe": BUDGET}, targets={})
    write_study(tmp_path, {"flat": line(0.1, 0.0)}, range(2), references=references)

    area = summarise(only(tmp_path)).method("flat").hypervolume["nfe"]

    assert area.mean == pytest.approx(0.1 / 0.5 * 190 / 400)


def test_differences_are_taken_seed_by_seed(tmp_path: Path) -> None:
    # The seeds' noise is the same in both, so every difference is 0.05 but for tree's own small noise.
    tree = lambda seed, nfe: line(0.15)(seed, nfe) + 0.001 * (-1) ** seed * nfe / BUDGET  # noqa: E731
    write_study(tmp_path, {"flat": line(0.1), "tree": tree}, range(6), contrasts=("tree",))

    (contrast,) = summarise(only(tmp_path)).contrasts

    assert contrast.result.difference.mean == pytest.approx(0.05)
    half = stats.t.ppf(0.975, 5) * np.std([0.001, -0.001] * 3, ddof=1) / math.sqrt(6)
    assert contrast.result.difference.high == pytest.approx(0.05 + half)
    assert contrast.result.correlation > 0.9
    assert (contrast.verdict, contrast.primary, contrast.seeds) == ("better", True, 6)


def test_only_primary_contrasts_are_corrected_and_decided(tmp_path: Path) -> None:
    labels = {"flat": line(0.1), "tree": line(0.2, 2.0), "mix": line(0.2, 2.0), "branch": line(0.11, -1.0)}
    write_study(tmp_path, labels, range(5), contrasts=("tree", "branch"))

    found = {contrast.label: contrast for contrast in summarise(only(tmp_path)).contrasts}

    assert list(found) == ["tree", "branch", "mix"]
    assert found["mix"].verdict == "exploratory" and math.isnan(found["mix"].holm_p)
    smaller, larger = sorted((found["tree"].result.p, found["branch"].result.p))
    assert found["tree"].holm_p == pytest.approx(2 * smaller)  # Holm: the smallest times 2, the other times 1
    assert found["branch"].holm_p == pytest.approx(max(larger, 2 * smaller))
    assert (found["tree"].verdict, found["branch"].verdict) == ("better", "not shown to differ")


def test_a_named_contrast_without_a_finished_run_still_counts_in_the_family(tmp_path: Path) -> None:
    labels = {"flat": line(0.1), "tree": line(0.2, 2.0), "mix": line(0.1), "branch": line(0.1)}
    status = {("mix", seed): ("failed", "out of memory") for seed in range(5)}
    missing = [("branch", seed) for seed in range(5)]
    write_study(tmp_path, labels, range(5), contrasts=("tree", "mix", "branch"), status=status, missing=missing)  # type: ignore[arg-type]

    tree, mix, branch = summarise(only(tmp_path)).contrasts

    assert tree.holm_p == pytest.approx(3 * tree.result.p)
    for absent in (mix, branch):
        assert (absent.seeds, absent.verdict, absent.primary) == (0, "too few seeds", True)
        assert math.isnan(absent.result.difference.mean)


def test_a_baseline_without_a_finished_run_leaves_its_named_contrasts_undecided(tmp_path: Path) -> None:
    status = {("flat", seed): ("diverged", "a NaN") for seed in range(5)}
    write_study(
        tmp_path / "ended", {"flat": line(0.1), "tree": line(0.2)}, range(5), contrasts=("tree",), status=status
    )  # type: ignore[arg-type]
    never = [("flat", seed) for seed in range(5)]
    write_study(
        tmp_path / "never", {"flat": line(0.1), "tree": line(0.2)}, range(5), contrasts=("tree",), missing=never
    )

    for folder in ("ended", "never"):
        (contrast,) = summarise(only(tmp_path / folder)).contrasts
        assert (contrast.label, contrast.baseline, contrast.primary, contrast.seeds) == ("tree", "flat", True, 0)
        assert contrast.verdict == "too few seeds"
        assert math.isnan(contrast.result.difference.mean)


def test_below_five_seeds_nothing_is_better(tmp_path: Path) -> None:
    write_study(tmp_path, {"flat": line(0.1), "tree": line(0.4, 0.5)}, range(4), contrasts=("tree",))

    summary = summarise(only(tmp_path))

    assert [contrast.verdict for contrast in summary.contrasts] == ["too few seeds"]
    assert {method.learned for method in summary.methods} == {"too few seeds"}
    assert "better" not in json.dumps(to_json(summary))


def test_what_learns_nothing_is_no_gain_even_where_its_interval_is_clear_of_zero(tmp_path: Path) -> None:
    # Gains of 0.012 with a spread of 0.0015: significant, and smaller than what evaluation noise alone does (0.03).
    write_study(tmp_path, {"flat": line(0.012, 0.2)}, range(5), bases=(0.5, 0.515, 0.485))

    summary = summarise(only(tmp_path))

    assert summary.floor is not None and summary.floor.gold == pytest.approx(0.03)
    assert summary.method("flat").gain.low > 0
    assert summary.method("flat").learned == "within the noise floor"


def test_a_loss_is_called_a_loss(tmp_path: Path) -> None:
    write_study(tmp_path, {"flat": line(-0.1)}, range(5))

    assert summarise(only(tmp_path)).method("flat").learned == "loss"


def test_equal_cost_is_the_cut_of_each_axis(tmp_path: Path) -> None:
    # tree spends 2,000 nfe an iteration, so it makes half the updates: at equal updates flat is only half way.
    spend = {"tree": Spend(rollout_nfe=1400)}
    write_study(tmp_path, {"flat": line(0.1, 0.0), "tree": line(0.15, 0.0)}, range(5), spend=spend)

    summary = summarise(only(tmp_path))
    flat, tree = summary.method("flat"), summary.method("tree")

    assert (flat.gold_at["nfe"].mean, tree.gold_at["nfe"].mean) == pytest.approx((0.6, 0.65))
    assert (flat.gold_at["updates"].mean, tree.gold_at["updates"].mean) == pytest.approx((0.55, 0.65))
    assert tree.difference_at["updates"].mean == pytest.approx(0.10)
    assert math.isnan(flat.difference_at["updates"].mean)


def test_the_frontier_says_who_leads_where_by_how_much_and_in_how_many_seeds(tmp_path: Path) -> None:
    # mix leads by a head start until flat's steeper line overtakes it at 0.04 / 0.1 = 40% of the budget.
    early = lambda seed, nfe: 0.5 if nfe == 0 else 0.54 + 0.0001 * seed  # noqa: E731
    write_study(tmp_path, {"flat": line(0.1, 0.0), "mix": early}, range(5))

    axis = next(axis for axis in summarise(only(tmp_path)).axes if axis.axis == "nfe")

    assert [stretch.label for stretch in axis.frontier] == ["mix", "flat"]
    assert axis.frontier[0].last == pytest.approx(0.4 * BUDGET)
    assert (axis.frontier[1].ahead, axis.frontier[1].seeds, axis.frontier[1].runner_up) == (5, 5, "mix")
    assert axis.frontier[1].margin.mean == pytest.approx(0.06 - 0.0002)


def test_targets_are_shares_of_the_median_baselines_gain(tmp_path: Path) -> None:
    write_study(tmp_path, {"flat": line(0.1), "tree": line(0.4, 0.0), "mix": line(0.0, 0.0)}, range(5))

    summary = summarise(only(tmp_path))

    gain = 0.1 + float(np.median(NOISE[:5]))
    assert summary.references.targets == pytest.approx({s: 0.5 + int(s) / 100 * gain for s in ("25", "50", "90")})
    tree = summary.method("tree").targets["50"]["nfe"]
    assert (tree.median, tree.reached, tree.of) == pytest.approx((BUDGET * 0.5 * gain / 0.4, 5, 5))
    assert summary.method("mix").targets["25"]["nfe"].median == math.inf


def test_frozen_references_are_used_as_they_are(tmp_path: Path) -> None:
    references = References(base=0.4, best=0.9, costs={"nfe": 32_000}, targets={"50": 0.55})
    write_study(tmp_path, {"flat": line(0.1)}, range(2), references=references)

    summary = summarise(only(tmp_path))

    assert summary.frozen and summary.references == references
    assert list(summary.method("flat").hypervolume) and math.isnan(
        summary.method("flat").hypervolume["reward-calls"].mean
    )


def test_seconds_are_of_timed_runs_only(tmp_path: Path) -> None:
    write_study(tmp_path, {"flat": line(0.1)}, range(5), timed=False)

    summary = summarise(only(tmp_path))

    assert [axis.axis for axis in summary.axes] == ["nfe", "rollout-nfe", "reward-calls", "updates"]
    assert "seconds" not in summary.method("flat").costs
    assert summary.method("flat").costs["reward_calls"] == 64 * 32


def test_runs_that_did_not_finish_are_listed_with_their_reason(tmp_path: Path) -> None:
    status = {(label, seed): ("diverged", "a NaN") for label in ("flat", "tree") for seed in range(3)}
    write_study(tmp_path, {"flat": line(0.1), "tree": line(0.1)}, range(3), status=status)  # type: ignore[arg-type]

    summary = summarise(only(tmp_path))

    assert (summary.methods, summary.contrasts, summary.axes) == ((), (), ())
    assert {(ended.label, ended.status, ended.reason) for ended in summary.ended} == {
        ("flat", "diverged", "a NaN"),
        ("tree", "diverged", "a NaN"),
    }


def test_a_run_at_another_learning_rate_that_diverged_is_counted_and_shown(tmp_path: Path) -> None:
    write_study(tmp_path, {"flat": line(0.1)}, range(2), factors={1: 0.02, 3: 0.01})
    path = tmp_path / "study-flat-x3-s101" / "run.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | {"status": "diverged", "reason": "a NaN"}))

    summary = summarise(only(tmp_path))

    assert [(one.label, one.seed, one.status, one.reason) for one in summary.ended] == [
        ("flat", 101, "diverged", "at 3 x the learning rate: a NaN")
    ]
    assert {row.factor: row.gain.n for row in summary.tuning} == {1: 2}  # it ranks last, and has no mean to compare


def test_other_learning_rates_are_told_by_factor(tmp_path: Path) -> None:
    write_study(
        tmp_path,
        {"flat": line(0.1), "tree": line(0.2)},
        range(2),
        contrasts=("tree",),
        factors={0.333: 0.05, 3.0: -0.1},
    )

    tuning = {(row.label, row.factor): row.gain for row in summarise(only(tmp_path)).tuning}

    assert set(tuning) == {(label, factor) for label in ("flat", "tree") for factor in (0.333, 1.0, 3.0)}
    assert tuning["tree", 3.0].n == 2
    assert tuning["tree", 1.0].mean == pytest.approx(0.2 + (NOISE[0] + NOISE[1]) / 2)  # the reported runs themselves


def test_the_json_has_no_nan_and_no_infinity(tmp_path: Path) -> None:
    write_study(tmp_path, {"flat": line(0.1), "mix": line(0.0)}, range(1))

    text = json.dumps(to_json(summarise(only(tmp_path))), allow_nan=False)

    assert json.loads(text)["methods"][0]["gain"]["low"] is None
