"""Everything one run holds in memory, made from its config: policy, prompts, rewards, method, ledger, optimiser."""

from __future__ import annotations

import logging
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from itertools import product

import numpy as np
import torch
from torch import Tensor

from grpo_bench.config import RunConfig
from grpo_bench.errors import UserError
from grpo_bench.evaluation.evaluator import Evaluator
from grpo_bench.evaluation.scoring import Rewards
from grpo_bench.forest.forest import Forest
from grpo_bench.forest.rollout import Floats, Ints
from grpo_bench.guard import calling
from grpo_bench.identity import Base, find_base
from grpo_bench.metering.environment import peak_memory_bytes
from grpo_bench.metering.ledger import Ledger
from grpo_bench.policies.base import Policy
from grpo_bench.registry import POLICIES, WORKLOADS
from grpo_bench.sampling.gaussian import Likelihood
from grpo_bench.sampling.handle import Conditioning, Metered
from grpo_bench.sampling.kernels import check_kernel
from grpo_bench.sampling.noise import Purpose, generator
from grpo_bench.training.averages import Ema
from grpo_bench.training.credit_log import CreditLog
from grpo_bench.training.iteration import Experience, Learner, decoded_and_judged, experience, kept_averages
from grpo_bench.training.losses.edges import default_clip
from grpo_bench.training.planning import check_grid, make_method, needs_reference, planned, sampling_schedule
from grpo_bench.training.prepare import Prepared, evaluation_prompts, pick_device
from grpo_bench.training.prompts import Encoded, told_apart
from grpo_bench.training.ranks import ALONE, Ranks

log = logging.getLogger(__name__)


@dataclass(kw_only=True)
class Session(Learner):
    """The live parts of a run. `evaluated_nfe` is the ledger's nfe at the last evaluation, -1 before the first."""

    config: RunConfig
    rewards: Rewards
    optimiser: torch.optim.AdamW
    prompts: tuple[str, ...]
    encoded: Encoded
    evaluator: Evaluator
    ema: Ema
    credit_log: CreditLog = field(default_factory=CreditLog)
    evaluated_nfe: int = -1

    def roll_out(self, forest: Forest, index_P: Ints, number: int) -> Experience:
        """`experience` of these training prompts, judged by the rewards that are trained on."""
        batch = self.config.training.decode_batch

        def encode(place_P: Ints) -> Conditioning:
            return self.encoded.rows(index_P[place_P])

        def judge(leaf_LPZ: Tensor, prompts: Sequence[str]) -> Mapping[str, Floats]:
            return decoded_and_judged(self.policy, self.rewards, self.ledger, leaf_LPZ, prompts, decode_batch=batch)

        return experience(self, forest, [self.prompts[index] for index in index_P], encode, judge, number)


def synchroniser(device: torch.device) -> Ledger:
    """A ledger whose phases wait for `device`."""
    if device.type == "cuda":
        return Ledger(synchronize=torch.cuda.synchronize, memory=peak_memory_bytes)
    return Ledger(memory=peak_memory_bytes)


def load_policy(config: RunConfig, device: torch.device, base: Base | None = None) -> Policy:
    """The policy the config names, or its workload's own; `base` says where it lies, where that is known already.

    Raises:
        UserError: unknown family, a kernel or grid that is not for it, or a pipeline that cannot be loaded.
    """
    kind = POLICIES.get(config.model.policy)
    check_kernel(config.sampling.kernel, kind.prediction)  # before gigabytes are read for a run that cannot be
    check_grid(config.sampling, kind.prediction)
    if config.sampling.kernel == "ode" and kind.prediction == "epsilon":
        raise UserError(  # only training on the forward process gets here with this kernel
            f"method {config.method.name!r} noises images along a flow, and policy {config.model.policy!r} predicts "
            "epsilon; choose another method or model"
        )
    base = base or find_base(config)
    with calling(f"policy {config.model.policy!r}"):
        return kind.load(str(base.folder), config.model, device)


def open_session(prepared: Prepared, ranks: Ranks = ALONE) -> Session:
    """Load, encode the held-out prompts, measure the base's velocities, warm up; all of it in the phase `setup`.

    `ranks` are the processes of the run, of which this is one.

    Raises:
        UserError: anything in the config that does not fit.
    """
    device = pick_device(prepared.config.device)
    ledger = synchroniser(device)
    with ledger.phase("setup"):
        return _build(prepared, device, ledger, ranks)


