"""Published claims as predicates: which verdict an interval gives, where it binds, and which runs are used."""

from __future__ import annotations

import json
import math
import tomllib
from pathlib import Path
from typing import get_args

import pytest
from judging import claim, judged
from studies import Spend, write_study

from grpo_bench.analysis.claims import (
    SHIPPED,
    Claim,
    Published,
    Relation,
    direction_of,
    read_claims,
    verdict_of,
)
from grpo_bench.analysis.effects import METRICS, median_interval
from grpo_bench.analysis.statistics import Estimate
from grpo_bench.errors import UserError
from grpo_bench.store.suite import References

T4 = 2.7764451051977987  # t(4, 0.975): five seeds


def test_shipped_claims_are_those_that_were_published() -> None:
    published = read_claims()

    assert [one.id for one in published.claim] == [
        "tree-faster-than-dance", "tree-dominates-pareto", "branch-cuts-time-55", "branch-mix-4.7x",
        "branch-alignment-16", "tempflow-10x", "mix-halves-time",
    ]  # fmt: skip
    assert [table.id for table in published.table] == [
        "treegrpo-hps", "treegrpo-hps-clip", "treegrpo-ablation", "branchgrpo", "mixgrpo",
    ]  # fmt: skip


def test_docs_show_a_claim_as_it_is_shipped() -> None:
    text = (Path(__file__).parents[1] / "docs" / "claims.md").read_text(encoding="utf-8")
    shown = "\n".join(line.strip() for line in text.split("    [[claim]]")[1].split("\n\n")[0].splitlines())

    assert Claim.model_validate(tomllib.loads(shown)) == read_claims().claim[0]
    assert all(f"`{name}`" in text for name in (*get_args(Relation), *METRICS))


@pytest.mark.parametrize(
    ("relation", "value", "interval", "expected"),
    [
        ("ratio_at_most", 0.4, (0.2, 0.4), "reproduced"),
        ("ratio_at_most", 0.4, (0.3, 0.5), "inconclusive"),
        ("ratio_at_most", 0.4, (0.41, 0.5), "refuted"),
        ("ratio_at_least", 2.0, (2.0, 3.0), "reproduced"),
        ("ratio_at_least", 2.0, (1.5, 1.9), "refuted"),
        ("greater", 0.0, (0.01, 0.2), "reproduced"),
        ("greater", 0.0, (-0.01, 0.2), "inconclusive"),
        ("greater", 0.0, (-0.2, 0.0), "refuted"),
        ("less", 0.0, (-0.2, -0.1), "reproduced"),
        ("less", 0.0, (0.0, 0.1), "refuted"),
        ("relative_gain_at_least", 0.16, (0.16, 0.2), "reproduced"),
        ("relative_gain_at_least", 0.16, (0.1, 0.2), "inconclusive"),
        ("relative_gain_at_least", 0.16, (0.05, 0.15), "refuted"),
    ],
)
def test_relation_holds_all_over_the_interval_nowhere_or_in_part(
    relation: Relation, value: float, interval: tuple[float, float], expected: str
) -> None:
    one = claim(relation=relation, value=value)

    assert verdict_of(one, Estimate(sum(interval) / 2, *interval, 5)) == expected


@pytest.mark.parametrize(
    ("relation", "value", "interval", "expected"),
    [
        ("ratio_at_most", 0.4, (0.7, 0.9), "same direction"),
        ("ratio_at_most", 0.4, (0.9, 1.1), "inconclusive"),
        ("ratio_at_most", 0.4, (1.1, 1.3), "opposite direction"),
        ("ratio_at_least", 2.0, (1.1, 1.3), "same direction"),
        ("greater", 0.0, (0.1, 0.2), "same direction"),
        ("less", 0.0, (0.1, 0.2), "opposite direction"),
        ("relative_gain_at_least", 0.16, (0.01, 0.02), "same direction"),
        ("relative_gain_at_least", 0.16, (-0.02, -0.01), "opposite direction"),
    ],
)
def test_direction_needs_an_interval_clear_of_no_effect(
    relation: Relation, value: float, interval: tuple[float, float], expected: str
) -> None:
    one = claim(relation=relation, value=value)

    assert direction_of(one, Estimate(sum(interval) / 2, *interval, 5)) == expected


