"""A tuned suite: trials, extensions, the choice, then reported runs at each label's own rate, read from the folder."""

from __future__ import annotations

import math
from pathlib import Path

import numpy as np
import pytest
from running import cli_here
from small_suite import small_suite

from grpo_bench.analysis.by_prompt import by_prompt
from grpo_bench.errors import UserError
from grpo_bench.store.record import RunRecord, Status
from grpo_bench.store.run import RunStore
from grpo_bench.store.suite import ChoiceRecord
from grpo_bench.sweeping.cells import Cell
from grpo_bench.sweeping.suite import Suite, parse_suite
from grpo_bench.sweeping.tuning import TRIAL_NOISE, Layout, lay_out
from grpo_bench.training.prepare import splits

SETTINGS = 'protocol = "tuned"\ntuning.seeds = [300, 301]\nsettings.evaluation = { prompts = 4, noises = 2 }'
OWN_RATE = 0.05


def suite(settings: str = SETTINGS, **over: object) -> Suite:
    return parse_suite(small_suite(settings=settings, **over))  # type: ignore[arg-type]


def carried_out(results: Path, cell: Cell, gained: float, status: Status = "done") -> None:
    """The cell's run, from 0.25 at the base to so much more at its budget, for every prompt and noise."""
    record = RunRecord(
        run=cell.run, status=status, method=cell.record.method, reward="gaussian", workload="gaussian",
        seed=cell.config.seed, tier="analytic", rules_version=1, numerics_version=1, device="cpu",
    )  # fmt: skip
    store = RunStore.create(results, cell.run, cell.config.to_toml(), record)
    for iteration, (nfe, value) in enumerate([(0, 0.25), (4000, 0.25 + gained)]):
        for noise in range(2):
            store.add_prompt_scores(iteration, noise, {"gaussian": np.full(4, value + (noise - 0.5) / 8)})
        store.append_point({"iteration": iteration, "nfe": nfe, "gold": value})


def trials(layout: Layout, label: str) -> list[Cell]:
    return [cell for cell in layout.cells if cell.record.part == "tuning" and cell.record.label == label]


def factors(layout: Layout, label: str) -> list[float]:
    return sorted({round(cell.record.factor, 3) for cell in trials(layout, label)})


def tuned(results: Path, peak: float, label: str = "flat") -> Layout:
    """The layout after every trial that was asked for has gained a parabola in log rate with its peak at a factor."""
    layout = lay_out(suite(), results)
    for _ in range(6):
        for cell in trials(layout, label):
            if not (results / cell.run).exists():
                carried_out(results, cell, 1 - 0.1 * math.log(cell.record.factor / peak, 3) ** 2)
        layout = lay_out(suite(), results)
    return layout


def choice(layout: Layout, label: str = "flat") -> ChoiceRecord:
    (found,) = (one for one in layout.choices if one.label == label)
    return found


def test_first_there_are_trials_only(tmp_path: Path) -> None:
    layout = lay_out(suite(), tmp_path)

    # every label at three rates on both tuning seeds, on prompts and noise that no report uses
    assert factors(layout, "flat") == factors(layout, "tree") == [0.333, 1, 3]
    assert len(layout.cells) == 2 * 3 * 2
    assert {cell.config.seed for cell in layout.cells} == {300, 301}
    rates = {round(cell.record.factor, 3): cell.config.training.learning_rate for cell in trials(layout, "flat")}
    assert rates == pytest.approx({0.333: OWN_RATE / 3, 1: OWN_RATE, 3: OWN_RATE * 3}, rel=1e-4)
    evaluation = layout.cells[0].config.evaluation
    assert (evaluation.split, evaluation.seed, evaluation.noises) == ("tuning", TRIAL_NOISE, 2)
    assert layout.waiting == 2
    assert not layout.choices


