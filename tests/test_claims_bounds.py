"""Claims at the edges: bounds that are met exactly, runs that never pass a target, and which runs are taken."""

from __future__ import annotations

import json
import math
from pathlib import Path

import pytest
from judging import claim, judged
from pydantic import ValidationError
from studies import Spend, write_study

from grpo_bench.analysis.claims import PublishedTable, Relation, direction_of, verdict_of
from grpo_bench.analysis.statistics import Estimate
from grpo_bench.store.suite import References

TARGET = References(base=0.5, best=1.0, costs={"nfe": 64_000}, targets={"90": 0.725})


@pytest.mark.parametrize(
    ("relation", "value", "interval"),
    [
        ("ratio_at_most", 0.4, (0.4, 0.5)),
        ("ratio_at_least", 2.0, (1.5, 2.0)),
        ("greater", 0.0, (0.0, 0.2)),
        ("less", 0.0, (-0.2, 0.0)),
        ("relative_gain_at_least", 0.16, (0.1, 0.16)),
    ],
)
def test_a_claim_that_holds_at_one_end_of_the_interval_only_is_open(
    relation: Relation, value: float, interval: tuple[float, float]
) -> None:
    """Given an interval whose last value on the claim's side, or whose only one off it, is the bound itself."""
    assert verdict_of(claim(relation=relation, value=value), Estimate(0.3, *interval, 5)) == "inconclusive"


@pytest.mark.parametrize(("relation", "value"), [("ratio_at_most", 0.4), ("greater", 0.0), ("less", 0.0)])
@pytest.mark.parametrize("side", [0, 1])
def test_an_interval_that_touches_no_effect_has_no_direction(relation: Relation, value: float, side: int) -> None:
    none = 1.0 if relation == "ratio_at_most" else 0.0
    interval = (none, none + 0.1) if side else (none - 0.1, none)

    assert direction_of(claim(relation=relation, value=value), Estimate(none, *interval, 5)) == "inconclusive"


@pytest.mark.parametrize("value", [math.inf, -math.inf, math.nan])
def test_a_claims_value_is_finite(value: float) -> None:
    with pytest.raises(ValidationError, match="finite"):
        claim(value=value)


def test_a_published_table_has_a_value_in_every_column() -> None:
    with pytest.raises(ValidationError, match="one value for each of the 2 columns"):
        PublishedTable(
            id="a", setting="", confidence="repo", columns=("method", "score"), rows=(("flat", 1), ("tree",))
        )


def tier(folder: Path, value: str) -> None:
    """Make all runs of a folder runs of another tier."""
    for path in folder.glob("*/run.json"):
        path.write_text(json.dumps(json.loads(path.read_text(encoding="utf-8")) | {"tier": value}), encoding="utf-8")


@pytest.mark.slow
def test_evidence_is_of_the_claims_tier_else_of_the_highest(tmp_path: Path) -> None:
    gold = {"flat": lambda s, nfe: 0.5, "tree": lambda s, nfe: 0.6}
    for name, seeds in (("geometry", 7), ("real", 5), ("tiny", 6)):
        write_study(tmp_path / name, gold, range(seeds), name=name)
        tier(tmp_path / name, name)

    used = {asked: judged(tmp_path, tier=asked).evidence for asked in ("tiny", "geometry", "real", "analytic")}

    assert {asked: one and one.study for asked, one in used.items()} == {
        "tiny": "tiny",
        "geometry": "geometry",
        "real": "real",
        "analytic": "real",
    }


def test_runs_with_a_common_seed_come_before_runs_of_the_claims_tier_without_one(tmp_path: Path) -> None:
    gold = {"flat": lambda s, nfe: 0.5 + 0.01 * s, "tree": lambda s, nfe: 0.6 + 0.011 * s}
    crossed = [("flat", 0), ("tree", 1)]
    write_study(tmp_path / "tiny", gold, range(2), name="crossed", missing=crossed)
    write_study(tmp_path / "real", gold, range(5), name="paired")
    tier(tmp_path / "real", "real")

    found = judged(tmp_path)

    assert found.evidence is not None
    assert (found.evidence.study, found.words) == ("paired", "same direction at tier real")


