"""`diagnosis.json`: inner products of gradients and shares of variance, by policy; all that their figures need.

It is written whole after every label, so that a killed `grpo-bench diagnose` loses at most the label in work. An entry
is named by a hash of all that it was made from, and what is found under that name is not made again.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from contextlib import contextmanager
from typing import TYPE_CHECKING, Annotated

from pydantic import BaseModel, ConfigDict, Field

from grpo_bench.errors import UserError
from grpo_bench.store.atomic import exclusively, saving, write_text
from grpo_bench.store.names import clean_text
from grpo_bench.store.record import Name, Rewards, parse_model

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

SCHEMA_VERSION = 1
DIGITS = 8
"""Significant ones of a stored number."""

Finite = Annotated[float, Field(allow_inf_nan=False)]
Row = tuple[Finite, ...]


class _Frozen(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True)


class LabelRecord(_Frozen):
    """One label at one policy: K estimates, J targets, T steps."""

    id: str
    """A hash of the settings, sources and streams that made it."""
    label: Name
    method: Name
    nfe_K: tuple[int, ...] = Field(min_length=1)
    """Evaluations of each iteration: rollout + reference + 3 x train."""
    gg_KK: tuple[Row, ...]
    """Lower triangle: row k holds <g_k, g_0> to <g_k, g_k>."""
    gh_KJ: tuple[Row, ...]
    share_KT: tuple[Row, ...]
    """Share of an iteration's trained edges (or forward draws) at each step."""
    weight_KT: tuple[Row, ...]
    """Mean weight of a step's loss, 0 where nothing is trained."""
    ge_K: Row = ()
    """Product with the method's own exact target, where that is known."""
    ee_K: Row = ()
    """That target's square."""
    seconds: Finite = 0.0


class PotentialRecord(_Frozen):
    """Variances of scores by reward or component: rows are grid points, columns prompts."""

    kernel: str
    noise: Finite
    trunks: int
    children: int
    sigmas: Row
    """The points that were branched at."""
    within: Mapping[str, tuple[Row, ...]]
    """Mean variance among siblings."""
    between: Mapping[str, tuple[Row, ...]]
    """Variance between trunks, without the siblings' part."""


class PolicyRecord(_Frozen):
    """One policy, and the deployed objective at it."""

    id: str
    """A hash of weights, deployment sampler, prompts, rewards and streams."""
    name: str
    """`base`, or the run whose last checkpoint it is."""
    nfe: Finite = 0.0
    """What that run had spent."""
    sigmas: Row
    """(T + 1,) the grid that the labels are trained on."""
    hh_JJ: tuple[Row, ...] = ()
    """Lower triangle, as `gg_KK`."""
    labels: tuple[LabelRecord, ...] = ()
    potential: PotentialRecord | None = None

    def label(self, name: str) -> LabelRecord | None:
        """The label of that name, if it was measured."""
        return next((one for one in self.labels if one.label == name), None)

    def with_label(self, found: LabelRecord) -> PolicyRecord:
        """The same with one more label; it replaces one of its name."""
        others = tuple(one for one in self.labels if one.label != found.label)
        return self.model_copy(update={"labels": (*others, found)})


class Diagnosis(_Frozen):
    """The content of the file."""

    workload: Name
    reward: Rewards
    schema_version: int = SCHEMA_VERSION
    numerics_version: int
    policies: tuple[PolicyRecord, ...] = ()

    def policy(self, identity: str) -> PolicyRecord | None:
        """The policy with that id, if anything was measured at it."""
        return next((one for one in self.policies if one.id == identity), None)

    def with_policy(self, found: PolicyRecord) -> Diagnosis:
        """The same with one more policy, or with that one's new content."""
        others = [one for one in self.policies if one.id != found.id]
        place = next((at for at, one in enumerate(self.policies) if one.id == found.id), len(others))
        return self.model_copy(update={"policies": (*others[:place], found, *others[place:])})


def read_diagnosis(path: Path) -> Diagnosis:
    """The file at `path`.

    Raises:
        UserError: it is missing, damaged, or a newer version's.
    """
    try:
        text = path.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise UserError(
            f"no diagnosis can be read from {path} ({clean_text(str(error), 200)}); make one with grpo-bench diagnose"
        ) from error
    try:
        return parse_model(Diagnosis, text, path)
    except ValueError as error:
        detail = clean_text(str(error), 200)
    raise UserError(f"{path} is no diagnosis ({detail}); remove it, and diagnose again")


def write_diagnosis(path: Path, diagnosis: Diagnosis) -> None:
    """Replace the file in one step.

    Raises:
        UserError: the disk refuses; the old file is then whole.
    """
    with saving("the diagnosis", path):
        path.parent.mkdir(parents=True, exist_ok=True)
    write_text(path, diagnosis.model_dump_json() + "\n", "the diagnosis")


def rounded(values: Sequence[float]) -> Row:
    """Numbers as they are stored."""
    return tuple(float(f"{value:.{DIGITS}g}") for value in values)


@contextmanager
def only_writer(path: Path) -> Iterator[None]:
    """Hold the file; a killed process's hold ends with it.

    Raises:
        UserError: another process writes it.
    """
    refused = f"another process is writing {path}: wait for it, or give --out another file"
    with exclusively(path.with_name(f".{path.name}.lock"), "the diagnosis's lock", path, refused):
        yield