def test_difference_has_the_t_interval_of_the_seeds_differences(tmp_path: Path) -> None:
    # Final differences 0.10, 0.11, ..., 0.14: mean 0.12, standard deviation sqrt(0.00025), over five seeds
    write_study(
        tmp_path,
        {
            "flat": lambda s, nfe: 0.5 + 0.03 * s,
            "tree": lambda s, nfe: 0.5 + 0.03 * s + (0.1 + 0.01 * s) * nfe / 64_000,
        },
    )

    found = judged(tmp_path)

    half = T4 * math.sqrt(0.00025 / 5)
    assert found.effect is not None
    assert found.effect.interval.mean == pytest.approx(0.12)
    assert (found.effect.interval.low, found.effect.interval.high) == pytest.approx((0.12 - half, 0.12 + half))
    assert (found.words, found.binding) == ("reproduced", True)
    assert found.evidence is not None
    assert len(found.evidence.runs) == 10
    assert found.evidence.runs[0] == "study-tree-s0"


def test_relative_gain_is_the_geometric_mean_ratio_less_one(tmp_path: Path) -> None:
    write_study(tmp_path, {"flat": lambda s, nfe: 0.5 + 0.01 * s, "tree": lambda s, nfe: 1.2 * (0.5 + 0.01 * s)})

    found = judged(tmp_path, relation="relative_gain_at_least", value=0.16)

    assert found.effect is not None
    assert found.effect.interval.mean == pytest.approx(0.2)
    assert found.words == "reproduced"


def test_at_another_tier_or_protocol_only_the_direction_is_said(tmp_path: Path) -> None:
    write_study(tmp_path, {"flat": lambda s, nfe: 0.5 + 0.01 * s, "tree": lambda s, nfe: 0.55 + 0.011 * s})

    tier, protocol = judged(tmp_path, tier="real"), judged(tmp_path, protocol="paper")

    for found in (tier, protocol):
        assert found.words == "same direction at tier tiny"
        assert not found.binding


def test_seconds_come_from_timed_runs_of_another_folder(tmp_path: Path) -> None:
    gold = {"flat": lambda s, nfe: 0.5, "tree": lambda s, nfe: 0.5}
    # 1000 nfe and 2 s an iteration against 1000 nfe and 1 s: half the seconds an iteration, exactly
    spend = {"tree": Spend(seconds=1.0)}
    write_study(tmp_path / "counted", gold, range(10), name="counted", spend=spend, timed=False)
    write_study(tmp_path / "clocked", gold, range(5), name="clocked", spend=spend)

    found = judged(tmp_path, metric="seconds_per_iteration", relation="ratio_at_most", value=0.6)

    assert found.evidence is not None
    assert (found.evidence.study, len(found.evidence.pairs)) == ("clocked", 5)
    assert found.effect is not None
    assert found.effect.interval.mean == pytest.approx(0.5)
    assert found.words == "reproduced"


def test_untimed_runs_have_no_seconds(tmp_path: Path) -> None:
    write_study(tmp_path, {"flat": lambda s, nfe: 0.5, "tree": lambda s, nfe: 0.5}, timed=False)

    found = judged(tmp_path, metric="seconds_per_iteration", relation="ratio_at_most", value=0.6)

    assert found.words == "no runs"
    assert "no timed runs of tree and flat" in found.missing


