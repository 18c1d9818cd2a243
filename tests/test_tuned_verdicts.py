"""Verdicts of a tuned suite: the two-way interval, the words and the choices, against hand-made prompts' scores."""

from __future__ import annotations

import math
from dataclasses import replace
from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest
from running import cli_here
from studies import PROMPTS, write_study

from grpo_bench.analysis.means import ceiling, means
from grpo_bench.analysis.plots import draw_studies
from grpo_bench.analysis.report.verdict import contrast_sentence
from grpo_bench.analysis.study import Study, View, studies
from grpo_bench.analysis.summary import summaries, summarise
from grpo_bench.analysis.twoway import two_way
from grpo_bench.bundles.verify import verify_bundle
from grpo_bench.bundles.write import write_bundle
from grpo_bench.store.prompt_scores import encode
from grpo_bench.store.run import PROMPT_SCORES, RunStore
from grpo_bench.store.suite import ChoiceRecord, write_suite

BUDGET = 64_000
RATE = "training.learning_rate"
SEEDS = range(5)
OFFSET_P = np.linspace(-0.07, 0.07, len(PROMPTS))
"""How far the prompts end from their mean; for `tree` the other way round, so that it gains more on some of them."""


def line(gain: float):  # type: ignore[no-untyped-def]  # noqa: ANN201
    """A straight line from 0.5 up by `gain` and 0.01 times a seed's own share."""
    return lambda seed, nfe: 0.5 + (gain + 0.01 * math.sin(3 * seed)) * nfe / BUDGET


def apart(label: str, seed: int) -> np.ndarray:
    turned = np.roll(OFFSET_P, seed)
    own = {"tree": 0.4 * OFFSET_P + 0.05 * turned}.get(label, 0.05 * turned[::-1])
    return own - own.mean()


def chosen(label: str, *, bracketed: bool = True, gain: float = 0.1) -> ChoiceRecord:
    factor, at_three = (1.0, gain - 0.02) if bracketed else (3.0, gain + 0.02)
    return ChoiceRecord(
        label=label, workload="shapes", reward="shapes-pref", setting=RATE, factor=factor, best=factor,
        bracketed=bracketed, reason="", proxy_factor=factor,
        gains={"0.333333": gain - 0.02, "1": gain, "3": at_three},
    )  # fmt: skip


CHOICES = (chosen("flat"), chosen("tree"))


def study(folder: Path, gain: float = 0.2, choices: tuple[ChoiceRecord, ...] = CHOICES, **more: object) -> Study:
    labels = {"flat": line(0.1), "tree": line(gain)}
    write_study(folder, labels, SEEDS, contrasts=("tree",), rules_version=2, apart=apart, choices=choices, **more)  # type: ignore[arg-type]
    return studies(folder)[0]


def on_two_workloads(found: Study) -> Study:
    """The study, with its view and its cells once more on another workload."""
    view = only(found)
    assert found.suite is not None
    other = replace(view, workload="glyphs", name="glyphs")
    cells = (*found.suite.cells, *(cell.model_copy(update={"workload": "glyphs"}) for cell in found.suite.cells))
    return replace(found, suite=found.suite.model_copy(update={"cells": cells}), views=(view, other))


def only(found: Study) -> View:
    (view,) = found.views
    return view


def test_a_difference_is_that_of_the_seeds_by_prompts_table(tmp_path: Path) -> None:
    view = only(study(tmp_path))
    (contrast,) = summarise(view).contrasts

    by_hand = two_way(np.array([0.1 + apart("tree", seed) - apart("flat", seed) for seed in SEEDS]))
    assert contrast.two_way is not None
    assert (contrast.difference.mean, contrast.difference.low, contrast.p) == pytest.approx(
        (by_hand.mean, by_hand.low, by_hand.p), rel=1e-4
    )
    # prompts add to what seeds alone would say
    assert contrast.difference.low < contrast.result.difference.low
    assert (view.protocol, view.name, contrast.verdict) == ("tuned", "shapes-shapes-pref-tuned", "better")


def test_a_run_is_read_under_all_noises_at_its_base_and_its_budget(tmp_path: Path) -> None:
    flat = summarise(only(study(tmp_path))).method("flat")

    # the second noise scores 0.02 above the first everywhere, so that levels move by half of it and gains do not
    assert flat.base == pytest.approx(0.51)
    seeds = 0.01 * np.mean([math.sin(3 * seed) for seed in SEEDS])
    assert (flat.gold.mean, flat.gain.mean) == pytest.approx((0.61 + seeds, 0.1 + seeds), rel=1e-5)


