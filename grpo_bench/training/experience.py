"""One iteration up to its updates: roll out a forest, decode and score its images, hand out the method's credit."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch

from grpo_bench.errors import Diverged, UserError
from grpo_bench.evaluation.scoring import score
from grpo_bench.forest.forest import Forest
from grpo_bench.forest.rollout import Credit, Ints, Rollout
from grpo_bench.guard import calling
from grpo_bench.sampling.engine import Trajectories, grow
from grpo_bench.sampling.handle import Conditioning
from grpo_bench.sampling.noise import Noise
from grpo_bench.training.objective import Batch
from grpo_bench.training.session import Session
from grpo_bench.training.slope import slopes


def gather(session: Session, forest: Forest, index_P: Ints, iteration: int) -> tuple[Batch, Rollout]:
    """What an iteration trains on, and the rollout that it was made of.

    Args:
        session: whose policy (or its behaviour policy) samples; everything is charged to its ledger, phase by phase.
        forest: what is rolled out for each prompt.
        index_P: the prompts, as places in `session.prompts`.
        iteration: names the noise streams.

    Raises:
        Diverged: a NaN or Inf in a latent, a reward or the credit.
        UserError: the method's credit is not what it should be.
    """
    with session.ledger.phase("setup"):  # encoding is no part of what methods differ in
        conditioning = session.encoded.rows(index_P)
    prompts = [session.prompts[index] for index in index_P]
    with session.ledger.phase("rollout"):
        noise = Noise(session.config.seed, iteration, prompts, session.policy.latent_shape)
        with session.behaviour.applied():
            grown = grow(
                forest,
                session.schedule,
                session.handle,
                conditioning,
                noise,
                likelihood=session.likelihood,
                old_mean="old_mean" in session.method.needs,
            )
    rollout = _score(session, forest, grown, prompts)
    with session.ledger.phase("credit"):
        return _credit(session, forest, grown, rollout, conditioning, noise), rollout


def _score(session: Session, forest: Forest, grown: Trajectories, prompts: Sequence[str]) -> Rollout:
    """Decode and score every leaf; latents are dropped with it."""
    config, ledger, leaf_LPZ = session.config, session.ledger, grown.leaf_LPZ
    if not bool(torch.isfinite(leaf_LPZ).all()):
        raise Diverged(f"the policy gave a NaN or Inf in the rollout of iteration {ledger.iterations}")
    with ledger.phase("decode"):
        latent_BZ = leaf_LPZ.flatten(0, 1)
        batch = config.training.decode_batch
        images_BCHW = torch.cat([session.policy.decode(chunk) for chunk in latent_BZ.split(batch)])
        ledger.count("decodes", len(images_BCHW))
        ledger.count("images", len(images_BCHW))
    with ledger.phase("reward"):
        names = list(prompts) * forest.images
        rewards = {}
        for name, reward in session.rewards.items():
            rewards[name] = score(reward, images_BCHW, names).reshape(forest.images, len(prompts))
            ledger.count_reward(name, len(names))
    logp_NP = np.zeros((forest.nodes, len(prompts)))
    logp_NP[forest.trained_edges_E] = grown.logp_EP.cpu().numpy()
    return Rollout(forest, rewards, logp_NP, config.reward.weights, config.reward.combine, tuple(prompts))


def _credit(
    session: Session,
    forest: Forest,
    grown: Trajectories,
    rollout: Rollout,
    conditioning: Conditioning,
    noise: Noise,
) -> Batch:
    method, schedule = session.method, session.schedule
    with calling(f"method {method.name!r}"):
        credit = method.credit(rollout)
        weight_N = method.weights(forest, schedule)
    _check_credit(credit, forest, rollout.logp_NP.shape[1])
    clip = session.config.objective.advantage_clip
    slope_NP = slopes(method, forest, schedule, credit, weight_N, clip=session.objective.clip, advantage_clip=clip)
    session.credit_log.see(rollout, credit, slope_NP)
    return Batch.credited(forest, schedule, grown, conditioning, credit, weight_N, noise, advantage_clip=clip)


def _check_credit(credit: object, forest: Forest, prompts: int) -> None:
    if not isinstance(credit, Credit):
        raise UserError(f"the method's credit is {type(credit).__name__}; return a Credit")
    if credit.advantage_NP.shape != (forest.nodes, prompts):
        raise UserError(
            f"the method's credit has the shape {credit.advantage_NP.shape}, but {forest.nodes} nodes and {prompts} "
            f"prompts need {(forest.nodes, prompts)}"
        )
    if not np.isfinite(credit.advantage_NP).all():
        raise Diverged("the method's credit holds a NaN or Inf")
