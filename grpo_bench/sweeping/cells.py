"""From a suite to its runs: every cell's config, resolved as the command line would, and its run's id."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from grpo_bench.config import RunConfig, Section, Table, merge, parse_rewards, validated
from grpo_bench.config import recipe as shipped_recipe
from grpo_bench.errors import UserError, nearest
from grpo_bench.registry import METHODS, REWARDS, WORKLOADS
from grpo_bench.resolve import resolve
from grpo_bench.store.suite import CellRecord, ChoiceRecord, Part, SuiteRecord
from grpo_bench.sweeping.suite import BASE_LABEL, Override, Suite

if TYPE_CHECKING:
    from grpo_bench.training.prepare import Ingredients

LEARNING_RATE = "training.learning_rate"
Lines = Mapping[tuple[str, str, str], RunConfig]
"""Configs by workload, reward and label."""


@dataclass(frozen=True)
class Cell:
    """One run of a suite."""

    record: CellRecord
    config: RunConfig

    @property
    def run(self) -> str:
        """The run's id."""
        return self.record.run


@dataclass(frozen=True)
class Wanted:
    """A cell before it has a run's id; `config` has another seed."""

    label: str
    config: RunConfig
    part: Part
    seed: int
    factor: float = 1.0
    setting: str = ""
    factors: Mapping[str, float] = field(default_factory=dict)


def suite_cells(suite: Suite) -> tuple[Cell, ...]:
    """All cells of a suite with one rate for all labels.

    The base first, then seed by seed, so that a sweep that is cut off has as many of each label, then tuning.

    Raises:
        UserError: a method, recipe, setting or reward that does not fit, two cells that are one run, or methods that
            would be evaluated differently.
    """
    known: dict[str, Ingredients] = {}
    cells = tuple(identified(wanted, known) for wanted in _wanted(suite, lines_of(suite)))
    check_duplicates(cells)
    return cells


def lines_of(suite: Suite) -> Lines:
    """The config of every label on every workload and reward, without a seed; raises as `suite_cells`."""
    for workload in suite.workloads:
        WORKLOADS.get(workload)
    for name in (name for _, reward in suite.scenes for name in parse_rewards(reward)):
        REWARDS.get(name)
    lines = {
        (workload, reward, label): label_config(suite, workload, reward, label)
        for workload, reward in suite.scenes
        for label in suite.methods
    }
    _check_lines(suite, lines)
    return lines


def suite_record(suite: Suite, cells: tuple[Cell, ...], choices: tuple[ChoiceRecord, ...] = ()) -> SuiteRecord:
    """What a results folder keeps of a suite."""
    return SuiteRecord(
        suite=suite.name,
        title=suite.title,
        digest=suite.digest,
        baseline=suite.baseline,
        contrasts=suite.contrasts,
        budget=suite.budget,
        protocol=suite.protocol,
        choices=choices,
        references=suite.references,
        cells=tuple(cell.record for cell in cells),
    )


def of_the_base(suite: Suite, lines: Lines) -> Iterator[Wanted]:
    """The untrained base under several evaluation noises, where the suite asks for it."""
    for (_, _, label), config in lines.items():
        if suite.base is not None and label == suite.baseline:
            for noise in range(suite.base.evaluations):
                evaluation = config.evaluation.model_copy(update={"seed": noise})
                update = {"budget": {"iterations": 0.0}, "evaluation": evaluation}
                yield Wanted(BASE_LABEL, config.model_copy(update=update), "base", 0)


def _wanted(suite: Suite, lines: Lines) -> Iterator[Wanted]:
    yield from of_the_base(suite, lines)
    for seed in sorted({seed for label in suite.methods for seed in suite.seeds_of(label)}):
        for (_, _, label), config in lines.items():
            if seed in suite.seeds_of(label):
                yield Wanted(label, config, "main", seed)
    for seed in suite.tuning.seeds if suite.tuning else ():
        for (_, _, label), config in lines.items():
            for factor in suite.tuning.factors if suite.tuning and label in suite.primary else ():
                yield Wanted(label, scaled(config, LEARNING_RATE, factor), "tuning", seed, factor)


def label_config(suite: Suite, workload: str, reward: str, label: str) -> RunConfig:
    """A label's config on a workload and reward; its seed is not its cells'.

    Raises:
        UserError: what does not fit, and in which label.
    """
    entry = suite.methods[label]
    tables = merge(suite.settings, entry.set)
    for override in suite.overrides:
        if _matches(override, workload, reward, label):
            tables = merge(tables, override.set)
    recipe = entry.recipe or str(tables.get("recipe") or "")
    own: Table = {"workload": workload, "budget": dict(suite.budget), "reward": {"name": reward}}
    try:
        method = _method(entry.name, recipe, label)
        METHODS.get(method)
        tables = merge(merge(tables, own), {"method": {"name": method}})
        return resolve({key: value for key, value in tables.items() if key != "recipe"}, recipe or None, None, None)
    except UserError as error:
        raise UserError(f"methods.{label}: {error}") from error


