"""What a suite's TOML says, checked before anything is resolved (docs/suites.md has every key)."""

from __future__ import annotations

import hashlib
import tomllib
from collections import Counter
from collections.abc import Iterable, Mapping
from importlib import resources
from pathlib import Path
from typing import Annotated

from pydantic import BeforeValidator, Field

from grpo_bench.builtin import DEFAULT_WORKLOAD
from grpo_bench.config import Section, Table, validated
from grpo_bench.errors import UserError, nearest
from grpo_bench.metering.ledger import BUDGET_KINDS, BudgetKind
from grpo_bench.store.names import check_name, clean_text, parse_toml
from grpo_bench.store.record import Name
from grpo_bench.store.suite import Protocol, References

MOST_CONTRASTS = 4
MOST_SEEDS = 1000
BASE_LABEL = "base"
_NEEDED = {
    "name": 'name = "mine"',
    "rewards": 'rewards = ["shapes"]',
    "seeds": "seeds = 5",
    "baseline": 'baseline = "flat"',
    "budget": "[budget] with nfe = 60000",
    "methods": "[methods.flat]",
}
_OWN = {
    "workload": "workloads",
    "seed": "seeds",
    "budget": "[budget]",
    "method.name": "[methods.LABEL] with name",
    "reward.name": "rewards",
}


def _seeds(value: object) -> object:
    """A number of seeds, counted from 0, or the seeds themselves."""
    if isinstance(value, bool) or not isinstance(value, int | list | tuple):
        raise ValueError("must be a number of seeds, such as 5, or a list of them, such as [0, 1, 2]")
    if isinstance(value, int) and value > MOST_SEEDS:
        raise ValueError(
            f"must be a number of seeds, at most {MOST_SEEDS}; a seed itself goes into a list, such as [7]"
        )
    seeds = list(range(value)) if isinstance(value, int) else list(value)
    if any(isinstance(seed, bool) or not isinstance(seed, int) for seed in seeds):
        raise ValueError("must be whole numbers, such as [0, 1, 2]")
    if not seeds or len(set(seeds)) < len(seeds):
        raise ValueError("must be at least one seed, and each only once")
    return seeds


def _rewards(value: object) -> object:
    """A list of rewards, or a table of one by workload."""
    of = value.values() if isinstance(value, dict) else value if isinstance(value, list | tuple) else None
    if not of or not all(isinstance(reward, str) for reward in of):
        raise ValueError('must be a list of rewards, such as ["shapes"], or a table by workload, such as '
                         '{ shapes = "shapes-pref", count = "count" }')  # fmt: skip
    return value if isinstance(value, dict) else tuple(of)


Seeds = Annotated[tuple[Annotated[int, Field(ge=0, lt=1 << 63)], ...], BeforeValidator(_seeds)]


class MethodEntry(Section):
    """`[methods.LABEL]`: one line of the comparison."""

    name: str = ""
    """Registered name of the method; empty: the recipe's, else the label."""
    recipe: str = ""
    """Paper's settings to start from, in place of those that `[settings]` names."""
    seeds: Seeds | None = None
    """Its own seeds, in place of the suite's."""
    set: Table = Field(default_factory=dict)
    """Config tables of its own, over `[settings]`."""


class Override(Section):
    """`[[overrides]]`: settings for the cells that match; an empty list matches all."""

    labels: tuple[str, ...] = ()
    workloads: tuple[str, ...] = ()
    rewards: tuple[str, ...] = ()
    set: Table
    """Config tables, over everything else."""


class Tuning(Section):
    """`[tuning]`: runs at other learning rates, on seeds outside the reported ones.

    Under the protocol `shared` they are of the baseline and the contrasts, and shown beside the verdicts; under `tuned`
    of every label, and choose its own rate (`analysis/rate.py`).
    """

    factors: tuple[Annotated[float, Field(gt=0, allow_inf_nan=False)], ...] = (0.333333, 1.0, 3.0)
    """Multiples of a cell's own learning rate; `tuned` begins with these three and goes on by its rule."""
    seeds: Seeds = (100, 101)
    tune: tuple[str, ...] = Field(("training.learning_rate",), min_length=1)
    """Settings to tune, one after the other, each at what was chosen for those before it; `tuned` only."""
    split: str = "tuning"
    """The workload's prompts that trials are evaluated on, which are not the reported ones; `tuned` only."""


class Base(Section):
    """`[base]`: the untrained base under other evaluation noise, which is the noise floor."""

    evaluations: int = Field(5, ge=1, le=MOST_SEEDS)