def test_gold_is_the_last_points_and_not_the_best(tmp_path: Path) -> None:
    peak = lambda s, nfe: 0.9 if nfe == 32_000 else 0.5 + 0.001 * s  # noqa: E731
    write_study(tmp_path, {"flat": lambda s, nfe: 0.6, "tree": peak})

    found = judged(tmp_path)

    assert found.effect is not None
    assert found.effect.interval.mean == pytest.approx(-0.098)
    assert found.words == "refuted"


def test_seconds_are_per_iteration_and_not_in_all(tmp_path: Path) -> None:
    # Tree: 2,000 nfe and 3 s an iteration, so 32 of them take 96 s; flat: 1,000 nfe and 2 s, 64 take 128 s.
    gold = {"flat": lambda s, nfe: 0.5, "tree": lambda s, nfe: 0.5}
    write_study(tmp_path, gold, spend={"tree": Spend(rollout_nfe=1400, seconds=3.0)})

    found = judged(tmp_path, metric="seconds_per_iteration", relation="ratio_at_most", value=0.8)

    assert found.effect is not None
    assert found.effect.interval.mean == pytest.approx(1.5)
    assert found.words == "refuted"


def test_a_difference_of_updates_to_a_target_is_in_updates(tmp_path: Path) -> None:
    # 0.725 is passed by flat at 57.6 of its 128 updates, by tree, twice as fast, at 28.8.
    gold = {"flat": lambda s, nfe: 0.5 + 0.5 * nfe / 64_000, "tree": lambda s, nfe: min(1.0, 0.5 + nfe / 64_000)}
    write_study(tmp_path, gold, references=TARGET)

    found = judged(tmp_path, metric="updates_to_target", relation="less", value=0.0)

    assert found.effect is not None
    assert found.effect.interval.mean == pytest.approx(-28.8)
    assert found.words == "reproduced"


def test_a_baseline_that_never_passes_the_target_bounds_the_ratio_from_above(tmp_path: Path) -> None:
    # Tree passes at 57.6 updates; flat had not in 128, so the ratio is at most 57.6 / 128, and may be anything below.
    gold = {"flat": lambda s, nfe: 0.5, "tree": lambda s, nfe: 0.5 + 0.5 * nfe / 64_000}
    write_study(tmp_path, gold, range(6), references=TARGET)

    found = judged(tmp_path, metric="updates_to_target", relation="ratio_at_most", value=0.5)

    assert found.effect is not None
    assert (found.effect.interval.low, found.effect.interval.high) == (0, pytest.approx(57.6 / 128))
    assert found.words == "reproduced"


def test_a_target_passed_at_the_last_point_may_have_been_passed_since_the_one_before(tmp_path: Path) -> None:
    # Flat passes at 57.6 updates. Tree is above the target at its last point only, which nothing confirms: its time is
    # then more than the 112 updates of the point before, and not more than the 128 of the last.
    gold = {
        "flat": lambda s, nfe: 0.5 + 0.5 * nfe / 64_000,
        "tree": lambda s, nfe: 0.8 if nfe == 64_000 else 0.5,
    }
    write_study(tmp_path, gold, range(6), references=TARGET)

    found = judged(tmp_path, metric="updates_to_target", relation="ratio_at_least", value=2.0)

    assert found.effect is not None
    assert (found.effect.interval.low, found.effect.interval.high) == (pytest.approx(112 / 57.6), math.inf)
    assert found.words == "inconclusive"


def test_a_baseline_that_begins_at_the_target_gives_no_ratio(tmp_path: Path) -> None:
    gold = {"flat": lambda s, nfe: 0.8 if s == 0 else 0.5 + 0.5 * nfe / 64_000, "tree": lambda s, nfe: 0.5}
    write_study(tmp_path, gold, range(6), references=TARGET)

    found = judged(tmp_path, metric="updates_to_target", relation="ratio_at_most", value=0.6)

    assert found.verdict == "inconclusive"
    assert found.missing == "a ratio needs a baseline that takes some updates, and one of its runs begins at the target"
