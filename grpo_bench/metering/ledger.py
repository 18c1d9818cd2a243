"""The ledger: what a run spent, counted where it happens and never computed from a formula (RULES.md, "The ledger").

The engine charges every network evaluation to a role as it makes it; the forest states its cost beforehand; `check`
compares the two, so that a miscounted saving is an engine bug and not a better looking curve.
"""

from __future__ import annotations

import operator
import time
from contextlib import contextmanager
from dataclasses import dataclass, fields
from typing import TYPE_CHECKING, Literal, Protocol, TypeVar, get_args

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping, Sequence

    from pydantic import JsonValue

Role = Literal["rollout", "train", "reference", "eval", "setup"]
Phase = Literal["plan", "rollout", "decode", "reward", "credit", "train", "eval", "io", "setup"]
Counter = Literal["decodes", "images", "updates", "trained_edges", "iterations"]
BudgetKind = Literal["nfe", "rollout-nfe", "reward-calls", "updates", "seconds", "iterations"]

ROLES: tuple[Role, ...] = get_args(Role)
PHASES: tuple[Phase, ...] = get_args(Phase)
COUNTERS: tuple[Counter, ...] = get_args(Counter)
BUDGET_KINDS: tuple[BudgetKind, ...] = get_args(BudgetKind)

CLOCKED_PHASES: tuple[Phase, ...] = ("plan", "rollout", "decode", "reward", "credit", "train")
"""The phases whose sum is `seconds`; setup, evaluation and writing are separate columns."""

T = TypeVar("T")


class Together(Protocol):
    """What the ledger asks of the ranks of a run."""

    @property
    def world(self) -> int:
        """How many there are."""

    def sum(self, counts: Sequence[int]) -> list[int]:
        """Each number summed over the ranks."""

    def most(self, values: Sequence[float]) -> list[float]:
        """The largest of each number over the ranks."""


TRAIN_WEIGHT = 3
"""A forward and a backward pass count as three evaluations on the `nfe` axis."""


class LedgerMismatch(RuntimeError):
    """The engine spent something else than the forest declared: a bug of the engine, never of the person."""


@dataclass(frozen=True)
class Counts:
    """What a forest can declare in advance (all prompts together) and the ledger must reproduce exactly."""

    rollout_nfe: int = 0
    train_nfe: int = 0
    reference_nfe: int = 0
    trained_edges: int = 0
    images: int = 0

    def __sub__(self, other: Counts) -> Counts:
        """What was counted since `other` was taken."""
        return Counts(*(getattr(self, field.name) - getattr(other, field.name) for field in fields(self)))


def check(declared: Counts, counted: Counts) -> None:
    """Compare a declared cost with the counted one.

    Raises:
        LedgerMismatch: on the first quantity that differs by even one, naming it and both values.
    """
    for field in fields(Counts):
        want, got = getattr(declared, field.name), getattr(counted, field.name)
        if want != got:
            raise LedgerMismatch(f"engine bug: {field.name} was declared as {want} by the forest but counted as {got}.")