class Suite(Section):
    """A comparison: which methods, on which rewards and workloads, how often, and for how much."""

    name: Name
    title: str = ""
    about: str = ""
    workloads: tuple[str, ...] = Field((DEFAULT_WORKLOAD,), min_length=1)
    rewards: Annotated[tuple[str, ...] | dict[str, str], BeforeValidator(_rewards)]
    """On every workload; or a table, by workload."""
    seeds: Seeds
    protocol: Protocol = "shared"
    """`tuned`: every label runs at the rate that its own trials chose; `shared`: one rate for all."""
    baseline: str
    """The label that every other is compared with."""
    contrasts: tuple[str, ...] = ()
    """At most four labels whose comparison with the baseline decides; named before anything runs."""
    contrast_seeds: Seeds | None = None
    """Seeds of the baseline and the contrasts, in place of `seeds`."""
    budget: dict[BudgetKind, float]
    settings: Table = Field(default_factory=dict)
    """Config tables laid over every cell."""
    methods: dict[Name, MethodEntry] = Field(min_length=1)
    overrides: tuple[Override, ...] = ()
    tuning: Tuning | None = None
    base: Base | None = None
    references: dict[str, References] = Field(default_factory=dict)
    digest: str = ""
    """sha256 of the file's text."""

    @property
    def scenes(self) -> tuple[tuple[str, str], ...]:
        """Each workload with each reward that is trained on there."""
        if isinstance(self.rewards, dict):
            return tuple((workload, self.rewards[workload]) for workload in self.workloads)
        return tuple((workload, reward) for workload in self.workloads for reward in self.rewards)

    @property
    def primary(self) -> tuple[str, ...]:
        """The baseline and the contrasts."""
        return (self.baseline, *self.contrasts)

    def seeds_of(self, label: str) -> tuple[int, ...]:
        """A label's own seeds, else the primary ones, else everybody's."""
        own = self.methods[label].seeds
        return own or (self.contrast_seeds if label in self.primary else None) or self.seeds


def on_device(suite: Suite, device: str, *, asked: bool) -> Suite:
    """The suite whose runs are made on `device`: where they run may not be where they are planned.

    One that was `asked` for goes before the suite's own setting, which goes before any other.
    """
    own = suite.settings.get("device", "auto")
    chosen = device if asked or own == "auto" else own
    return suite.model_copy(update={"settings": {**suite.settings, "device": chosen}})


def shipped() -> dict[str, Path]:
    """The suites that come with grpo-bench, by name."""
    folder = Path(str(resources.files("grpo_bench_suites")))
    return {path.stem: path for path in sorted(folder.glob("*.toml"))}


def find_suite(named: str) -> Path:
    """A suite's file, given its path or the name of a shipped one.

    Raises:
        UserError: neither.
    """
    path, known = Path(named), shipped()
    if path.is_file():
        return path
    if named in known:
        return known[named]
    raise UserError(
        f"no suite file {clean_text(named, 200)!r}, and none is shipped of that name; {nearest(named, known)}"
    )


def load_suite(path: Path) -> Suite:
    """Read and check a suite.

    Raises:
        UserError: the file cannot be read, or the first rule it breaks, as one sentence.
    """
    try:
        text = path.read_text(encoding="utf-8-sig")
        return parse_suite(text)
    except (OSError, UnicodeDecodeError, tomllib.TOMLDecodeError) as error:
        raise UserError(f"suite {str(path)!r} cannot be read: {clean_text(str(error), 200)}") from error
    except UserError as error:
        raise UserError(f"suite {str(path)!r}: {error}") from error


def parse_suite(text: str) -> Suite:
    """A suite from its TOML.

    Raises:
        UserError: the first broken rule.
        tomllib.TOMLDecodeError: it is not TOML.
    """
    table = dict(parse_toml(text))
    methods = table.get("methods")
    for label, entry in methods.items() if isinstance(methods, dict) else ():
        check_name(label, "label")
        _checked(MethodEntry, entry, f"methods.{label}")
    for key, kind in (("tuning", Tuning), ("base", Base)):
        if key in table:
            _checked(kind, table[key], key)
    overrides = table.get("overrides", [])
    for place, entry in enumerate(overrides if isinstance(overrides, list) else ()):
        _checked(Override, entry, f"overrides.{place}")
    unknown = [key for key in table if key not in Suite.model_fields or key == "digest"]
    if unknown:
        raise UserError(f"no key is named {unknown[0]!r}; {nearest(unknown[0], set(Suite.model_fields) - {'digest'})}")
    for key, example in _NEEDED.items():
        if key not in table:
            raise UserError(f"{key} is missing; add one, such as {example}")
    _check_budget(table["budget"])
    suite = validated(Suite, table | {"digest": hashlib.sha256(text.encode()).hexdigest()})
    _check(suite)
    return suite


def _checked(kind: type[Section], entry: object, where: str) -> None:
    if not isinstance(entry, dict):
        raise UserError(f"{where} must be a table, not {entry!r}")
    if kind is Override and "set" not in entry:
        raise UserError(f"{where} sets nothing; add set = {{...}}, or remove it")
    validated(kind, entry, where)


def _check_budget(budget: object) -> None:
    """One amount of one known kind, more than nothing."""
    if not isinstance(budget, dict) or len(budget) != 1:
        raise UserError(f"[budget] must hold exactly one amount, such as nfe = 60000, not {budget!r}")
    kind, amount = next(iter(budget.items()))
    if kind not in BUDGET_KINDS:
        raise UserError(f"no budget is named {kind!r}; {nearest(kind, BUDGET_KINDS)}")
    number = not isinstance(amount, bool) and isinstance(amount, int | float)
    if not number or not 0 < amount < float("inf"):
        raise UserError(f"budget.{kind} must be a positive number, not {amount!r}")


