"""Check 4: a better image never lowers its own advantage, stays with its prompt, and groups are ordered by reward."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np

from grpo_bench.conformance.finding import Finding, Worst
from grpo_bench.conformance.scenes import CONTINUOUS, PROMPTS, Change, Scene, Scored, judged, play
from grpo_bench.conformance.subject import ITERATIONS, Subject
from grpo_bench.forest.rollout import Floats

MOST_LEAVES = 12
RAISES = {"a little": 0.05, "above all others": 0.0}
"""Shares of the rewards' std; 0 stands for one std above the best."""
STRICT = 1e-9
"""Rewards differ by 1e-3 of their std at least, which moves a z-score by more than 1e-6 of its unit."""


def check_order(subject: Subject) -> Iterator[Finding]:
    """Monotone, local, support."""
    yield _monotone(subject)
    yield _local(subject)
    yield _support(subject)


def _monotone(subject: Subject) -> Finding:
    faults: list[str] = []
    raised = rose = 0
    for turns in (1, len(ITERATIONS)):
        scene = Scene(iterations=ITERATIONS[:turns])
        before = play(subject, scene)[-1]
        for prompt in range(CONTINUOUS):
            for leaf in _some(before.forest.images):
                node = _last_node(before, leaf, prompt)
                if node is None:
                    continue
                for how, share in RAISES.items():
                    change = _raise(turns - 1, leaf, prompt, share)
                    after = play(subject, scene.altered(change))[-1]
                    raised += 1
                    old, new = (float(s.credit.advantage_NP[node, prompt]) for s in (before, after))
                    rose += new > old + STRICT
                    if new < old - STRICT:
                        faults.append(_fallen(before, after, leaf, prompt, node, how))
        if faults:
            return Finding("monotone", False, faults[0])
    if not raised:
        return Finding("monotone", None, "no leaf has a trained edge of its own")
    if not rose:
        said = f"credit: none of {raised} raises of a leaf's reward raised the advantage of its last trained edge"
        return Finding("monotone", False, said)
    return Finding("monotone", True, f"{raised} raises of one leaf's reward, small ones and above all others")


def _some(images: int) -> list[int]:
    return sorted({int(leaf) for leaf in np.linspace(0, images - 1, min(images, MOST_LEAVES))})


def _last_node(scored: Scored, leaf: int, prompt: int) -> int | None:
    """The deepest node on the leaf's way whose advantage trains something."""
    path = scored.forest.path_LD[leaf]
    own = path[np.isin(path, judged(scored, prompt))]
    return int(own[-1]) if len(own) else None


def _raise(turn: int, leaf: int, prompt: int, share: float) -> Change:
    def change(now: int, reward_LP: Floats) -> Floats:
        raised_LP = reward_LP.copy()
        if now == turn:
            reward_L = reward_LP[:, prompt]
            best = reward_L.max() + reward_L.std()
            raised_LP[leaf, prompt] = reward_L[leaf] + share * reward_L.std() if share else best
        return raised_LP

    return change


def _fallen(before: Scored, after: Scored, leaf: int, prompt: int, node: int, how: str) -> str:
    """A credit by ranks or signs may stay where it is; that every edge can rise is for `descendants` to say."""
    old, new = (float(s.credit.advantage_NP[node, prompt]) for s in (before, after))
    was, now = (float(s.reward_LP[leaf, prompt]) for s in (before, after))
    return (
        f"credit: raising the reward of leaf {leaf} of prompt {prompt} {how} ({was:.4g} to {now:.4g}) took the "
        f"advantage of its own last trained edge (node {node}) from {old:.6g} down to {new:.6g}; a better image must "
        "not make the edge that led to it less desirable"
    )


def _local(subject: Subject) -> Finding:
    if not subject.method().local:
        return Finding("local", None, "the method says that other prompts' rewards count (local is False)")
    worst = Worst("local", 1e-12)
    for other in range(len(PROMPTS)):

        def change(turn: int, reward_LP: Floats, prompt: int = other) -> Floats:
            changed_LP = reward_LP.copy()
            changed_LP[:, prompt] = 5.0 - 3.0 * reward_LP[::-1, 0]
            return changed_LP

        for before, after in zip(play(subject, Scene()), play(subject, Scene(change=change)), strict=True):
            rest = [p for p in range(len(PROMPTS)) if p != other]
            difference_NP = np.abs(after.credit.advantage_NP - before.credit.advantage_NP)[:, rest]
            if before.credit.keep_NP is not None and after.credit.keep_NP is not None:
                difference_NP = difference_NP + (after.credit.keep_NP != before.credit.keep_NP)[:, rest]
            node, place = (int(i) for i in np.unravel_index(np.argmax(difference_NP), difference_NP.shape))
            worst.see(
                float(difference_NP[node, place]),
                f"credit: other rewards of prompt {other} changed the advantage of node {node} of prompt {rest[place]} "
                f"(or whether it is kept) by {difference_NP[node, place]:.4g}; use a prompt's own rewards only, or let "
                "the property local be False",
            )
    return worst.finding("each prompt's rewards replaced in turn", "")


def _support(subject: Subject) -> Finding:
    faults: list[str] = []
    pairs = 0
    for scored in play(subject, Scene()):
        forest, group_NP = scored.forest, scored.credit.group_NP
        below_N = forest.descendant_NL.sum(axis=1)
        mean_NP = forest.descendant_NL @ scored.reward_LP / below_N[:, None]
        open_N = np.isin(np.arange(forest.nodes), forest.judged_E)
        for prompt in range(len(PROMPTS)):
            for group in np.unique(group_NP[open_N & (group_NP[:, prompt] >= 0), prompt]).tolist():
                member = np.flatnonzero(open_N & (group_NP[:, prompt] == group))
                member = member[np.argsort(mean_NP[member, prompt], kind="stable")]
                mean, advantage = mean_NP[member, prompt], scored.credit.advantage_NP[member, prompt]
                better = np.diff(mean) > 1e-6
                pairs += int(better.sum())
                for low in np.flatnonzero(better & (np.diff(advantage) <= STRICT)).tolist():
                    faults.append(
                        f"credit: in group {group} of prompt {prompt} the edge into node {member[low + 1]} leads to a "
                        f"mean reward of {mean[low + 1]:.4g} and has the advantage {advantage[low + 1]:.4g}, that into "
                        f"node {member[low]} leads to {mean[low]:.4g} and has {advantage[low]:.4g}; inside a group the "
                        "better edge needs the larger advantage"
                    )
    if not pairs:
        return Finding("support", None, "the method declares no group (group_NP is -1 everywhere)")
    return Finding("support", not faults, faults[0] if faults else f"{pairs} pairs of edges of a group")
