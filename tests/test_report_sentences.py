"""What the report says of a view, sentence by sentence, where its figures turn one word into another."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path

import pytest
from studies import Spend, write_study

from grpo_bench.analysis.axes import AXES
from grpo_bench.analysis.report.verdict import absent_axes, caveats, cut_sentence, decided, headline
from grpo_bench.analysis.study import studies
from grpo_bench.analysis.summary import ViewSummary, summarise

BUDGET = 64_000
SPREAD = (-2, -1, 0, 1, 2)
"""Over five seeds s times this has a 95% t interval of 2.776 s sqrt(1 / 2) to either side."""


def ends(gains: Sequence[float]) -> Callable[[int, float], float]:
    """Straight from 0.5 to 0.5 plus the seed's own gain."""
    return lambda seed, nfe: 0.5 + gains[seed] * nfe / BUDGET


def about(mean: float, step: float) -> Callable[[int, float], float]:
    return ends([mean + step * place for place in SPREAD])


def summary(folder: Path) -> ViewSummary:
    (view,) = studies(folder)[0].views
    return summarise(view)


FLAT = ends([0.1] * 5)


def test_where_the_lead_changes_the_headline_follows_it(tmp_path: Path) -> None:
    # Flat is above mix's 0.042 from the ninth of the twenty costs on, and by 0.058 at the last.
    early = lambda seed, nfe: 0.5 if nfe == 0 else 0.542 + 0.001 * SPREAD[seed]  # noqa: E731
    write_study(tmp_path, {"flat": FLAT, "mix": early})

    said = headline(summary(tmp_path))

    assert said.startswith(
        "Highest mean gold: mix up to 25,600, then flat up to 64,000 nfe. There it leads mix by 0.058 "
    )
    # 2.776 x 0.001 x sqrt(1 / 2) = 0.002
    assert "(95% interval +0.056 to +0.060; highest in 5 of 5 seeds)." in said
    assert "told apart" not in said


def test_a_lead_whose_interval_holds_zero_is_not_told_apart(tmp_path: Path) -> None:
    # Ahead by 0.02, and 2.776 x 0.02 x sqrt(1 / 2) = 0.039 to either side.
    write_study(tmp_path, {"flat": FLAT, "tree": about(0.12, 0.02)})

    assert (
        "by 0.020 (95% interval −0.019 to +0.059; highest in 4 of 5 seeds). So the two are not told apart."
        in headline(summary(tmp_path))
    )


def test_each_verdict_has_its_words_and_the_unadjusted_interval(tmp_path: Path) -> None:
    # 2.776 x 0.01 x sqrt(1 / 2) = 0.0196 to either side of the mean difference.
    labels = {"flat": FLAT, "tree": about(0.2, 0.01), "mix": about(0.02, 0.01), "nft": about(0.11, 0.01)}
    write_study(tmp_path, labels, contrasts=("tree", "mix", "nft"))

    tree, mix, nft = decided(summary(tmp_path))

    assert tree.startswith("tree is better than flat: +0.100 gold at the full budget (95% interval +0.080 to +0.120; ")
    assert mix.startswith("mix is worse than flat: −0.080 gold at the full budget (95% interval −0.100 to −0.060; ")
    assert nft.startswith(
        "nft is not shown to differ from flat: +0.010 gold at the full budget (95% interval −0.010 to "
    )
    assert nft.endswith("; 5 seeds).")


def test_without_a_baseline_nothing_is_judged(tmp_path: Path) -> None:
    write_study(tmp_path, {"tree": FLAT, "mix": FLAT}, suite=False)

    assert decided(summary(tmp_path)) == (
        "There is no baseline here to take differences from, so no method is judged.",
    )


def test_who_learned_nothing_is_named_by_how(tmp_path: Path) -> None:
    labels = {"flat": FLAT, "tree": about(-0.1, 0.001), "mix": about(0.01, 0.001), "nft": about(0.05, 0.05)}
    write_study(tmp_path, labels, bases=(0.5, 0.53))

    said = caveats(summary(tmp_path))

    assert "Within the noise floor, and so no gain: mix." in said
    assert "Ended below the base: tree." in said
    assert "No gain over the base is shown for nft." in said
    assert any("2 evaluations of it with other noise lie within 0.030 of each other" in sentence for sentence in said)


def test_the_coverage_of_means_and_of_differences_is_that_of_the_fewest_seeds(tmp_path: Path) -> None:
    """docs/statistics.md: at 5 seeds a mean's interval covers 82.1 and 88.2%, a difference's 96.5 and 97.4%."""
    write_study(tmp_path, {"flat": FLAT, "tree": FLAT})

    said = caveats(summary(tmp_path))

    start = "nominal 95%, measured about 95% on normal data and"
    assert f"Intervals of means over 5 seeds: {start} 82 to 88% on skewed data." in said
    assert any(
        sentence.startswith(f"Intervals of differences over 5 paired seeds: {start} 96 to 97% on") for sentence in said
    )


@pytest.mark.parametrize(
    ("proxy", "words"),
    [
        (True, "These runs trained on gold itself"),
        (False, "Trained on shapes-pref; gold is the workload's own judge, which no run trained on."),
    ],
)
def test_it_is_said_whether_gold_was_trained_on(tmp_path: Path, proxy: bool, words: str) -> None:
    write_study(tmp_path, {"flat": FLAT}, gold_is_proxy=proxy)

    assert any(sentence.startswith(words) for sentence in caveats(summary(tmp_path)))


def test_a_cut_says_what_was_left_out_and_an_axis_without_runs_is_told(tmp_path: Path) -> None:
    write_study(tmp_path, {"flat": FLAT}, range(2), name="alone", suite=False)
    write_study(
        tmp_path, {"flat": FLAT}, (2, 3, 4), name="shared", suite=False, timed=False, spend={"flat": Spend(seconds=9)}
    )

    found = summary(tmp_path)

    said = {axis.axis: cut_sentence(axis) for axis in found.axes}
    assert said["nfe"] == "Cut at 64,000 nfe, the least that any of its 5 runs spent."
    assert said["seconds"] == (
        "Cut at 128 seconds, the least that any of its 2 runs spent; 3 runs that shared their machine are left out."
    )
    assert absent_axes(found, AXES) == ""

    write_study(tmp_path / "none", {"flat": FLAT}, timed=False)
    assert absent_axes(summary(tmp_path / "none"), AXES).startswith("No view over seconds: ")