class Ledger:
    """Counters and phase times of one run.

    Counts are those of training; evaluation charges its network evaluations to the role "eval" and nothing else, so
    that looking at a run never changes its price.

    Args:
        synchronize: waits for the device; called at both ends of every phase, so that a phase owns its own kernels.
        clock: seconds, monotonic.
        memory: current peak memory in bytes, read at the end of every phase.
    """

    def __init__(
        self,
        synchronize: Callable[[], None] = lambda: None,
        clock: Callable[[], float] = time.perf_counter,
        memory: Callable[[], int] = lambda: 0,
    ) -> None:
        self._synchronize, self._clock, self._memory = synchronize, clock, memory
        self._nfe: dict[Role, int] = dict.fromkeys(ROLES, 0)
        self._counters: dict[Counter, int] = dict.fromkeys(COUNTERS, 0)
        self._seconds: dict[Phase, float] = dict.fromkeys(PHASES, 0.0)
        self._reward_calls: dict[str, int] = {}
        self._peak_memory_bytes = 0
        self._open: Phase | None = None

    def charge(self, role: Role, evaluations: int) -> None:
        """Add network evaluations (per sample; a guided step is two) to a role.

        Raises:
            ValueError: for an unknown role or a negative number.
        """
        self._nfe[_known(role, ROLES, "role")] += _natural(evaluations)

    def count(self, counter: Counter, amount: int = 1) -> None:
        """Add to one of the plain counters; raises ValueError for an unknown counter or a negative amount."""
        self._counters[_known(counter, COUNTERS, "counter")] += _natural(amount)

    def count_reward(self, reward: str, calls: int) -> None:
        """Add `calls` images scored by the reward of that name; raises ValueError for a negative number."""
        self._reward_calls[reward] = self._reward_calls.get(reward, 0) + _natural(calls)

    @contextmanager
    def phase(self, name: Phase) -> Iterator[None]:
        """Time a block as one phase; its time is kept when the block raises.

        Raises:
            RuntimeError: inside another phase, because the time would be counted twice.
        """
        _known(name, PHASES, "phase")
        if self._open is not None:
            raise RuntimeError(f"phases do not nest: {name!r} was entered inside {self._open!r}.")
        self._synchronize()
        self._open = name
        start = self._clock()
        try:
            yield
            self._synchronize()
        except BaseException:
            self._settle()
            raise
        finally:
            self._seconds[name] += self._clock() - start
            self._open = None
            self._peak_memory_bytes = max(self._peak_memory_bytes, self._memory())

    def _settle(self) -> None:
        """Synchronise after a failure; a device that cannot any more must not hide the error that broke it."""
        try:
            self._synchronize()
        except Exception:
            return  # the block's own exception is the one to report

    def evaluations(self, role: Role) -> int:
        """Network evaluations charged to a role so far."""
        return self._nfe[role]

    def seconds_in(self, phase: Phase) -> float:
        """Seconds spent in a finished phase so far."""
        return self._seconds[phase]

    @property
    def reward_calls(self) -> dict[str, int]:
        """Images scored, by reward name."""
        return dict(self._reward_calls)

    @property
    def nfe(self) -> int:
        """The budget's axis: rollout + reference + 3 x train; evaluation and setup are never in it."""
        return self._nfe["rollout"] + self._nfe["reference"] + TRAIN_WEIGHT * self._nfe["train"]

    @property
    def seconds(self) -> float:
        """Seconds of training: plan, rollout, decode, reward, credit and train."""
        return sum(self._seconds[phase] for phase in CLOCKED_PHASES)

    @property
    def iterations(self) -> int:
        """Finished iterations."""
        return self._counters["iterations"]

    @property
    def peak_memory_bytes(self) -> int:
        """The largest reading of the memory reader so far, over every part of a resumed run."""
        return self._peak_memory_bytes

    def counts(self) -> Counts:
        """The quantities a forest declares, as counted so far; subtract an earlier one to get an iteration's."""
        return Counts(
            rollout_nfe=self._nfe["rollout"],
            train_nfe=self._nfe["train"],
            reference_nfe=self._nfe["reference"],
            trained_edges=self._counters["trained_edges"],
            images=self._counters["images"],
        )

    def amount(self, kind: BudgetKind) -> int | float:
        """What has been spent of a budget; raises ValueError for an unknown kind."""
        spent: dict[BudgetKind, int | float] = {
            "nfe": self.nfe,
            "rollout-nfe": self._nfe["rollout"],
            "reward-calls": sum(self._reward_calls.values()),
            "updates": self._counters["updates"],
            "seconds": self.seconds,
            "iterations": self._counters["iterations"],
        }
        return spent[_known(kind, BUDGET_KINDS, "budget")]

    def row(self) -> dict[str, int | float]:
        """Every counter as the columns of one point."""
        return {
            "iteration": self.iterations,
            "nfe": self.nfe,
            **{f"{role}_nfe": self._nfe[role] for role in ROLES},
            "reward_calls": sum(self._reward_calls.values()),
            **{name: self._counters[name] for name in COUNTERS if name != "iterations"},
            "seconds": self.seconds,
            **{f"{phase}_seconds": self._seconds[phase] for phase in PHASES},
            "peak_memory_bytes": self._peak_memory_bytes,
        }

    def merge(self, before: Mapping[str, JsonValue], ranks: Together) -> None:
        """Make what was counted since `before`, this rank's, that of the whole run: sums, and the longest time.

        Every rank makes the same updates, iterations and setup: those are counted once.
        """
        if ranks.world == 1:
            return
        earlier = Ledger()
        earlier.load_state_dict(before)
        roles = [role for role in ROLES if role != "setup"]
        counters: list[Counter] = ["decodes", "images", "trained_edges"]
        rewards = sorted(self._reward_calls)
        counts = ranks.sum(
            [
                *(self._nfe[role] - earlier._nfe[role] for role in roles),
                *(self._counters[name] - earlier._counters[name] for name in counters),
                *(self._reward_calls[name] - earlier._reward_calls.get(name, 0) for name in rewards),
            ]
        )
        for role in roles:
            self._nfe[role] = earlier._nfe[role] + counts.pop(0)
        for name in counters:
            self._counters[name] = earlier._counters[name] + counts.pop(0)
        for reward in rewards:
            self._reward_calls[reward] = earlier._reward_calls.get(reward, 0) + counts.pop(0)
        seconds = ranks.most([*(self._seconds[phase] - earlier._seconds[phase] for phase in PHASES)])
        for phase, spent in zip(PHASES, seconds, strict=True):
            self._seconds[phase] = earlier._seconds[phase] + spent
        self._peak_memory_bytes = int(ranks.most([self._peak_memory_bytes])[0])

    def state_dict(self) -> dict[str, JsonValue]:
        """Everything needed to go on counting after a resume, as JSON; an open phase is not in it yet."""
        return {
            "nfe": {role: self._nfe[role] for role in ROLES},
            "counters": {name: self._counters[name] for name in COUNTERS},
            "reward_calls": dict(self._reward_calls),
            "seconds": {phase: self._seconds[phase] for phase in PHASES},
            "peak_memory_bytes": self._peak_memory_bytes,
        }

    def load_state_dict(self, state: Mapping[str, JsonValue]) -> None:
        """Take over what `state_dict` returned; raises ValueError for anything else, and then changes nothing."""
        wanted = {"nfe", "counters", "reward_calls", "seconds", "peak_memory_bytes"}
        if set(state) != wanted:
            raise ValueError(f"a ledger's state has the keys {sorted(wanted)}, got {sorted(state)}.")
        nfe = _numbers(state["nfe"], ROLES, "nfe")
        counters = _numbers(state["counters"], COUNTERS, "counters")
        seconds = _numbers(state["seconds"], PHASES, "seconds")
        reward_calls = _numbers(state["reward_calls"], None, "reward_calls")
        peak = _natural_json(state["peak_memory_bytes"], "peak_memory_bytes")
        loaded = (
            {role: _natural_json(nfe[role], role) for role in ROLES},
            {name: _natural_json(counters[name], name) for name in COUNTERS},
            {phase: float(seconds[phase]) for phase in PHASES},
            {name: _natural_json(calls, name) for name, calls in reward_calls.items()},
        )
        self._nfe, self._counters, self._seconds, self._reward_calls = loaded
        self._peak_memory_bytes = peak


def _known(name: T, names: Sequence[T], what: str) -> T:
    if name not in names:
        raise ValueError(f"unknown {what} {name!r}; one of {', '.join(map(str, names))}.")
    return name


def _natural(value: int) -> int:
    """A count as a plain int; numpy's integers pass, a float or a negative number does not."""
    amount = operator.index(value)
    if amount < 0:
        raise ValueError(f"a ledger only counts up, got {amount}.")
    return amount


def _natural_json(value: JsonValue, name: str) -> int:
    if not isinstance(value, int) or isinstance(value, bool) or value < 0:
        raise ValueError(f"{name} in a ledger's state must be a whole number from 0, got {value!r}.")
    return value


def _numbers(value: JsonValue, keys: Sequence[str] | None, name: str) -> dict[str, int | float]:
    if not isinstance(value, dict) or (keys is not None and set(value) != set(keys)):
        raise ValueError(f"{name} in a ledger's state does not have the expected keys: {value!r}.")
    numbers: dict[str, int | float] = {}
    for key, number in value.items():
        if isinstance(number, bool) or not isinstance(number, int | float):
            raise ValueError(f"{name}.{key} in a ledger's state must be a number, got {number!r}.")
        numbers[key] = number
    return numbers
