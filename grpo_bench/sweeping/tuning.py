"""The protocol `tuned`: trials first, and then every label's reported runs at what its own trials chose.

What is known is read from the folder of results each time, so that a sweep which was killed anywhere goes on as if
nothing had happened: the trials that are done say which are next, and which factor they choose.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from grpo_bench.analysis.axes import BUDGETS
from grpo_bench.analysis.by_prompt import by_prompt
from grpo_bench.analysis.choices import choice_record
from grpo_bench.analysis.rate import Gain, Trial, next_factors
from grpo_bench.config import RunConfig
from grpo_bench.errors import UserError
from grpo_bench.registry import WORKLOADS
from grpo_bench.store.run import RunStore
from grpo_bench.store.suite import ChoiceRecord
from grpo_bench.sweeping.cells import (
    Cell,
    Lines,
    Wanted,
    check_duplicates,
    identified,
    lines_of,
    of_the_base,
    scaled,
    suite_cells,
)
from grpo_bench.sweeping.state import cell_state
from grpo_bench.sweeping.suite import Suite, Tuning

if TYPE_CHECKING:
    from grpo_bench.training.prepare import Ingredients

TRAIN = "train"
TRIAL_NOISE = 1
"""`evaluation.seed` of trials, so that the reported noise chooses nothing."""
NO_MARKS = 10**15
"""`evaluation.every` of trials: they are evaluated at the base and at the budget only."""


@dataclass(frozen=True)
class Layout:
    """A suite's runs as far as they are known."""

    cells: tuple[Cell, ...]
    choices: tuple[ChoiceRecord, ...] = ()
    waiting: int = 0
    """Reported runs that cannot be named yet, because their label's trials are not all there."""


@dataclass(frozen=True)
class _Tuned:
    """One label's trials, and where they have all chosen, its config at what was chosen."""

    trials: tuple[Cell, ...]
    choices: tuple[ChoiceRecord, ...]
    config: RunConfig | None
    factors: Mapping[str, float]
    pending: bool


def lay_out(suite: Suite, results: Path) -> Layout:
    """The runs of a suite, given what lies in a folder of results: of a tuned suite its trials, and what they allow.

    Raises:
        UserError: as `suite_cells`; also a label with a paper's own settings, prompts that are reported and tuned on,
            a setting that cannot be multiplied, or a trial whose scores are damaged.
    """
    if suite.protocol == "shared" or suite.tuning is None:
        return Layout(suite_cells(suite))
    lines = lines_of(suite)
    _check(suite, suite.tuning, lines)
    known: dict[str, Ingredients] = {}
    tuned = {key: _tune(key, config, suite.tuning, results, known) for key, config in lines.items()}
    cells = [identified(wanted, known) for wanted in of_the_base(suite, lines)]
    cells += [cell for one in tuned.values() for cell in one.trials]
    waiting = 0
    for seed in sorted({seed for label in suite.methods for seed in suite.seeds_of(label)}):
        for (_, _, label), one in tuned.items():
            if seed not in suite.seeds_of(label):
                continue
            waiting += one.pending
            if one.config is not None:
                wanted = Wanted(label, one.config, "main", seed, factors=one.factors)
                cells.append(identified(wanted, known))
    check_duplicates(tuple(cells))
    return Layout(tuple(cells), tuple(choice for one in tuned.values() for choice in one.choices), waiting)


def _tune(
    key: tuple[str, str, str], config: RunConfig, tuning: Tuning, results: Path, known: dict[str, Ingredients]
) -> _Tuned:
    """A label's settings one after the other, each at what was chosen for those before it."""
    _, _, label = key
    cells: list[Cell] = []
    choices: list[ChoiceRecord] = []
    factors: dict[str, float] = {}
    for setting in tuning.tune:
        own, gold, proxy = _trials(label, config, setting, factors, tuning, results, known)
        there = {cell.run for cell in cells}  # at factor 1 of the next setting stands what was chosen before
        cells += [cell for cell in own if cell.run not in there]
        if next_factors(gold, tuning.seeds):
            return _Tuned(tuple(cells), tuple(choices), None, factors, pending=True)
        workload, reward, _ = key
        choice = choice_record(label, workload, reward, setting, gold, proxy)
        choices.append(choice)
        if choice.factor is None:
            return _Tuned(tuple(cells), tuple(choices), None, factors, pending=False)
        config, factors = scaled(config, setting, choice.factor), {**factors, setting: choice.factor}
    return _Tuned(tuple(cells), tuple(choices), config, factors, pending=False)


