"""Check 3, its second half: pairs of methods that must coincide, and closed forms that a known method must follow.

They are listed by the registered name. Every other method has none, and loses nothing by it.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, replace

import numpy as np

from grpo_bench.conformance.closed_forms import branch_forms, guard_forms, nft_forms, tempflow_forms, tree_forms
from grpo_bench.conformance.finding import Finding, Worst, blame
from grpo_bench.conformance.subject import SEED, Subject
from grpo_bench.errors import UserError
from grpo_bench.forest.forest import Forest
from grpo_bench.forest.rollout import Bools, Floats, Rollout
from grpo_bench.registry import METHODS
from grpo_bench.training.planning import plan_forest

ROUNDING = 1e-12
"""float64; the engine casts advantages to fp32, where equal ones stay equal bit for bit."""
G = 5


@dataclass(frozen=True)
class Side:
    """A method with settings, and the iteration that is planned."""

    name: str
    settings: Mapping[str, object]
    iteration: int = 0

    def describe(self) -> str:
        """`tree(branching=5, window=1)`."""
        return f"{self.name}({', '.join(f'{key}={value}' for key, value in self.settings.items())})"


@dataclass(frozen=True)
class Pair:
    """Two sides whose forests, weights and credit are equal arrays."""

    left: Side
    right: Side
    prompts: int = 2

    def describe(self) -> str:
        """The rule in words."""
        return f"{self.left.describe()} must equal {self.right.describe()}"


def pairs(steps: int) -> Iterator[Pair]:
    """Every known pair on a grid of `steps` steps."""
    shared = {"group": G, "shared_noise": True}
    for start in sorted({0, (steps - 1) // 2, steps - 2}):
        mix = Side("mix", {**shared, "window": 1, "schedule": "fixed", "window_start": start})
        yield Pair(Side("tree", {"branching": G, "window": 1, "window_start": start}), mix)
        yield Pair(Side("tempflow", {"branching": G, "roots": 1, "steps": (start,), "weighting": "none"}), mix)
        yield Pair(Side("branch-mix", {**_split(start), "window": 1, "schedule": "fixed", "window_start": start}), mix)
    everywhere = {"window": steps - 1, "schedule": "fixed", "window_start": 0}
    flat = Side("flat", {"group": G})
    yield Pair(Side("branch", _split(0)), Side("flat", shared))
    yield Pair(Side("branch-mix", everywhere), Side("branch", {}))
    yield Pair(Side("mix", {**shared, **everywhere}), Side("flat", shared))
    yield Pair(Side("mix", {**everywhere, "group": G, "shared_noise": False}), flat)
    yield Pair(Side("tempflow", {"branching": "none", "roots": G, "weighting": "none"}), flat)
    yield Pair(Side("guard", {"group": G}), flat)
    # One prompt seen for the first time: the batch that stands in for its buffer is its own group.
    yield Pair(Side("ddpo", {"group": G}), Side("flat", {"group": G, "std_eps": 1e-6}), prompts=1)
    if steps >= 6:  # so that a window of 3 has room to move twice
        moved = Side("mix", {"group": G, "window": 3, "schedule": "progressive", "tau": 25}, 57)
        yield Pair(moved, Side("mix", {"group": G, "window": 3, "schedule": "fixed", "window_start": 2}))
        shifted = Side("tree", {"branching": 2, "window": 3, "window_law": "shift", "tau": 50}, 57)
        yield Pair(shifted, Side("tree", {"branching": 2, "window": 3, "window_start": 1}))


def _split(step: int) -> dict[str, object]:
    """One split into G children with independent noise, z-scored as flat does."""
    return {"branching": G, "splits": (step,), "sibling_noise": "none", "ddof": 0}


FORMS: Mapping[str, Callable[[Subject], Iterator[tuple[str, float, float, str]]]] = {
    "branch": branch_forms,
    "branch-mix": branch_forms,
    "guard": guard_forms,
    "nft": nft_forms,
    "tempflow": tempflow_forms,
    "tree": tree_forms,
}
"""Name -> (what, deviation, bound, sentence) of each closed form."""


def check_identity(subject: Subject) -> Iterator[Finding]:
    """The pairs that name the method, then its closed forms."""
    # What the pairs say holds where the last step is deterministic, as it is unless a recipe asks otherwise.
    subject = replace(subject, sampling={k: v for k, v in subject.sampling.items() if k != "train_last"})
    known = METHODS.names()
    named = [
        pair
        for pair in pairs(subject.schedule.steps)
        if subject.identity in (pair.left.name, pair.right.name)
        and all(side.name in (*known, subject.identity) for side in (pair.left, pair.right))
    ]
    worst = Worst("identity", ROUNDING)
    for pair in named:
        left, right = (_subject(subject, side) for side in (pair.left, pair.right))
        try:
            worst.see(*_difference(pair, left, right))
        except UserError as error:
            worst.see(np.inf, f"{pair.describe()}, but {blame(subject, error)}")
    partners = sorted({side.name for pair in named for side in (pair.left, pair.right)} - {subject.identity})
    yield worst.finding(f"{len(named)} pairs with {', '.join(partners)}", "no identity names this method")
    if subject.identity in FORMS:
        yield _closed_forms(subject)


def _subject(subject: Subject, side: Side) -> Subject:
    """The side's method; the checked one where the side is known by its name."""
    name = subject.name if side.name == subject.identity else side.name
    return Subject(name, side.settings, subject.sampling)