def test_what_is_missing_is_named(tmp_path: Path) -> None:
    write_study(tmp_path, {"flat": lambda s, nfe: 0.5, "tree": lambda s, nfe: 0.6}, range(4))

    few, none = judged(tmp_path), judged(tmp_path, method="tempflow")

    assert (few.verdict, few.missing) == ("inconclusive", "4 paired seeds of at least 5")
    assert (none.words, none.missing) == ("no runs", "no finished run of tempflow")


@pytest.mark.slow
def test_evidence_is_of_the_tier_then_the_protocol_then_the_most_seeds(tmp_path: Path) -> None:
    gold = {"flat": lambda s, nfe: 0.5, "tree": lambda s, nfe: 0.6}
    write_study(tmp_path / "a", gold, range(5), name="few")
    write_study(tmp_path / "b", gold, range(7), name="many")
    write_study(tmp_path / "c", gold, range(6), name="paper", protocol="paper", recipe="dancegrpo")

    controlled, paper = judged(tmp_path), judged(tmp_path, protocol="paper")

    assert controlled.evidence is not None
    assert paper.evidence is not None
    assert (controlled.evidence.study, len(controlled.evidence.pairs)) == ("many", 7)
    assert (paper.evidence.study, paper.words) == ("paper", "reproduced")


def test_the_cell_with_the_methods_name_is_preferred_to_a_variant(tmp_path: Path) -> None:
    write_study(
        tmp_path,
        {
            "flat-matched-updates": lambda s, nfe: 0.9,
            "flat-window": lambda s, nfe: 0.9,
            "flat": lambda s, nfe: 0.5,
            "mix": lambda s, nfe: 0.6,
        },
    )

    found = judged(tmp_path, method="mix")

    assert found.evidence is not None
    assert (found.evidence.label, found.evidence.baseline) == ("mix", "flat")


def test_updates_to_target_is_the_ratio_of_first_passages(tmp_path: Path) -> None:
    # Gold rises by 0.5 over the whole budget (flat) and twice as fast (tree): 0.725 is passed at 28,800 and 14,400 nfe
    references = References(base=0.5, best=1.0, costs={"nfe": 64_000}, targets={"90": 0.725})
    write_study(
        tmp_path,
        {"flat": lambda s, nfe: 0.5 + 0.5 * nfe / 64_000, "tree": lambda s, nfe: min(1.0, 0.5 + nfe / 64_000)},
        references=references,
    )

    found = judged(tmp_path, metric="updates_to_target", relation="ratio_at_most", value=0.6)

    assert found.effect is not None
    assert found.effect.interval.mean == pytest.approx(0.5)
    assert found.words == "reproduced"


def test_a_run_that_updates_nothing_has_no_updates_to_a_target(tmp_path: Path) -> None:
    gold = {"flat": lambda s, nfe: 0.5 + nfe / 640_000, "tree": lambda s, nfe: 0.5}
    write_study(tmp_path, gold, spend={"tree": Spend(updates=0)})

    found = judged(tmp_path, metric="updates_to_target", relation="ratio_at_most", value=0.6)

    assert found.verdict == "no runs"
    assert found.missing == "no runs of tree and flat with a common seed whose updates grow from point to point"


def test_a_target_never_reached_only_bounds_the_ratio(tmp_path: Path) -> None:
    # Tree never reaches 0.725 in its 128 updates; flat passes at 57.6 of them: every ratio is at least 128 / 57.6
    references = References(base=0.5, best=1.0, costs={"nfe": 64_000}, targets={"90": 0.725})
    gold = {"flat": lambda s, nfe: 0.5 + 0.5 * nfe / 64_000, "tree": lambda s, nfe: 0.5}
    write_study(tmp_path / "six", gold, range(6), references=references)
    write_study(tmp_path / "five", gold, range(5), references=references)
    question = {"metric": "updates_to_target", "relation": "ratio_at_most", "value": 0.6}

    found, few = judged(tmp_path / "six", **question), judged(tmp_path / "five", **question)

    assert few.verdict == "inconclusive"
    assert "needs at least 6 paired seeds, not 5" in few.missing

    assert found.effect is not None
    assert found.effect.interval.low == pytest.approx(128 / 57.6)
    assert found.effect.interval.high == math.inf
    assert found.words == "refuted"