def test_one_rate_for_all_decides_nothing(tmp_path: Path) -> None:
    view = only(study(tmp_path, choices=()))

    (contrast,) = summarise(view).contrasts
    assert (view.protocol, contrast.primary, contrast.verdict) == ("controlled", True, "exploratory")
    assert contrast.two_way is not None


def test_no_verdict_rests_on_a_rate_that_was_not_bracketed(tmp_path: Path) -> None:
    for label in ("flat", "tree"):
        choices = tuple(chosen(one, bracketed=one != label) for one in ("flat", "tree"))
        (contrast,) = summarise(only(study(tmp_path / label, choices=choices))).contrasts
        assert contrast.verdict == "rate not bracketed"


def test_the_margin_is_a_tenth_of_what_the_baseline_gained_in_tuning(tmp_path: Path) -> None:
    # seeds are paired and prompts alike, so that a difference of 0.001 is known to well within a margin of 0.03
    alike = lambda label, seed: 0.05 * OFFSET_P * (1 + 0.01 * seed * (label == "tree"))  # noqa: E731
    labels = {"flat": line(0.1), "tree": line(0.101)}
    choices = (chosen("flat", gain=0.3), chosen("tree"))
    write_study(tmp_path, labels, SEEDS, contrasts=("tree",), rules_version=2, apart=alike, choices=choices)

    (contrast,) = summarise(only(studies(tmp_path)[0])).contrasts
    assert contrast.margin == pytest.approx(0.03)
    assert contrast.equivalence_p < 0.05
    # and yet the difference is real: what is shown comes first, and correctness gained no more than the margin
    assert contrast.verdict == "better in appeal only"


def test_a_seed_that_diverged_counts_with_what_its_base_scored(tmp_path: Path) -> None:
    (contrast,) = summarise(only(study(tmp_path, status={("tree", 4): ("diverged", "a NaN")}))).contrasts

    rows = [0.1 + apart("tree", seed) - apart("flat", seed) for seed in range(4)]
    lost = -(0.1 + 0.01 * math.sin(12)) - apart("flat", 4)
    assert contrast.seeds == 5
    assert contrast.difference.mean == pytest.approx(np.mean([*rows, lost]), rel=1e-4)


def test_the_contrasts_of_all_workloads_are_one_family(tmp_path: Path) -> None:
    found = study(tmp_path)
    view = only(found)
    both = Study(found.name, "", found.folder, found.suite, (view, view))

    (alone,) = summarise(view).contrasts
    first, second = (one.contrasts[0] for one in summaries(both))
    assert first.holm_p == second.holm_p == pytest.approx(2 * alone.p)
    assert alone.holm_p == pytest.approx(alone.p)


def test_a_workload_that_has_no_run_yet_counts_in_the_family(tmp_path: Path) -> None:
    """Given a suite over two workloads of which one is still to run, then half of the family cannot be tested."""
    found = study(tmp_path)
    assert found.suite is not None
    planned = [cell.model_copy(update={"workload": "glyphs", "run": f"{cell.run}-g"}) for cell in found.suite.cells]
    write_suite(tmp_path, found.suite.model_copy(update={"cells": (*found.suite.cells, *planned)}))

    cut_off = studies(tmp_path)[0]
    (alone,), (half,) = summaries(found)[0].contrasts, summaries(cut_off)[0].contrasts
    assert cut_off.untested == 1
    assert half.holm_p == pytest.approx(2 * alone.p)


def test_no_verdict_rests_on_a_rate_that_trials_do_not_choose(tmp_path: Path) -> None:
    (right,) = summarise(only(with_trials(tmp_path / "right"))).contrasts
    (wrong,) = summarise(only(with_trials(tmp_path / "wrong", tree=2.5))).contrasts
    (of_the_baseline,) = summarise(only(with_trials(tmp_path / "baseline", flat=2.5))).contrasts

    assert right.verdict == "better"
    assert wrong.verdict == of_the_baseline.verdict == "rate not as chosen"


@pytest.mark.parametrize("label", ["flat", "tree"])
def test_a_reported_label_whose_choice_is_gone_has_no_verdict(tmp_path: Path, label: str) -> None:
    found = with_trials(tmp_path)
    assert found.suite is not None
    kept = tuple(one for one in found.suite.choices if one.label != label)
    write_suite(tmp_path, found.suite.model_copy(update={"choices": kept}))

    without = studies(tmp_path)[0]
    (contrast,) = summarise(only(without)).contrasts
    assert contrast.verdict == "rate not as chosen"
    (said,) = without.contradictions
    assert f"{label} on shapes was run at training.learning_rate x1.2" in said and "chosen is nothing" in said