def _build(prepared: Prepared, device: torch.device, ledger: Ledger, ranks: Ranks) -> Session:
    config, prompts, rewards = prepared.config, prepared.ingredients.prompts, prepared.ingredients.rewards
    method = make_method(config)
    workload = WORKLOADS.get(config.workload)
    held_out = evaluation_prompts(prompts[config.evaluation.split], config.evaluation.prompts)
    ranks.check(config.training.prompts, config.training.updates, len(held_out))
    for name, reward in rewards.items():
        with calling(f"reward {name!r}"):
            reward.load(device)
    with torch.random.fork_rng():  # adapters are drawn from torch's global stream
        torch.manual_seed(config.seed)
        policy = load_policy(config, device, prepared.ingredients.base)
    for reward in rewards.values():
        reward.fps = policy.fps
    train = told_apart(policy, prompts)
    training = config.training
    handle = Metered(policy, ledger, guidance=config.sampling.guidance, batch=training.rollout_batch)
    schedule = sampling_schedule(config.sampling, policy.steps_of)
    evaluator = Evaluator(
        policy,
        Metered(policy, ledger, guidance=config.evaluation.guidance, batch=training.rollout_batch),
        policy.encode(held_out).to(device),
        held_out,
        config.evaluation,
        rewards,
        weights=config.reward.weights,
        gold=workload.gold,
        decode_batch=training.decode_batch,
        ranks=ranks,
    )
    if needs_reference(config.objective.beta, method):
        policy.keep_reference()
    session = Session(
        config=config,
        policy=policy,
        method=method,
        rewards={name: rewards[name] for name in config.reward.weights},
        reward_weights=config.reward.weights,
        combine=config.reward.combine,
        schedule=schedule,
        ledger=ledger,
        handle=handle,
        likelihood=Likelihood(config.objective.reduction, config.objective.logprob_scale),
        averages=kept_averages(policy, method),
        clip=config.objective.clip or default_clip(int(np.prod(handle.latent_shape))),
        advantage_clip=config.objective.advantage_clip,
        beta=config.objective.beta,
        train_batch=training.train_batch,
        seed=config.seed,
        ranks=ranks,
        optimiser=_optimiser(config, policy),
        prompts=train,
        encoded=Encoded(policy, train),
        evaluator=evaluator,
        ema=Ema(policy, training),
    )
    warm_up(session)
    return session


def _optimiser(config: RunConfig, policy: Policy) -> torch.optim.AdamW:
    training = config.training
    return torch.optim.AdamW(
        [weight for _, weight in policy.parameters()],
        lr=training.learning_rate,
        betas=(training.beta1, training.beta2),
        weight_decay=training.weight_decay,
    )


def iteration_prompts(seed: int, iteration: int, available: int, count: int) -> np.ndarray:
    """Indices (P,) of an iteration's prompts: the next `count` of seeded permutations of the training prompts."""
    wanted = np.arange(iteration * count, (iteration + 1) * count)
    index = np.empty(count, dtype=np.int64)
    for epoch in np.unique(wanted // available):
        order = generator(seed, Purpose.PROMPTS, int(epoch)).permutation(available)
        inside = wanted // available == epoch
        index[inside] = order[wanted[inside] % available]
    return index


def warm_up(session: Session) -> None:
    """One untimed evaluation and one forward and backward per batch shape of the first iteration.

    No optimiser step, own random streams; charged to `setup`, so that the clock starts on warm kernels.
    """
    config, policy, handle = session.config, session.policy, session.handle
    forest = planned(session.method, config.seed, 0, session.schedule)
    prompts = config.training.prompts
    sizes = {len(forest.nodes_at(point)) * prompts for point in range(forest.steps)}
    rollout = _micro_batch_sizes(sizes, config.training.rollout_batch)
    trained = len(forest.trained_parents) + (session.draws.number if session.draws else 0) * forest.images
    train = _micro_batch_sizes({trained * prompts}, config.training.train_batch)
    stream = generator(config.seed, Purpose.WARMUP, 0)
    shapes = [(size, False) for size in sorted(rollout)] + [(size, True) for size in sorted(train)]
    served = handle.served(session.schedule.sigmas[:-1].tolist())
    for (size, gradient), (regime, sigma) in product(shapes, served.items()):
        x_BZ = torch.from_numpy(stream.standard_normal((size, *policy.latent_shape), dtype=np.float32))
        row_B = torch.zeros(size, dtype=torch.int64, device=policy.device)
        sigma_B = torch.full((size,), sigma, device=policy.device)
        with torch.set_grad_enabled(gradient):
            conditioning = session.evaluator.conditioning.select(row_B)
            v_BZ = handle.predict(x_BZ.to(policy.device), sigma_B, conditioning, "setup", regime)
            if gradient:
                v_BZ.square().mean().backward()
    session.optimiser.zero_grad(set_to_none=True)


def _micro_batch_sizes(sizes: set[int], batch: int) -> set[int]:
    """The sizes that occur when `sizes` are cut into micro-batches of `batch`."""
    return {part for size in sizes for part in (min(size, batch), size % batch) if part}
