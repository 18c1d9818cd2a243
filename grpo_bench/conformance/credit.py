"""Check 2: advantages of a declared group sum to zero, do not see the reward's scale, and follow their prompts."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np

from grpo_bench.conformance.finding import Finding, Worst
from grpo_bench.conformance.scenes import PROMPTS, Change, Scene, Scored, judged, play
from grpo_bench.conformance.subject import SEED, Subject
from grpo_bench.forest.rollout import Rollout

ROUNDING = 1e-6
"""float64 sums of a few hundred z-scores err by 1e-13; a std at its floor of 1e-6 may magnify that to 1e-8."""
AFFINE = 1e-4
"""The rule's own bound. Rewards have a std of 4 or more, so that a paper's `std_eps` of 1e-4 changes 2.5 by 6e-5."""


def check_credit(subject: Subject) -> Iterator[Finding]:
    """Shapes first: what has the wrong shape is not asked anything else."""
    faults = [fault for scored in play(subject, Scene()) for fault in _faults(scored)]
    yield Finding("shapes", not faults, faults[0] if faults else "advantage_NP, group_NP and keep_NP")
    if faults:
        return
    yield _zero_sum(subject)
    yield _affine(subject)
    yield _permutation(subject)
    yield _alike(subject)
    yield _equal(subject)
    yield _every_reward(subject)


def _faults(scored: Scored) -> Iterator[str]:
    credit, shape = scored.credit, (scored.forest.nodes, len(PROMPTS))
    parts: dict[str, tuple[object, str]] = {
        "advantage_NP": (credit.advantage_NP, "f"),
        "group_NP": (credit.group_NP, "iu"),
    }
    if credit.keep_NP is not None:
        parts["keep_NP"] = (credit.keep_NP, "b")
    names = {"f": "floats", "iu": "whole numbers", "b": "bools"}
    for name, (values, kinds) in parts.items():
        if not isinstance(values, np.ndarray) or values.shape != shape or values.dtype.kind not in kinds:
            got = f"{values.dtype} of shape {values.shape}" if isinstance(values, np.ndarray) else type(values).__name__
            yield f"credit: {name} holds {names[kinds]}, one a node and prompt, of shape {shape}, not {got}"
            return
    if not np.isfinite(credit.advantage_NP).all():
        node, prompt = np.argwhere(~np.isfinite(credit.advantage_NP))[0]
        value = credit.advantage_NP[node, prompt]
        yield f"credit: the advantage of node {node} of prompt {prompt} is {value}; give its std a floor"
    if credit.keep_NP is not None and not (credit.keep_NP & scored.forest.trained_N[:, None]).any():
        yield "credit: keep_NP drops every trained edge of every prompt, so that nothing is trained"


def _zero_sum(subject: Subject) -> Finding:
    worst, groups = Worst("zero-sum", ROUNDING), 0
    for scored in play(subject, Scene()):
        advantage_NP, group_NP = scored.credit.advantage_NP, scored.credit.group_NP
        for prompt in range(len(PROMPTS)):
            for group in np.unique(group_NP[:, prompt][group_NP[:, prompt] >= 0]).tolist():
                member_N = group_NP[:, prompt] == group
                total = float(advantage_NP[member_N, prompt].sum())
                groups += 1
                worst.see(
                    abs(total),
                    f"credit: the advantages of group {group} ({_depths(scored, member_N)}) of prompt {prompt} sum to "
                    f"{total:.4g}, but a declared group sums to zero; declare -1 for nodes outside any group, or "
                    "centre the advantages inside each group",
                )
    return worst.finding(f"{groups} declared groups", "the method declares no group (group_NP is -1 everywhere)")


def _depths(scored: Scored, member_N: np.ndarray) -> str:
    depths = np.unique(scored.forest.depth_N[member_N]).tolist()
    return f"depth {depths[0]}" if len(depths) == 1 else f"depths {depths[0]} to {depths[-1]}"


def _affine(subject: Subject) -> Finding:
    worst = Worst("affine", AFFINE)
    plain = play(subject, Scene())
    for scale, shift in ((2.0, 70.0), (0.5, -9.0)):
        changed = play(subject, Scene(change=_rescaled(scale, shift)))
        for before, after in zip(plain, changed, strict=True):
            difference_NP = np.abs(after.credit.advantage_NP - before.credit.advantage_NP)
            node, prompt = (int(i) for i in np.unravel_index(np.argmax(difference_NP), difference_NP.shape))
            values = (float(s.credit.advantage_NP[node, prompt]) for s in (before, after))
            worst.see(
                float(difference_NP[node, prompt]),
                f"credit: with every reward r replaced by {scale:g} r {shift:+g} the advantage of node {node} of "
                f"prompt {prompt} went from {next(values):.4g} to {next(values):.4g}, but a reward's scale and zero "
                "point must not matter; subtract a mean and divide by a std",
            )
    return worst.finding("r -> 2 r + 70 and r -> r/2 - 9", "")


def _rescaled(scale: float, shift: float) -> Change:
    return lambda turn, reward_LP: scale * reward_LP + shift


def _permutation(subject: Subject) -> Finding:
    """Another order in each iteration: a prompt is known by its text, not by its place."""
    worst = Worst("permutation", ROUNDING)
    played = zip(play(subject, Scene()), play(subject, Scene(order=_order)), strict=True)
    for turn, (before, after) in enumerate(played):
        order = _order(turn)
        difference_NP = np.abs(after.credit.advantage_NP - before.credit.advantage_NP[:, list(order)])
        if before.credit.keep_NP is not None and after.credit.keep_NP is not None:
            difference_NP = difference_NP + (after.credit.keep_NP != before.credit.keep_NP[:, list(order)])
        node, place = (int(i) for i in np.unravel_index(np.argmax(difference_NP), difference_NP.shape))
        worst.see(
            float(difference_NP[node, place]),
            f"credit: with the prompts in another order, node {node} of prompt {order[place]} has another advantage or "
            f"is kept otherwise (off by {difference_NP[node, place]:.4g}); a prompt's place in the batch must not "
            "matter",
        )
    return worst.finding("four prompts in another order in each iteration", "")


def _alike(subject: Subject) -> Finding:
    """In the first iteration, before a method can remember anything of a prompt."""
    worst = Worst("alike", ROUNDING)
    (scored,) = play(subject, Scene(iterations=(0,), change=lambda turn, reward_LP: reward_LP[:, :1].repeat(4, axis=1)))
    difference_NP = np.abs(scored.credit.advantage_NP - scored.credit.advantage_NP[:, :1])
    node, prompt = (int(i) for i in np.unravel_index(np.argmax(difference_NP), difference_NP.shape))
    worst.see(
        float(difference_NP[node, prompt]),
        f"credit: prompts 0 and {prompt} got the same rewards, but the advantages of node {node} differ by "
        f"{difference_NP[node, prompt]:.4g}; neither a prompt's words nor its place may matter",
    )
    return worst.finding("the same rewards for four prompts", "")


def _equal(subject: Subject) -> Finding:
    """In the first iteration, before a method can remember better ones."""
    worst = Worst("equal", ROUNDING)
    (scored,) = play(subject, Scene(iterations=(0,), change=lambda turn, reward_LP: np.full_like(reward_LP, 0.5)))
    for prompt in range(len(PROMPTS)):
        node_M = judged(scored, prompt)
        depth_M, advantage_M = scored.forest.depth_N[node_M], scored.credit.advantage_NP[node_M, prompt]
        for depth in np.unique(depth_M).tolist():
            worst.see(
                float(np.ptp(advantage_M[depth_M == depth])),
                f"credit: all images got the same reward, but the advantages at depth {depth} differ by "
                f"{np.ptp(advantage_M[depth_M == depth]):.4g}; nothing but rewards may tell images apart",
            )
    return worst.finding("the same reward for every image", "no edge was kept where all rewards are equal")


def _every_reward(subject: Subject) -> Finding:
    """Two rewards, of which one alone tells the images apart: that one is credited, whichever it is; and by its weight.

    Where both tell them apart, exchanging their weights changes advantages.
    """
    forest = subject.forest(0)
    stream = np.random.default_rng(SEED)
    told_LP, other_LP = (10 * stream.standard_normal((forest.images, len(PROMPTS))) for _ in range(2))
    logp_NP = np.where(forest.trained_N, -1.0, 0.0)[:, None] * np.ones((1, len(PROMPTS)))

    def credited(first_LP: np.ndarray, second_LP: np.ndarray, weights: tuple[float, float]) -> np.ndarray:
        scores, shares = {"first": first_LP, "second": second_LP}, dict(zip(("first", "second"), weights, strict=True))
        return subject.method().credit(Rollout(forest, scores, logp_NP, shares, prompts=PROMPTS)).advantage_NP

    same_LP = np.full_like(told_LP, 0.5)
    for position, pair in (("first", (told_LP, same_LP)), ("second", (same_LP, told_LP))):
        if float(np.abs(credited(*pair, (1.0, 1.0))).max()) <= ROUNDING:
            said = f"credit: of two rewards the {position} alone tells images apart, and no edge has an advantage by it"
            return Finding("rewards", False, f"{said}; credit each term of rollout.terms()")
    apart_NP = credited(told_LP, other_LP, (0.8, 0.2)) - credited(told_LP, other_LP, (0.2, 0.8))
    if float(np.abs(apart_NP).max()) <= ROUNDING:
        said = "credit: of two rewards with the weights 0.8 and 0.2, exchanging the weights changes no advantage"
        return Finding("rewards", False, f"{said}; credit rollout.terms(), which hold them")
    return Finding("rewards", True, "each of two rewards alone gives advantages, and weights count")


def _order(turn: int) -> list[int]:
    places = (2, 0, 3, 1)
    return [places[(place - turn) % len(places)] for place in range(len(places))]