def _method(name: str, recipe: str, label: str) -> str:
    """The entry's method, else its recipe's, else the one it is labelled with."""
    table = shipped_recipe(recipe).get("method") if recipe and not name else None
    own = table.get("name") if isinstance(table, Mapping) else None
    return name or str(own or label)


def _matches(override: Override, workload: str, reward: str, label: str) -> bool:
    chosen = ((override.labels, label), (override.workloads, workload), (override.rewards, reward))
    return all(not names or name in names for names, name in chosen)


def scaled(config: RunConfig, setting: str, factor: float) -> RunConfig:
    """At `factor` times a setting, to five digits, so that 3 x 1e-4 is 3e-4 and not a float beside it.

    Raises:
        UserError: there is no such setting, it is no number with decimals above 0, or it may not have that value.
    """
    section, _, name = setting.partition(".")
    table, known = getattr(config, section, None), _with_decimals(config)
    if not isinstance(table, Section) or setting not in known:
        own = getattr(table, name, None)
        if own is None:
            raise UserError(f"no setting is named {setting!r}, or it has no value; {nearest(setting, known)}")
        raise UserError(f"{setting} = {own!r} cannot be tuned: only numbers with decimals above 0 are multiplied, and "
                        f"none of [evaluation], which all labels share; {nearest(setting, known)}")  # fmt: skip
    if factor == 1:
        return config
    value = float(f"{known[setting] * factor:.5g}")
    changed = validated(type(table), {**table.model_dump(exclude_none=True), name: value}, section)
    return config.model_copy(update={section: changed})


def _with_decimals(config: RunConfig) -> dict[str, float]:
    """The settings that can be multiplied, by name; evaluation and budget are the same for all labels."""
    tables = config.model_dump(exclude_none=True, exclude={"evaluation", "budget"})
    return {
        f"{section}.{name}": value
        for section, table in tables.items()
        if isinstance(table, dict)
        for name, value in table.items()
        if isinstance(value, float) and value > 0
    }


def identified(wanted: Wanted, known: dict[str, Ingredients]) -> Cell:
    """The cell, with the id that its run will have; raises UserError naming the label."""
    from grpo_bench.training.prepare import identify

    try:
        identity = identify(wanted.config.model_copy(update={"seed": wanted.seed}), known)
    except UserError as error:
        raise UserError(f"methods.{wanted.label}: {error}") from error
    config = identity.config
    record = CellRecord(
        label=wanted.label,
        run=identity.run,
        method=config.method.name,
        recipe=config.recipe or None,
        reward=config.reward.name,
        workload=config.workload,
        seed=config.seed,
        protocol=config.protocol,
        part=wanted.part,
        factor=wanted.factor,
        setting=wanted.setting,
        factors=dict(wanted.factors),
    )
    return Cell(record, config)


def _check_lines(suite: Suite, lines: Lines) -> None:
    """The baseline's protocol is the contrasts', and all labels of a workload are evaluated alike."""
    for (workload, reward, label), config in lines.items():
        base = lines[workload, reward, suite.baseline]
        if label in suite.contrasts and config.protocol != base.protocol:
            raise UserError(
                f"contrast {label!r} has the {config.protocol} protocol and the baseline the {base.protocol} one, "
                "which are never compared; give both the same kind of recipe"
            )
        if config.evaluation != base.evaluation:
            mine, theirs = config.evaluation.model_dump(), base.evaluation.model_dump()
            key = next(key for key in mine if mine[key] != theirs[key])
            raise UserError(
                f"{label!r} sets evaluation.{key} = {mine[key]!r} and {suite.baseline!r} {theirs[key]!r}; evaluation "
                "is the same for all methods of a workload, so set it in [settings]"
            )


def check_duplicates(cells: tuple[Cell, ...]) -> None:
    """Refuse, with a UserError, two cells that are one run."""
    seen: dict[str, CellRecord] = {}
    for cell in cells:
        other = seen.setdefault(cell.run, cell.record)
        if other is not cell.record:
            raise UserError(
                f"{_place(other)} and {_place(cell.record)} are the same run, {cell.run}; remove one of them, or set "
                "something in it that matters"
            )


def _place(cell: CellRecord) -> str:
    part = "" if cell.part == "main" else f" ({cell.part}, {cell.factor:g} x {cell.setting or 'the learning rate'})"
    return f"{cell.label!r}{part} with seed {cell.seed}"
