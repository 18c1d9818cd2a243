"""The five sentences that a tuned suite's report opens with: each says what the figures allow, and what is missing."""

from __future__ import annotations

import math
from pathlib import Path

from test_tuned_verdicts import chosen, line, only, study

from grpo_bench.analysis.diagnosis import RankCorrelation
from grpo_bench.analysis.report.answer import answer
from grpo_bench.analysis.summary import summarise


def said(found: object, *more: object) -> dict[str, str]:
    sentences = answer(summarise(only(found)), *more)  # type: ignore[arg-type]
    return {one.topic.split()[-1]: one.text for one in sentences}


def test_who_buys_most_is_said_for_every_cost_with_the_lead(tmp_path: Path) -> None:
    told = said(study(tmp_path))

    # two straight lines 0.1 apart at the budget, alike in cost, on five seeds: the lead is 0.1 and has no spread
    for cost in ("network evaluations (nfe)", "rollout evaluations", "reward calls", "updates", "seconds"):
        assert f"at equal {cost}: tree, by +0.100 (+0.100 to +0.100) over flat" in told["most"]
    assert "exploratory" in told["most"]


def test_over_seconds_nothing_is_said_of_runs_that_shared_their_machine(tmp_path: Path) -> None:
    told = said(study(tmp_path, timed=False))

    assert "over seconds nothing is known" in told["most"] and "at equal seconds" not in told["most"]


def test_seconds_may_come_from_timed_runs_elsewhere(tmp_path: Path) -> None:
    (seconds,) = (one for one in summarise(only(study(tmp_path / "timed"))).axes if one.axis == "seconds")

    told = said(study(tmp_path / "shared", timed=False), seconds)

    assert "at equal seconds: tree, by +0.100" in told["most"]


def test_how_sure_is_the_verdict_its_interval_and_what_it_holds_for(tmp_path: Path) -> None:
    found = study(tmp_path)
    (contrast,) = summarise(only(found)).contrasts

    told = said(found)["sure"]

    assert contrast.verdict == "better"
    interval = f"{contrast.difference.low:+.3f} to {contrast.difference.high:+.3f}"
    assert f"better than flat: tree +0.100 ({interval})" in told
    assert "5 seeds and 8 prompts" in told and "Holm over 1 contrast)" in told


def test_one_rate_for_all_is_no_answer(tmp_path: Path) -> None:
    assert "which decides nothing" in said(study(tmp_path, choices=()))["sure"]


def test_a_rate_at_the_edge_is_said_twice(tmp_path: Path) -> None:
    told = said(study(tmp_path, choices=(chosen("flat"), chosen("tree", bracketed=False))))

    assert "no verdict against flat, since a rate was not bracketed: tree" in told["sure"]
    assert "the best rate of tree" in told["known"]


def test_how_sensitive_is_the_spread_of_the_trials(tmp_path: Path) -> None:
    nervous = chosen("tree", gain=0.3).model_copy(
        update={"gains": {"0.333333": 0.1, "1": 0.05, "3": 0.3}, "best": 3.0, "factor": 3.0, "proxy_factor": 9.0}
    )
    told = said(study(tmp_path, choices=(chosen("flat"), nervous)))["rate"]

    assert "the gain of tree varies by 0.250 and that of flat by 0.020" in told
    assert "tree leads the trials at the best rate of each, and flat would at one rate for all" in told
    assert "the proxy alone would have chosen another rate for tree" in told


def test_what_goes_with_it_is_a_rank_correlation_and_no_cause(tmp_path: Path) -> None:
    found = study(tmp_path)

    assert "not known" in said(found)["it"]
    told = said(found, None, RankCorrelation(6, 0.831, 0.02, 0.98))["it"]
    assert "0.83 (0.02 to 0.98) over 6 labels" in told and "no cause" in told
    assert "too few" in said(found, None, RankCorrelation(2, math.nan, math.nan, math.nan))["it"]


def test_what_is_not_known_names_the_model_the_budget_and_the_settings(tmp_path: Path) -> None:
    told = said(study(tmp_path, status={("tree", 4): ("diverged", "a NaN")}))["known"]

    assert "SD3.5" in told and "after 64,000 nfe" in told and "other than the learning rate" in told
    assert "1 run that did not finish" in told


def test_one_method_alone_has_no_answer(tmp_path: Path) -> None:
    from studies import write_study

    from grpo_bench.analysis.study import studies

    write_study(tmp_path, {"flat": line(0.1)}, range(5), rules_version=2, choices=(chosen("flat"),))

    assert answer(summarise(only(studies(tmp_path)[0]))) == ()