def test_trials_and_reports_share_no_prompt(tmp_path: Path) -> None:
    layout = tuned(tmp_path, 1.0)
    (report,) = (cell.config for cell in layout.cells if cell.record.part == "main")
    trial = trials(layout, "flat")[0].config

    reported, tuned_on = splits(report)["heldout"][:: 8 // 4], splits(trial)["tuning"]
    assert len(reported) == len(tuned_on) == 4
    assert not set(reported) & set(tuned_on)


@pytest.mark.parametrize("peak", [0.7, 1.0, 1.6])
def test_the_vertex_of_the_parabola_is_chosen(tmp_path: Path, peak: float) -> None:
    layout = tuned(tmp_path, peak)

    assert factors(layout, "flat") == [0.333, 1, 3]
    assert choice(layout).factor == pytest.approx(peak, rel=1e-6)
    assert choice(layout).bracketed
    (report,) = (cell for cell in layout.cells if cell.record.part == "main")
    assert report.config.training.learning_rate == pytest.approx(OWN_RATE * peak, rel=1e-4)
    assert report.record.factors == {"training.learning_rate": choice(layout).factor}
    assert report.config.evaluation.split == "heldout"
    assert layout.waiting == 1  # tree's


def test_an_edge_is_extended_until_the_best_is_bracketed(tmp_path: Path) -> None:
    layout = tuned(tmp_path, 9.0)

    assert factors(layout, "flat") == [0.333, 1, 3, 9, 27]
    assert choice(layout).factor == pytest.approx(9.0, rel=1e-6)


def test_a_best_at_the_last_edge_is_said_and_not_hidden(tmp_path: Path) -> None:
    layout = tuned(tmp_path, 100.0)

    assert factors(layout, "flat") == [0.333, 1, 3, 9, 27]
    assert (choice(layout).factor, choice(layout).bracketed) == (pytest.approx(27), False)
    assert "not bracketed" in choice(layout).reason


def test_a_label_whose_trials_all_diverged_has_no_reported_run(tmp_path: Path) -> None:
    for cell in trials(lay_out(suite(), tmp_path), "flat"):
        carried_out(tmp_path, cell, 0.0, "diverged")

    layout = lay_out(suite(), tmp_path)
    assert choice(layout).factor is None
    assert not [cell for cell in layout.cells if cell.record.part == "main"]
    assert layout.waiting == 1


def test_a_failed_trial_keeps_its_label_waiting(tmp_path: Path) -> None:
    first, *rest = trials(lay_out(suite(), tmp_path), "flat")
    carried_out(tmp_path, first, 0.0, "failed")
    for cell in rest:
        carried_out(tmp_path, cell, 0.1)

    layout = lay_out(suite(), tmp_path)
    assert (layout.waiting, layout.choices) == (2, ())


def test_another_setting_is_tuned_at_the_rate_that_was_chosen_before(tmp_path: Path) -> None:
    both = SETTINGS + '\ntuning.tune = ["training.learning_rate", "objective.clip"]\nsettings.objective.clip = 1e-4'
    for cell in trials(lay_out(suite(both), tmp_path), "flat"):
        carried_out(tmp_path, cell, 1 - 0.1 * math.log(cell.record.factor, 3) ** 2)

    layout = lay_out(suite(both), tmp_path)
    clips = [cell for cell in trials(layout, "flat") if cell.record.setting == "objective.clip"]
    assert sorted({cell.config.objective.clip or 0 for cell in clips}) == pytest.approx([1e-4 / 3, 3e-4], rel=1e-4)
    assert {cell.config.training.learning_rate for cell in clips} == {OWN_RATE}
    assert layout.waiting == 2


def test_gold_is_read_at_the_budget_and_averaged_over_prompts_and_noises(tmp_path: Path) -> None:
    cell = lay_out(suite(), tmp_path).cells[0]
    carried_out(tmp_path, cell, 0.5)
    store = RunStore(tmp_path / cell.run)

    gold = {"gaussian": 1.0}
    scores = store.prompt_table()
    assert by_prompt(scores, gold, [0, 1], [0, 4000], 4000).gain == pytest.approx(0.5)
    assert by_prompt(scores, gold, [0, 1], [0, 4000], 1000).gain == pytest.approx(0.125)
    assert by_prompt(scores, {"gaussian": 2.0}, [0, 1], [0, 1], 1).gain == pytest.approx(1.0)
    with pytest.raises(UserError, match="no prompts' scores of 'hps'"):
        by_prompt(scores, {"hps": 1.0}, [0, 1], [0, 4000], 4000)


@pytest.mark.parametrize(
    ("settings", "said"),
    [
        ('protocol = "tuned"', "add \\[tuning\\]"),
        (SETTINGS + "\ntuning.factors = [1.0, 2.0, 4.0]", "leave factors out"),
        ('protocol = "fair"', "fair"),
        ('tuning.tune = ["objective.clip"]', "'shared' has one"),
        (SETTINGS.replace("300, 301", "0, 1"), "tuning.seeds has 0, which is reported too"),
        (SETTINGS + '\ntuning.tune = ["objective.clip"]', "no setting is named 'objective.clip', or it has no value"),
        (SETTINGS + '\ntuning.tune = ["training.learning_rat"]', "did you mean 'training.learning_rate'"),
        (SETTINGS + '\ntuning.tune = ["training.updates"]', "training.updates = .* cannot be tuned"),
        (SETTINGS + '\ntuning.tune = ["evaluation.guidance"]', "evaluation.guidance = 1.0 cannot be tuned"),
        (SETTINGS + '\ntuning.tune = ["sampling.guidance"]', "sampling.guidance = 0.33333 is not allowed"),
        (SETTINGS + '\ntuning.split = "train"', "would choose rates on the prompts that are trained on"),
        (SETTINGS.replace("noises = 2", "seed = 1"), "is the noise of trials"),
        (SETTINGS.replace("prompts = 4", "prompts = 1"), "needs two or more"),
        (SETTINGS + '\ntuning.split = "heldout"', "same prompts"),
        (SETTINGS.replace("prompts = 4, ", ""), "takes all 8"),
        (SETTINGS + '\n[methods.mine]\nrecipe = "dancegrpo"', "its paper's own settings"),
    ],
)
def test_what_cannot_be_tuned_is_refused(tmp_path: Path, settings: str, said: str) -> None:
    with pytest.raises(UserError, match=said):
        lay_out(suite(settings), tmp_path)


def test_a_dry_run_shows_the_trials_and_what_waits_for_them(tmp_path: Path) -> None:
    file = tmp_path / "small.toml"
    file.write_text(small_suite(settings=SETTINGS), encoding="utf-8")

    done = cli_here("sweep", str(file), "--dry-run", "--results", str(tmp_path / "runs"))

    assert done.returncode == 0, done.stderr
    assert "learning_rate x0.33" in done.stdout
    assert "2 reported runs follow" in done.stdout


@pytest.mark.slow
@pytest.mark.timeout(500)
def test_a_sweep_tunes_and_reports_and_does_nothing_twice(tmp_path: Path) -> None:
    file, results = tmp_path / "small.toml", tmp_path / "runs"
    file.write_text(small_suite(settings=SETTINGS.replace("300, 301", "300")), encoding="utf-8")

    done = cli_here("sweep", str(file), "--results", str(results), "--jobs", "2")
    assert done.returncode == 0, done.stderr

    layout = lay_out(suite(SETTINGS.replace("300, 301", "300")), results)
    assert {one.label for one in layout.choices} == {"flat", "tree"}
    assert not layout.waiting
    assert all((results / cell.run / "run.json").exists() for cell in layout.cells)

    again = cli_here("sweep", str(file), "--results", str(results))
    assert again.returncode == 0
    assert "chosen" in again.stdout
