"""Check 4, its third half: what multiplies the step is a learning rate, and that is shared by all methods."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from types import MappingProxyType

import numpy as np

from grpo_bench.conformance.finding import Finding
from grpo_bench.conformance.stage import ADVANTAGE_CLIP
from grpo_bench.conformance.subject import SEED, Subject
from grpo_bench.forest.rollout import Rollout
from grpo_bench.method import Method, MethodConfig
from grpo_bench.training.losses.edges import default_clip
from grpo_bench.training.planning import plan_forest
from grpo_bench.training.slope import slopes
from grpo_bench.workloads.shapes.scenes import prompts as built_in

LOW, HIGH = 0.3, 3.0
"""The rule's bounds: z-scores on every edge give 1; averaged upwards, pruned or weighted by noise, 0.5 to 1.5."""
OWN_UNITS: Mapping[str, tuple[float, float]] = MappingProxyType({"guard": (3.0, 30.0)})
"""Methods whose log-ratio has another unit, and their bounds. GRPO-Guard multiplies it by the noise's std, divides the
loss by the step's length, and clips in its own units: 9."""
FAR = (0, 1, 57, 1_000, 10_000)
STREAK = 100
"""Iterations in a row of one instance; what grows by 1% in each has doubled at the end."""
DRIFT = 1.6
"""Largest factor between the first and the last fifth of them: single forests differ, twenty together hardly do."""
PROMPTS = tuple(f"prompt {number}" for number in range(4))
WORDS = built_in("train")[:16]
"""As many prompts, with the very words, as a run on the built-in model has."""
LATENT = (4, 8, 8)
"""The built-in model's."""
DIMENSIONS = 256


def check_scale(subject: Subject) -> Iterator[Finding]:
    """By the number of the iteration, with fresh instances, and as iterations go by, with one."""
    low, high = OWN_UNITS.get(subject.identity, (LOW, HIGH))
    place = "forward_loss" if subject.forward else "edge_loss"
    one, clips = subject.method(), {}
    streak = []
    for iteration in range(STREAK):
        streak.append(_scale(subject, one, iteration))
        clips[iteration] = one.clip_scale
    far = []
    for iteration in FAR:
        fresh = subject.method()
        far.append((iteration, *_scale(subject, fresh, iteration, WORDS, LATENT)))
        clips[iteration] = fresh.clip_scale
    other = next((iteration for iteration, clip in clips.items() if clip != clips[0]), None)
    if other is not None:
        said = (
            f"clip_scale: it is {clips[0]:g} in iteration 0 and {clips[other]:g} in iteration {other}; the clip is "
            "shared by all iterations, so set it once"
        )
        yield Finding("scale", False, said)
        return
    row = [scale for scale, _ in streak]
    for iteration, scale, along in far + [(iteration, *both) for iteration, both in enumerate(streak)]:
        if not along > 0:
            said = (
                f"credit or {place}: in iteration {iteration} the loss on the whole pulls against the rewards "
                f"of the images below (correlation {along:.3g}); every iteration counts"
            )
            yield Finding("scale", False, said, along, 0.0, at_least=True)
            return
        if not low <= scale <= high:
            said = (
                f"credit, weights or {place}: the root mean square of d loss / d log-prob at ratio 1 is {scale:.3g} in "
                f"iteration {iteration}, but learning rate and clip are shared, and it must be {low:g} to {high:g}; "
                "leave out the factor, which is a learning rate of the method's own"
            )
            yield Finding("scale", False, said, scale, low if scale < low else high, at_least=scale < low)
            return
    fifth = STREAK // 5
    first, last = (math.sqrt(float(np.mean(np.square(part)))) for part in (row[:fifth], row[-fifth:]))
    drift = max(last / first, first / last)
    if drift > DRIFT:
        said = (
            f"credit, weights or {place}: the root mean square of d loss / d log-prob at ratio 1 goes from {first:.3g} "
            f"to {last:.3g} within {STREAK} iterations on rewards of one kind; that is a schedule of the learning "
            "rate, which is shared"
        )
        yield Finding("scale", False, said, drift, DRIFT)
        return
    said = f"root mean square of d loss / d log-prob at ratio 1, {min(row):.3g} to {max(row):.3g}; at least {low:g}"
    yield Finding("scale", True, said, max(row), high)


def _scale(
    subject: Subject,
    method: Method[MethodConfig],
    iteration: int,
    prompts: tuple[str, ...] = PROMPTS,
    latent: tuple[int, ...] = (1, 1, 1),
) -> tuple[float, float]:
    """Of one iteration, whose rewards have spread in every group; and how its pull correlates with them."""
    schedule = subject.schedule
    forest = plan_forest(method, SEED, iteration, schedule)
    reward_LP = 10 * np.random.default_rng([SEED, iteration]).standard_normal((forest.images, len(prompts)))
    logp_NP = np.where(forest.trained_N, -1.0, 0.0)[:, None] * np.ones((1, len(prompts)))
    credit = method.credit(Rollout(forest, {"r": reward_LP}, logp_NP, prompts=prompts))
    weight_N, clip = method.weights(forest, schedule), default_clip(DIMENSIONS) * method.clip_scale
    slope_NP = slopes(
        method, forest, schedule, credit, weight_N, clip=clip, advantage_clip=ADVANTAGE_CLIP, latent=latent
    )
    kept_NP = np.isfinite(slope_NP)
    mean_NP = forest.descendant_NL @ (reward_LP - reward_LP.mean(axis=0)) / forest.descendant_NL.sum(1, keepdims=True)
    pull_M, mean_M = -slope_NP[kept_NP], mean_NP[kept_NP]
    scale, spread = math.sqrt(float(np.mean(np.square(pull_M)))), math.sqrt(float(np.mean(np.square(mean_M))))
    return scale, float(np.mean(pull_M * mean_M)) / (scale * spread or 1.0)