def _difference(pair: Pair, left: Subject, right: Subject) -> tuple[float, str]:
    """How far two sides are apart, and the sentence that says it."""
    names = pair.describe()
    forests = [_forest(subject, side) for subject, side in ((left, pair.left), (right, pair.right))]
    if not forests[0].same_as(forests[1]):
        costs = [f"{f.trained_edges} trained edges at steps {_steps(f)}" for f in forests]
        return np.inf, f"plan: {names}, but the one plans {costs[0]}, the other {costs[1]}"
    (first, first_keep, first_weight), (second, second_keep, second_weight) = (
        _arrays(subject, forest, pair.prompts) for subject, forest in zip((left, right), forests, strict=True)
    )
    if not np.array_equal(first_keep, second_keep):
        return np.inf, f"credit: {names}, but they keep different edges"
    weight = float(np.abs(first_weight - second_weight).max())
    if not weight <= ROUNDING:
        return weight, f"weights: {names}, but their loss weights differ by {weight:.4g}"
    off = float(np.abs(first - second).max())
    return off, f"credit: {names}, but for the same rewards their advantages differ by {off:.4g}"


def _forest(subject: Subject, side: Side) -> Forest:
    return plan_forest(subject.method(), SEED, side.iteration, subject.schedule)


def _steps(forest: Forest) -> str:
    steps = np.unique(forest.start_N[forest.trained_edges_E]).tolist()
    return ", ".join(map(str, steps)) if len(steps) < 6 else f"{steps[0]} to {steps[-1]}"


def _arrays(subject: Subject, forest: Forest, prompts: int) -> tuple[Floats, Bools, Floats]:
    """Advantages, kept edges and weights of the trained edges."""
    method, edge_E = subject.method(), forest.trained_edges_E
    reward_LP = np.random.default_rng(SEED).standard_normal((forest.images, prompts))
    logp_NP = np.where(forest.trained_N, -1.0, 0.0)[:, None] * np.ones((1, prompts))
    texts = tuple(f"prompt {p}" for p in range(prompts))
    credit = method.credit(Rollout(forest, {"r": reward_LP}, logp_NP, prompts=texts))
    keep = np.ones_like(logp_NP, dtype=bool) if credit.keep_NP is None else credit.keep_NP
    weight_N = method.weights(forest, subject.schedule)
    weight_E = np.ones(len(edge_E)) if weight_N is None else weight_N[edge_E]
    return credit.advantage_NP[edge_E], keep[edge_E], weight_E


def _closed_forms(subject: Subject) -> Finding:
    done = []
    for what, figure, bound, sentence in FORMS[subject.identity](subject):
        if not figure <= bound:
            return Finding("closed-form", False, sentence, figure, bound)
        done.append(what)
    return Finding("closed-form", True, "; ".join(dict.fromkeys(done)))