def test_runs_that_share_too_few_prompts_are_not_compared(tmp_path: Path) -> None:
    """Given a run that lacks a prompt, then prompts are the reason, and no interval stands for other prompts."""
    found = study(tmp_path)
    store = RunStore(tmp_path / "study-tree-s2")
    scores = store.prompt_scores()
    table = pa.Table.from_pandas(scores[scores["prompt"] < len(PROMPTS) - 1], preserve_index=False)
    (store.folder / PROMPT_SCORES).write_bytes(encode(table))

    (contrast,) = summarise(only(studies(tmp_path)[0])).contrasts
    assert (contrast.verdict, contrast.seeds) == ("too few common prompts", 5)
    assert math.isnan(contrast.difference.low) and math.isfinite(contrast.difference.mean)
    assert "two at least" in contrast_sentence(contrast)
    assert found.contradictions == ()


def test_a_run_that_lost_a_noise_is_in_no_mean(tmp_path: Path) -> None:
    study(tmp_path)
    store = RunStore(tmp_path / "study-tree-s2")
    scores = store.prompt_scores()
    table = pa.Table.from_pandas(scores[scores["noise"] == 0], preserve_index=False)
    (store.folder / PROMPT_SCORES).write_bytes(encode(table))

    (ended,) = summarise(only(studies(tmp_path)[0])).ended
    assert (ended.label, ended.seed) == ("tree", 2) and "under 1 of 2 noises" in ended.reason


@pytest.mark.usefixtures("undrawn")
def test_equivalence_is_shown_with_the_p_that_decided_it(tmp_path: Path) -> None:
    alike = lambda label, seed: 0.05 * OFFSET_P * (1 + 0.01 * seed * (label == "tree"))  # noqa: E731
    labels = {"flat": line(0.1), "tree": lambda seed, nfe: line(0.1)(seed, nfe) + (-1) ** seed * 1e-3 * nfe / BUDGET}
    choices = (chosen("flat", gain=0.3), chosen("tree"))
    write_study(tmp_path, labels, SEEDS, contrasts=("tree",), rules_version=2, apart=alike, choices=choices)

    (contrast,) = summarise(only(studies(tmp_path)[0])).contrasts
    assert contrast.verdict == "no difference that matters"
    assert contrast.decided_by == ("Holm's p of equivalence", contrast.equivalence_p)
    shown = cli_here("pareto", str(tmp_path)).stdout
    assert f"Holm's p of equivalence {contrast.equivalence_p:.3f}"[:-1] in shown or "of equivalence <" in shown


def test_a_mean_of_a_label_that_diverged_everywhere_is_refused_and_no_crash(tmp_path: Path) -> None:
    lost = {("tree", seed): ("diverged", "a NaN") for seed in SEEDS}
    found = study(tmp_path, status=lost)
    both = on_two_workloads(found)

    (mean,) = means(both, summaries(both))
    assert mean.aggregate is not None and mean.aggregate.mean < 0


def test_a_run_without_its_prompts_scores_is_in_no_mean(tmp_path: Path) -> None:
    study(tmp_path)
    (tmp_path / "study-tree-s0" / PROMPT_SCORES).unlink()

    view = only(studies(tmp_path)[0])
    assert [curve.seed for curve in view.of("tree")] == [1, 2, 3, 4]
    (ended,) = summarise(view).ended
    assert (ended.label, ended.seed) == ("tree", 0) and "prompts' scores are gone" in ended.reason


def with_trials(folder: Path, **changed: float) -> Study:
    """A study whose trials at 1/3, 1 and 3 end 0, 0.02 and 0.01 above each label's curve, and what they choose."""
    above = {0.333333: 0.0, 1.0: 0.02, 3.0: 0.01}
    vertex = 3 ** (0.5 * (0.0 - 0.01) / (0.0 - 2 * 0.02 + 0.01))
    choices = []
    for label, gain in (("flat", 0.1), ("tree", 0.2)):
        gains = {f"{factor:.6g}": gain + more for factor, more in above.items()}
        choices.append(
            ChoiceRecord(
                label=label, workload="shapes", reward="shapes-pref", setting=RATE,
                factor=changed.get(label, vertex), best=1.0, bracketed=True, reason="",
                proxy_factor=vertex, gains=gains,
            )
        )  # fmt: skip
    return study(folder, choices=tuple(choices), factors=above)