def _trials(
    label: str,
    config: RunConfig,
    setting: str,
    factors: Mapping[str, float],
    tuning: Tuning,
    results: Path,
    known: dict[str, Ingredients],
) -> tuple[list[Cell], list[Trial], list[Trial]]:
    """The trials that the rule asks for so far; what those that are done gained in gold, and in the proxy."""
    cells: dict[tuple[float, int], Cell] = {}
    gold: list[Trial] = []
    proxy: list[Trial] = []
    seen: set[float] = set()
    while fresh := [factor for factor in next_factors(gold, tuning.seeds) if factor not in seen]:
        for factor in fresh:
            seen.add(factor)
            at = _as_trial(scaled(config, setting, factor), tuning)
            for seed in tuning.seeds:
                cell = identified(Wanted(label, at, "tuning", seed, factor, setting, factors), known)
                cells[factor, seed] = cell
                gained = _gained(results, cell)
                if gained is not None:
                    gold.append(Trial(factor, seed, gained[0]))
                    proxy.append(Trial(factor, seed, gained[1]))
    return [cells[key] for key in sorted(cells, key=lambda key: (key[1], key[0]))], gold, proxy


def _as_trial(config: RunConfig, tuning: Tuning) -> RunConfig:
    apart = {"split": tuning.split, "seed": TRIAL_NOISE, "every": NO_MARKS}
    return config.model_copy(update={"evaluation": config.evaluation.model_copy(update=apart)})


def _gold(config: RunConfig) -> Mapping[str, float]:
    gold = WORKLOADS.get(config.workload).gold
    return {gold: 1.0} if gold else config.reward.weights


def _gained(results: Path, cell: Cell) -> tuple[Gain, Gain] | None:
    """What a trial gained in gold and in the proxy, "diverged", or None while it has not ended."""
    state = cell_state(results, cell)
    if state.kind == "diverged":
        return "diverged", "diverged"
    if state.kind != "done":
        return None
    store, config = RunStore(results / cell.run), cell.config
    try:
        rows, scores = store.rows(), store.prompt_table()
        if scores is None:
            raise UserError("its prompts' scores are gone; run it anew with --again")
        iterations = [int(row["iteration"] or 0) for row in rows]
        cost_M = [float(row[BUDGETS[config.budget_kind]] or 0) for row in rows]
        gold, proxy = (
            by_prompt(scores, weights, iterations, cost_M, config.budget_amount).gain
            for weights in (_gold(config), config.reward.weights)
        )
        return gold, proxy
    except UserError as error:
        raise UserError(f"the trial {cell.run} cannot be read: {error}") from error


def _check(suite: Suite, tuning: Tuning, lines: Lines) -> None:
    for (_, _, label), config in lines.items():
        if config.protocol == "paper":
            raise UserError(
                f"label {label!r} has its paper's own settings, learning rate included, and protocol = 'tuned' gives "
                "every label the rate that its trials choose; put it into a suite of its own"
            )
        if config.evaluation.split == tuning.split:
            raise UserError(
                f"trials and reports would be evaluated on the same prompts, the split {tuning.split!r}; set "
                "tuning.split or evaluation.split to another"
            )
        if tuning.split == TRAIN:
            raise UserError(
                f"tuning.split = {TRAIN!r} would choose rates on the prompts that are trained on; choose another split"
            )
        if config.evaluation.seed == TRIAL_NOISE:
            raise UserError(
                f"evaluation.seed = {TRIAL_NOISE} is the noise of trials, and reports have their own; set another"
            )
        if config.evaluation.prompts < 2:
            raise UserError(
                "evaluation.prompts = 1 leaves no other prompts for a difference to hold for; protocol = 'tuned' needs "
                "two or more"
            )
        if config.budget_kind == "seconds":
            raise UserError("protocol = 'tuned' needs a counted budget, such as nfe, and not seconds; change [budget]")
        for setting in tuning.tune:
            scaled(config, setting, 1.0)
