"""Branch the policy at each grid point: how much of a reward's variance is decided from there on.

At grid point i each prompt has `TRUNKS` trunks, deterministic up to i, each of which throws `CHILDREN` children that
draw noise at every later step but the last, by the schedule's kernel: one forest of the engine a point.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping

import numpy as np

from grpo_bench.evaluation.evaluator import to_bytes, to_images
from grpo_bench.evaluation.scoring import Rewards, score_parts
from grpo_bench.forest.builders import branching
from grpo_bench.forest.rollout import Floats
from grpo_bench.gradients.streams import POTENTIAL
from grpo_bench.metering.ledger import Ledger
from grpo_bench.sampling.engine import grow
from grpo_bench.sampling.handle import Metered
from grpo_bench.sampling.noise import Noise
from grpo_bench.training.prepare import evaluation_prompts
from grpo_bench.training.session import Session

PROMPTS, TRUNKS, CHILDREN = 24, 4, 6


def branch_scores(
    session: Session, rewards: Rewards, told: Callable[[int], None] = lambda _: None
) -> list[Mapping[str, Floats]]:
    """Scores (TRUNKS, CHILDREN, P) by reward or component, at grid points 1 to T - 2 of the sampling schedule.

    The images are rounded to 8 bits, as in an evaluation. Prompts are spread evenly over the training prompts, at most
    `PROMPTS`. `told` is called with the number of points done.
    """
    index_P = np.array(evaluation_prompts(range(len(session.prompts)), PROMPTS), dtype=np.int64)
    found: list[Mapping[str, Floats]] = []
    for point in range(1, session.schedule.steps - 1):
        found.append(_at(session, rewards, index_P, point))
        told(point)
    return found


def _at(session: Session, rewards: Rewards, index_P: np.ndarray, point: int) -> Mapping[str, Floats]:
    policy, schedule, prompts = session.policy, session.schedule, [session.prompts[index] for index in index_P]
    stochastic_T = np.arange(schedule.steps) >= point
    stochastic_T[-1] = False
    forest = branching(schedule.sigmas, {point: CHILDREN}, stochastic_T, roots=TRUNKS)
    handle = Metered(policy, Ledger(), guidance=session.config.sampling.guidance, batch=session.handle.batch)
    noise = Noise(session.config.seed, POTENTIAL + point, prompts, policy.latent_shape)
    conditioning = session.encoded.rows(index_P)
    latent_BZ = grow(forest, schedule, handle, conditioning, noise, role="eval").leaf_LPZ.flatten(0, 1)
    batch = session.config.training.decode_batch
    pixels = np.concatenate([to_bytes(policy.media_of(chunk)) for chunk in latent_BZ.split(batch)])
    media_B, names = to_images(pixels, policy.device), prompts * forest.images
    return {
        name: values.reshape(TRUNKS, CHILDREN, len(prompts))
        for reward in rewards.values()
        for name, values in score_parts(reward, media_B, names).items()
    }