def test_what_the_trials_choose_is_computed_again(tmp_path: Path) -> None:
    assert with_trials(tmp_path / "right").contradictions == ()

    (said,) = with_trials(tmp_path / "wrong", tree=2.5).contradictions
    assert "for tree on shapes is 2.5" in said and "its trials give 1.2" in said
    write_bundle(tmp_path / "wrong", tmp_path / "wrong.zip", "none")
    problems = verify_bundle(tmp_path / "wrong.zip").problems
    assert [(one.kind, one.where, one.said) for one in problems] == [("impossible", "wrong/study", said)]


def test_a_bundle_carries_prompts_scores_and_finds_one_that_was_changed(tmp_path: Path) -> None:
    folder = tmp_path / "r"
    with_trials(folder)
    write_bundle(folder, tmp_path / "whole.zip", "none")
    assert verify_bundle(tmp_path / "whole.zip").problems == ()

    store = RunStore(folder / "study-tree-s1")
    last = int(store.points()["iteration"].iloc[-1])
    scores = store.prompt_scores()
    own = scores[(scores["iteration"] == last) & (scores["noise"] == 0)]["shapes"].to_numpy(np.float64)
    store.add_prompt_scores(last, 0, {"shapes": own + 0.1, "shapes-pref": own, "shapes-correctness": own})
    write_bundle(folder, tmp_path / "changed.zip", "none")

    said = [one.said for one in verify_bundle(tmp_path / "changed.zip").problems]
    assert any("reward/shapes is 0.7" in one and "have the mean 0.8" in one for one in said), said


@pytest.mark.slow
@pytest.mark.usefixtures("undrawn")
def test_pareto_and_the_report_say_the_words_and_the_rates(tmp_path: Path) -> None:
    with_trials(tmp_path / "r")

    shown = cli_here("pareto", str(tmp_path / "r")).stdout
    assert "Better than flat in gold at the full budget: tree (+0.100" in shown
    assert (
        "these prompts, this noise" in shown and "Every label at the learning rate that its own trials chose" in shown
    )
    assert "tuned protocol" in shown and "Noise floor" not in shown

    assert cli_here("report", str(tmp_path / "r"), "-o", str(tmp_path / "r.html")).returncode == 0
    page = (tmp_path / "r.html").read_text(encoding="utf-8")
    assert "better than flat: tree +0.100" in page
    assert "Every label at the learning rate that its own trials chose" in page


def test_a_label_that_is_still_in_its_trials_is_drawn_with_the_others(tmp_path: Path) -> None:
    """Given a sweep that was cut off before a label's reported runs, then its trials are shown, and nothing fails."""
    found = study(tmp_path, missing=[("tree", seed) for seed in SEEDS])

    view = only(found)
    assert view.labels == ("flat",) and set(view.all_labels) == {"flat", "tree"}
    drawn = draw_studies([(found, summaries(found))], tmp_path / "plots", ["png"])
    assert "tuning.png" in {file.name for file in drawn.files}


def test_over_workloads_there_is_a_mean_in_shares_of_base_to_ceiling(tmp_path: Path) -> None:
    found = study(tmp_path)
    both = on_two_workloads(found)
    (mean,) = means(both, summaries(both))

    # flat and tree start at 0.51, and a picture as it was taught has the ceiling of the model's card
    assert mean.workloads == ("shapes", "glyphs") and mean.aggregate is not None
    shares = {name: 0.1 / (ceiling(name) - 0.51) for name in mean.workloads}
    assert mean.aggregate.shares == pytest.approx(shares, rel=1e-3)
    assert mean.aggregate.mean == pytest.approx(sum(shares.values()) / 2, rel=1e-3)

    without = replace(both, views=both.views[:1])
    (mean,) = means(without, summaries(without))
    assert mean.aggregate is None and "glyphs has none" in mean.reason
    assert means(found, summaries(found)) == ()  # of one workload there is no mean


def test_gold_is_found_by_its_points_where_the_workload_is_not_installed(tmp_path: Path) -> None:
    view = only(study(tmp_path))
    curve = view.of("tree")[0]
    foreign = replace(curve, record=curve.record.model_copy(update={"workload": "elsewhere"}))

    here, there = curve.by_prompt(), foreign.by_prompt()
    assert here is not None and there is not None
    np.testing.assert_array_equal(there.end_P, here.end_P)
    assert foreign.by_prompt("correctness") is not None
    assert foreign.by_prompt("taste") is None and foreign.base_by_prompt("taste") is None


def test_a_choice_whose_trial_lost_its_points_cannot_be_computed_again(tmp_path: Path) -> None:
    with_trials(tmp_path)
    (tmp_path / "study-tree-x3-s100" / "points.parquet").unlink()

    (said,) = studies(tmp_path)[0].contradictions
    assert "for tree on shapes cannot be computed again" in said and "study-tree-x3-s100" in said
