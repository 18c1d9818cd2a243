"""Check 4, its second half: a trained edge follows the rewards of its own descendants, whatever groups are declared.

One reward stands out, and is exchanged with the lowest: mean and std stay as they are. Each exchange is made in a
prompt of its own, so that two credits answer hundreds of them. Raising one reward alone is no test: through the std,
other edges move the same way.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np

from grpo_bench.conformance.finding import Finding
from grpo_bench.conformance.order import STRICT
from grpo_bench.conformance.scenes import Scene, Scored, play
from grpo_bench.conformance.subject import ITERATIONS, SEED, Subject
from grpo_bench.forest.forest import Forest
from grpo_bench.forest.rollout import Floats, Ints, Rollout
from grpo_bench.training.planning import plan_forest

MOST = 600
"""Exchanges of one iteration; more are thinned out evenly."""
OUTSTANDING = 100.0
"""The one reward, in standard deviations of the others: wherever it lies, it makes up mean and std of any set."""
LEAK = 0.2
"""Share of what its own descendants give an edge that a relative's may give it: where siblings are compared without
saying so, they may lose their own small differences (a tenth) as the outstanding reward comes among them."""


@dataclass(frozen=True)
class Move:
    """In one prompt the outstanding reward goes from leaf `source` to leaf `target`; the edge into `node` is asked."""

    node: int
    source: int
    target: int


def check_descendants(subject: Subject) -> Iterator[Finding]:
    """In the first iteration, and in the last of several, where what is remembered could stand in for what is new."""
    done = [0, 0]
    for turns in (1, len(ITERATIONS)):
        forest = subject.forest(ITERATIONS[turns - 1])
        group_N = play(subject, Scene(iterations=ITERATIONS[:turns]))[-1].credit.group_NP[:, 0]
        own, near = (_thinned(list(moves(forest, group_N))) for moves in (_own_moves, _relative_moves))
        rises: dict[int, float] = {}
        for move, change, kept in _changes(subject, turns, own):
            if change <= STRICT and kept:
                yield Finding("descendants", False, _not_followed(subject, turns, move, change, forest))
                return
            rises[move.node] = max(change, rises.get(move.node, 0.0))
        done = [done[0] + len(own), done[1] + len(near)]
        for move, change, _ in _changes(subject, turns, near):
            if move.node in rises and change > LEAK * rises[move.node]:
                yield Finding("descendants", False, _leaks(move, change, rises[move.node], forest))
                return
    if not done[0]:
        yield Finding("descendants", None, "no edge has images outside it")
        return
    yield Finding("descendants", True, f"an outstanding reward put below {done[0]} edges, and near to {done[1]}")


def _kinship(forest: Forest, node: int) -> Ints:
    """(L,) the depth of the last node that each leaf's way shares with the node's; -1 where they share none."""
    depth = int(forest.depth_N[node])
    path_D = forest.path_LD[int(np.argmax(forest.descendant_NL[node])), : depth + 1]
    shared_L: Ints = (forest.path_LD[:, : depth + 1] == path_D).sum(axis=1) - 1
    return shared_L


def _own_moves(forest: Forest, group_N: Ints) -> Iterator[Move]:
    """To each leaf below each edge, from its nearest and its farthest relative among those it is compared with."""
    for node in forest.judged_E.tolist():
        rival_R, kin_L = _rivals(forest, group_N, node), _kinship(forest, node)
        if not len(rival_R):
            continue
        for place, target in enumerate(np.flatnonzero(forest.descendant_NL[node]).tolist()):
            turned_R = np.roll(rival_R, -(place + node) % len(rival_R))  # not the same relative every time
            for pick in {int(turned_R[np.argmax(kin_L[turned_R])]), int(turned_R[np.argmin(kin_L[turned_R])])}:
                yield Move(node, pick, target)


def _relative_moves(forest: Forest, group_N: Ints) -> Iterator[Move]:
    """From a distant relative of each edge to a near one, neither of them below it."""
    for node in forest.judged_E.tolist():
        rival_R = _rivals(forest, group_N, node)
        kin_R = _kinship(forest, node)[rival_R]
        if len(rival_R) and kin_R.max() > kin_R.min():
            yield Move(node, int(rival_R[np.argmin(kin_R)]), int(rival_R[np.argmax(kin_R)]))


def _rivals(forest: Forest, group_N: Ints, node: int) -> Ints:
    """Leaves outside the node that it is compared with: those below its declared group, else all."""
    outside_L = ~forest.descendant_NL[node]
    if group_N[node] >= 0:
        declared_L = forest.descendant_NL[group_N == group_N[node]].any(axis=0) & outside_L
        outside_L = declared_L if declared_L.any() else outside_L
    return np.flatnonzero(outside_L)


def _thinned(moves: Sequence[Move]) -> list[Move]:
    """At most `MOST` of them, evenly chosen, in an order that tells prompts from edges."""
    chosen = np.linspace(0, len(moves) - 1, min(len(moves), MOST)).astype(int)
    return [moves[i] for i in np.random.default_rng(SEED).permutation(chosen)]


def _changes(subject: Subject, turns: int, moves: Sequence[Move]) -> Iterator[tuple[Move, float, bool]]:
    """(move, by how much the edge's pull rises, whether it is kept before or after); a dropped edge pulls by 0."""
    if not moves:
        return
    before, after = (_pulls(_credited(subject, turns, moves, moved=moved)) for moved in (False, True))
    for prompt, move in enumerate(moves):
        (old, was), (new, now) = (
            (float(p[0][move.node, prompt]), bool(p[1][move.node, prompt])) for p in (before, after)
        )
        yield move, new - old, was or now


def _pulls(scored: Scored) -> tuple[Floats, np.ndarray]:
    advantage_NP, keep_NP = scored.credit.advantage_NP, scored.credit.keep_NP
    if keep_NP is None or not scored.forest.trained_edges:
        return advantage_NP, np.ones(advantage_NP.shape, dtype=bool)
    return np.where(keep_NP, advantage_NP, 0.0), keep_NP


def _credited(subject: Subject, turns: int, moves: Sequence[Move], *, moved: bool) -> Scored:
    """The credit of the last of `turns` iterations of one instance, a prompt a move; the others have other rewards."""
    method, rng = subject.method(), np.random.default_rng(SEED)
    prompts = tuple(f"prompt {number}" for number in range(len(moves)))
    for turn, iteration in enumerate(ITERATIONS[:turns]):
        forest = plan_forest(method, SEED, iteration, subject.schedule)
        reward_LP = 10 * rng.standard_normal((forest.images, len(moves))) + 3
        if turn == turns - 1:
            for prompt, move in enumerate(moves):
                low, high = reward_LP[:, prompt].min() - 10, 10 * OUTSTANDING
                reward_LP[[move.source, move.target], prompt] = (low, high) if moved else (high, low)
        logp_NP = np.where(forest.trained_N, -1.0, 0.0)[:, None] * np.ones((1, len(moves)))
        credit = method.credit(Rollout(forest, {"r": reward_LP}, logp_NP, prompts=prompts))
    return Scored(forest, reward_LP, credit)


def _not_followed(subject: Subject, turns: int, move: Move, change: float, forest: Forest) -> str:
    what = "fall" if change < -STRICT else "stay where it was"
    stale = "" if turns == 1 else (
        " (in the first iteration it rises: is this the credit of an earlier iteration's rewards?)"
    )  # fmt: skip
    return (
        f"credit: exchanging the lowest reward, of leaf {move.target} below the edge into node {move.node} (depth "
        f"{forest.depth_N[move.node]}), with the best one, of leaf {move.source} outside it, made the edge's advantage "
        f"{what} (by {change:+.4g}); an edge follows the rewards of the images below it, of the same prompt and "
        f"iteration{stale}"
    )


def _leaks(move: Move, change: float, own: float, forest: Forest) -> str:
    return (
        f"credit: the best reward moved from leaf {move.source} to leaf {move.target}, neither of them below the edge "
        f"into node {move.node} (depth {forest.depth_N[move.node]}), and the edge's advantage rose by {change:.4g}, "
        f"beside {own:.4g} for an image of its own; an edge follows the images below it, not those of its relatives"
    )
