"""The deployed objective's gradient: the proxy of the images that the deployment sampler draws, backpropagated.

Through reward, decoder and ODE sampler. Each step is recomputed on the way back (gradient checkpointing), so that the
memory is that of one step's graph and one latent a step, whatever the number of steps. Images are not rounded.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable, Sequence

import torch
from torch import Tensor
from torch.utils.checkpoint import checkpoint

from grpo_bench.errors import Diverged, UserError
from grpo_bench.forest.rollout import Ints
from grpo_bench.gradients.streams import TARGETS
from grpo_bench.guard import calling
from grpo_bench.metering.ledger import Ledger
from grpo_bench.policies.base import Policy
from grpo_bench.reward import Reward, RewardConfig
from grpo_bench.sampling.handle import Conditioning, Metered
from grpo_bench.sampling.kernels import make_schedule
from grpo_bench.sampling.noise import Noise, Purpose, generator
from grpo_bench.training.session import Session

BATCHES, PROMPTS = 12, 64
"""Batches of the deployed objective, and distinct training prompts in each (fewer where there are fewer)."""
ROOT_KEY = 0
"""Names the initial noise of the one image a prompt."""


def targets(session: Session, batches: int = BATCHES, told: Callable[[int], None] = lambda _: None) -> list[Tensor]:
    """h_j: the gradient of the mean proxy on each of `batches` batches, (W,) fp32 on the CPU.

    `told` is called with the number of batches done.

    Raises:
        UserError: the derivative is zero everywhere.
        Diverged: it is not finite.
    """
    found = []
    for batch in range(batches):
        index_P = batch_prompts(session, batch)
        prompts = [session.prompts[index] for index in index_P]
        noise = Noise(session.config.seed, TARGETS + batch, prompts, session.policy.latent_shape)
        x_PZ = noise.draw(Purpose.ROOT, torch.tensor([ROOT_KEY]).numpy(), session.policy.device)[0]
        gradient = deployed_gradient(session, session.encoded.rows(index_P), prompts, x_PZ)
        if not bool(torch.isfinite(gradient).all()):
            raise Diverged("the deployed objective's gradient holds a NaN or Inf")
        if not bool(gradient.any()):
            raise UserError(
                f"the gradient of reward {session.config.reward.name!r} is zero on every image of a batch, so that "
                "nothing can be compared with it; diagnose with a reward that changes smoothly"
            )
        found.append(gradient)
        told(batch + 1)
    return found


def batch_prompts(session: Session, batch: int) -> Ints:
    """The places of a batch's prompts in `session.prompts`: distinct, and drawn anew for each batch."""
    order: Ints = generator(session.config.seed, Purpose.PROMPTS, TARGETS + batch).permutation(len(session.prompts))
    return order[:PROMPTS]


def deployed_gradient(session: Session, conditioning: Conditioning, prompts: Sequence[str], x_PZ: Tensor) -> Tensor:
    """d (mean proxy of the images drawn from the noise `x_PZ`) / d (trained weights), flat (W,), fp32 on the CPU."""
    training = session.config.training
    weights = [weight for _, weight in session.policy.parameters()]
    total = [torch.zeros_like(weight) for weight in weights]
    size = min(training.train_batch, training.decode_batch)
    for start in range(0, len(prompts), size):
        rows = slice(start, start + size)
        place_B = torch.arange(len(prompts), device=x_PZ.device)[rows]
        with torch.enable_grad():
            leaf_BZ = drawn(session, conditioning.select(place_B), x_PZ[rows])
            score_B = checkpoint(_proxy, session, leaf_BZ, list(prompts[rows]), use_reentrant=False)
        parts = torch.autograd.grad(score_B.sum() / len(prompts), weights, allow_unused=True)
        for whole, part in zip(total, parts, strict=True):
            if part is not None:
                whole += part
    return torch.cat([part.flatten() for part in total]).float().cpu()


def drawn(session: Session, conditioning: Conditioning, x_BZ: Tensor) -> Tensor:
    """The latents that the deployment sampler makes of the noise `x_BZ`, differentiable in the weights.

    The engine's deterministic step, one graph a step; nothing is charged to the session's ledger.
    """
    settings, policy = session.config.evaluation, session.policy
    schedule = make_schedule(policy.steps_of(settings.steps), "ode")
    handle = Metered(policy, Ledger(), guidance=settings.guidance, batch=len(x_BZ))
    regime_T = handle.regimes(schedule.sigmas[:-1])

    def step(x_BZ: Tensor, at: int) -> Tensor:
        sigma_B = torch.full((len(x_BZ),), float(schedule.sigmas[at]), device=x_BZ.device)
        v_BZ = handle.predict(x_BZ, sigma_B, conditioning, "eval", regime_T[at])
        return float(schedule.still_step.x[at]) * x_BZ + float(schedule.still_step.v[at]) * v_BZ

    for at in range(schedule.steps):
        x_BZ = checkpoint(step, x_BZ, at, use_reentrant=False)
    return x_BZ


def _proxy(session: Session, leaf_BZ: Tensor, prompts: list[str]) -> Tensor:
    """What is trained on, (B,), of decoded latents: the rewards' weighted sum."""
    media_B = decoded(session.policy, leaf_BZ)
    weighted = [
        weight * session.rewards[name].score_media(media_B, prompts)
        for name, weight in session.config.reward.weights.items()
    ]
    return torch.stack(weighted).sum(0)


def decoded(policy: Policy, latent_BZ: Tensor) -> Tensor:
    """`policy.decode` with the graph that it leaves out: a policy switches gradients off by torch's decorator."""
    media_B: Tensor = inspect.unwrap(type(policy).decode)(policy, latent_BZ)
    return media_B


def check_differentiable(session: Session) -> None:
    """Autograd must pass through the decoder and each reward, asked of one image.

    Raises:
        UserError: it does not; which, and what to choose instead.
    """
    latent_BZ = torch.zeros((1, *session.policy.latent_shape), device=session.policy.device, requires_grad=True)
    name = session.config.model.policy
    with torch.enable_grad():
        media_B = decoded(session.policy, latent_BZ)
        if not _passes(media_B, latent_BZ):
            raise UserError(
                f"policy {name!r} decodes images without a derivative, and diagnose needs one; choose a workload whose "
                "policy has it, such as shapes"
            )
        for reward in session.rewards.values():
            if not _scores_smoothly(reward, media_B.detach().requires_grad_(), session.prompts[:1]):
                raise UserError(
                    f"reward {reward.name!r} has no derivative by the image, and diagnose needs one of the reward that "
                    "is trained on; choose a differentiable one by --reward, as shapes-pref is on shapes"
                )


def _scores_smoothly(reward: Reward[RewardConfig], media_B: Tensor, prompts: Sequence[str]) -> bool:
    reward.judge(media_B, prompts)  # what is wrong with it otherwise says so itself
    try:
        with calling(f"reward {reward.name!r}", kind=_Refused):
            score_B = reward.score_media(media_B, prompts)
    except _Refused:  # such as numpy(), which torch refuses to images that require gradients
        return False
    return _passes(score_B, media_B)


class _Refused(Exception):
    """A reward cannot take images that require gradients."""


def _passes(result: Tensor, source: Tensor) -> bool:
    """Whether `result` depends on `source` as far as autograd can tell."""
    if not result.requires_grad:
        return False
    (slope,) = torch.autograd.grad(result.sum(), source, allow_unused=True)
    return slope is not None