def _check(suite: Suite) -> None:
    _check_labels(suite)
    for what, names in (
        ("workloads", suite.workloads),
        ("rewards", () if isinstance(suite.rewards, dict) else suite.rewards),
        ("contrasts", suite.contrasts),
    ):
        twice = [name for name, count in Counter(names).items() if count > 1]
        if twice:
            raise UserError(f"{what} names {twice[0]!r} twice; name it once")
    _check_rewards(suite)
    _check_own("settings", suite.settings)
    for label, entry in suite.methods.items():
        _check_own(f"methods.{label}.set", entry.set)
        if "recipe" in entry.set:
            raise UserError(f"methods.{label}.set.recipe is not a setting; write recipe in [methods.{label}] itself")
    for place, override in enumerate(suite.overrides):
        _check_own(f"overrides.{place}.set", override.set)
        _check_match(suite, override, place)
    _check_tuning(suite)
    pairs = [f"{workload}/{reward}" for workload, reward in suite.scenes]
    for key in suite.references:
        if key not in pairs:
            raise UserError(f"references of {key!r}: the suite has no such workload and reward; {nearest(key, pairs)}")


def _check_rewards(suite: Suite) -> None:
    """A table of rewards has the suite's workloads, and no other."""
    if not isinstance(suite.rewards, dict):
        return
    for workload in suite.rewards:
        if workload not in suite.workloads:
            raise UserError(f"rewards.{workload}: the suite has no such workload; {nearest(workload, suite.workloads)}")
    for workload in suite.workloads:
        if workload not in suite.rewards:
            raise UserError(f'rewards has nothing for the workload {workload!r}; add {workload} = "a reward" to it')


def _check_labels(suite: Suite) -> None:
    if BASE_LABEL in suite.methods:
        raise UserError(f"the label {BASE_LABEL!r} is kept for the untrained base; choose another")
    if suite.baseline not in suite.methods:
        raise UserError(
            f"baseline = {suite.baseline!r} is no label of [methods]; {nearest(suite.baseline, suite.methods)}"
        )
    if len(suite.contrasts) > MOST_CONTRASTS:
        raise UserError(
            f"contrasts names {len(suite.contrasts)} labels, and at most {MOST_CONTRASTS} may decide; the others are "
            "compared all the same, as exploratory"
        )
    others = [label for label in suite.methods if label != suite.baseline]
    for contrast in suite.contrasts:
        if contrast not in others:
            raise UserError(f"contrast {contrast!r} is no label beside the baseline; {nearest(contrast, others)}")


def _check_own(where: str, tables: Mapping[str, object]) -> None:
    """Refuse settings that would contradict what the suite itself lays out."""
    for key, instead in _OWN.items():
        section, _, name = key.partition(".")
        table = tables.get(section)
        if section in tables and (not name or (isinstance(table, Mapping) and name in table)):
            raise UserError(f"{where}.{key} cannot be set for cells; a suite says it with {instead}")


def _check_match(suite: Suite, override: Override, place: int) -> None:
    known: tuple[tuple[str, tuple[str, ...], Iterable[str]], ...] = (
        ("labels", override.labels, suite.methods),
        ("workloads", override.workloads, suite.workloads),
        ("rewards", override.rewards, {reward for _, reward in suite.scenes}),
    )
    for what, names, there in known:
        for name in names:
            if name not in there:
                raise UserError(f"overrides.{place}.{what}: the suite has no {name!r}; {nearest(name, there)}")


def _check_tuning(suite: Suite) -> None:
    if suite.protocol == "tuned" and (suite.tuning is None or set(suite.tuning.factors) != set(Tuning().factors)):
        raise UserError(
            "protocol = 'tuned' chooses every label's rate by one rule, from [tuning] seeds = [300, 301, 302] at the "
            "factors 1/3, 1 and 3; add [tuning], and leave factors out of it"
        )
    if suite.tuning is None:
        return
    compared = suite.methods if suite.protocol == "tuned" else suite.primary
    reported = {seed for label in compared for seed in suite.seeds_of(label)}
    both = sorted(reported & set(suite.tuning.seeds))
    if both:
        raise UserError(f"tuning.seeds has {both[0]}, which is reported too; tune on other seeds, such as [100, 101]")
    factors = suite.tuning.factors
    if not factors or len(set(factors)) < len(factors):
        raise UserError(f"tuning.factors must be at least one factor, and each only once, not {list(factors)}")
    if suite.protocol == "shared" and suite.tuning.model_fields_set & {"tune", "split"}:
        raise UserError("tuning.tune and tuning.split choose rates, and protocol = 'shared' has one; remove them")
    twice = [name for name, count in Counter(suite.tuning.tune).items() if count > 1]
    if twice:
        raise UserError(f"tuning.tune names {twice[0]!r} twice; name it once")