@pytest.mark.parametrize(
    ("n", "expected"), [(5, (math.nan, math.nan)), (6, (1, 6)), (8, (1, 8)), (9, (2, 8)), (10, (2, 9))]
)
def test_median_interval_takes_the_order_statistics_of_the_sign_test(n: int, expected: tuple[float, float]) -> None:
    # Coverage 1 - 2 P(Bin(n, 1/2) < k): n = 6, k = 1: 1 - 2/64 = 0.969; n = 9, k = 2: 1 - 2 x 10/512 = 0.961
    import numpy as np

    values = np.arange(1.0, n + 1)

    assert median_interval(values, values) == pytest.approx(expected, nan_ok=True)


def test_hypervolume_is_over_network_evaluations(tmp_path: Path) -> None:
    # Half of the box's height from 8000 nfe on. Of the 20 costs the last has no width, and before 8000 the curve is a
    # line: 0.4 of the level at 3200, 0.8 at 6400, all of it at the other 17
    references = References(base=0.5, best=1.0, costs={"nfe": 64_000}, targets={})
    write_study(
        tmp_path,
        {"flat": lambda s, nfe: 0.5, "tree": lambda s, nfe: 0.5 if not nfe else 0.75},
        references=references,
    )

    found = judged(tmp_path, metric="hypervolume")

    assert found.effect is not None
    assert found.effect.interval.mean == pytest.approx(0.5 * (17 + 0.4 + 0.8) / 20)
    assert found.words == "reproduced"


def test_a_ratio_of_figures_below_zero_is_refused_in_words(tmp_path: Path) -> None:
    write_study(tmp_path, {"flat": lambda s, nfe: -0.5, "tree": lambda s, nfe: 0.5})

    found = judged(tmp_path, relation="relative_gain_at_least", value=0.1)

    assert found.verdict == "inconclusive"
    assert "above zero" in found.missing


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"relation": "roughly"}, "relation"),
        ({"metric": "vibes"}, "metric"),
        ({"tier": "galactic"}, "tier"),
        ({"relation": "ratio_at_most", "value": 1.5}, "below 1"),
        ({"speed": 3}, "speed"),
    ],
)
def test_a_malformed_claim_is_an_error_of_one_sentence(change: dict[str, object], said: str, tmp_path: Path) -> None:
    import tomli_w

    (first, *_) = tomllib.loads(SHIPPED.read_text(encoding="utf-8"))["claim"]
    path = tmp_path / "claims.toml"
    path.write_text(tomli_w.dumps({"claim": [first | change]}), encoding="utf-8")

    with pytest.raises(UserError, match=said) as caught:
        read_claims(path)
    assert "\n" not in str(caught.value)


def test_a_claims_id_is_used_once() -> None:
    with pytest.raises(ValueError, match="two claims have the id a-claim"):
        Published(claim=(claim(), claim()))


def test_claims_command_prints_verdicts_and_json(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    from grpo_bench.cli import app

    write_study(tmp_path, {"flat": lambda s, nfe: 0.5 + 0.01 * s, "tree": lambda s, nfe: 0.6 + 0.011 * s})

    app(["claims", str(tmp_path)], standalone_mode=False)
    shown = capsys.readouterr().out
    app(["claims", str(tmp_path), "--json"], standalone_mode=False)
    stored = {one["id"]: one for one in json.loads(capsys.readouterr().out)}

    assert "same direction at tier tiny" in " ".join(shown.split())
    assert "No verdict binds" in shown
    assert stored["tree-dominates-pareto"]["words"] == "same direction at tier tiny"
    assert stored["tree-dominates-pareto"]["runs"][:2] == ["study-tree-s0", "study-tree-s1"]
    assert stored["tempflow-10x"]["verdict"] == "no runs"
