"""Where a method's forests are grown and trained on: a policy with a few encoded prompts, in the engine's own parts."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, fields, replace

import numpy as np
import torch
from torch import Tensor

from grpo_bench.builtin import DEFAULT_WORKLOAD, EXACT_WORKLOAD
from grpo_bench.conformance.subject import SEED, Subject
from grpo_bench.forest.forest import Forest
from grpo_bench.forest.rollout import Floats
from grpo_bench.forest.schedule import Schedule
from grpo_bench.metering.ledger import Ledger
from grpo_bench.method import Draws, EdgeBatch, ForwardBatch, ForwardMethod, Method, MethodConfig
from grpo_bench.policies.base import Policy
from grpo_bench.sampling.gaussian import GAUSSIAN_MEAN, Likelihood
from grpo_bench.sampling.handle import Metered
from grpo_bench.sampling.noise import Noise
from grpo_bench.training.handed import tensors, written
from grpo_bench.training.iteration import Experience, Learner, experience, kept_averages
from grpo_bench.training.losses.edges import Batch, Diagnostics, Objective, default_clip
from grpo_bench.training.losses.forward import ForwardObjective
from grpo_bench.training.planning import plan_forest, sampling_schedule
from grpo_bench.training.prepare import splits
from grpo_bench.training.session import load_policy

ADVANTAGE_CLIP = 5.0

Reward = Callable[[Tensor, Sequence[str]], Floats]


def mean_number(leaf_LPZ: Tensor, prompts: Sequence[str]) -> Floats:
    """A reward (L, P) of any latents: the mean of their numbers."""
    values: Floats = leaf_LPZ.flatten(2).double().mean(2).numpy()
    return values


@dataclass(frozen=True)
class Iteration(Experience):
    """`planned` is the forest as it was before the method's credit saw it."""

    planned: Forest


class Stage:
    """A workload's policy on the CPU, its first prompts, and the method's schedule on it."""

    def __init__(self, subject: Subject, workload: str, prompts: int) -> None:
        config = subject.config(workload)
        self.name = workload
        self.policy: Policy = load_policy(config, torch.device("cpu"))
        self.prompts = splits(config)["train"][:prompts]
        self.conditioning = self.policy.encode(self.prompts)
        self.policy.keep_reference()
        self.schedule = sampling_schedule(config.sampling, self.policy.steps_of)

    def noise(self, iteration: int) -> Noise:
        """The streams of an iteration."""
        return Noise(SEED, iteration, self.prompts, self.policy.latent_shape)

    def iterate(
        self,
        method: Method[MethodConfig],
        iteration: int,
        ledger: Ledger,
        *,
        reward: Reward = mean_number,
        likelihood: Likelihood = GAUSSIAN_MEAN,
    ) -> Iteration:
        """Plan, grow, score and credit one iteration."""
        forest = plan_forest(method, SEED, iteration, self.schedule)
        planned = replace(forest)
        learner = self.learner(method, ledger, likelihood)
        made = experience(
            learner,
            forest,
            self.prompts,
            lambda place_P: self.conditioning,
            lambda leaf_LPZ, prompts: {"r": reward(leaf_LPZ, prompts)},
            iteration,
        )
        return Iteration(**{part.name: getattr(made, part.name) for part in fields(made)}, planned=planned)

    def handle(self, ledger: Ledger) -> Metered:
        """The policy, charged to a ledger."""
        return Metered(self.policy, ledger, guidance=1.0, batch=256)

    def magnified(self, forest: Forest) -> float:
        """The largest |v| / std of the trained edges, at least 1: what a log-prob makes of the network's rounding.

        A network's outputs differ by some 1e-6 with the size of its batch. The factor is 1.5 for flow-sde, but 32 for
        cps, whose last trained step is nearly noiseless.
        """
        edge_E = forest.transitions(self.schedule, forest.trained_edges_E)
        return float(np.max(np.abs(edge_E.v) / edge_E.std, initial=1.0))

    def learner(
        self,
        method: Method[MethodConfig],
        ledger: Ledger,
        likelihood: Likelihood = GAUSSIAN_MEAN,
        train_batch: int = 64,
    ) -> Learner:
        """The engine's parts for a method; its averages are the policy as it is now."""
        return Learner(
            method=method,
            policy=self.policy,
            schedule=self.schedule,
            handle=self.handle(ledger),
            likelihood=likelihood,
            averages=kept_averages(self.policy, method),
            ledger=ledger,
            seed=SEED,
            clip=default_clip(int(np.prod(self.policy.latent_shape))),
            advantage_clip=ADVANTAGE_CLIP,
            beta=0.0,
            train_batch=train_batch,
        )

    def objective(
        self,
        method: Method[MethodConfig],
        ledger: Ledger,
        likelihood: Likelihood = GAUSSIAN_MEAN,
        train_batch: int = 64,
    ) -> Objective | ForwardObjective:
        """The engine's objective for a method, with the current policy as the old one."""
        return self.learner(method, ledger, likelihood, train_batch).objective

    def gradient(
        self, objective: Objective | ForwardObjective, batch: Batch, prompts: Sequence[int] | None = None
    ) -> dict[str, Tensor]:
        """The loss's gradient by weight name, float64; the policy's own gradients are cleared."""
        chosen = np.arange(len(self.prompts)) if prompts is None else np.array(prompts)
        objective.accumulate(batch, chosen, Diagnostics.empty(batch.forest.steps))
        gradients = {}
        for name, weight in self.policy.parameters():
            grad = torch.zeros_like(weight) if weight.grad is None else weight.grad
            gradients[name] = grad.detach().double().clone()
            weight.grad = None
        return gradients


def stages(subject: Subject) -> list[Stage]:
    """The closed form, and unless the subject is `fast` the tiny model of the real family; two prompts each."""
    names = [EXACT_WORKLOAD] if subject.fast else [EXACT_WORKLOAD, DEFAULT_WORKLOAD]
    return [Stage(subject, name, 2) for name in names]


class Recorder(Method[MethodConfig]):
    """A method's losses, with the micro-batches that the engine handed to them; nothing flows back to the network."""

    def __init__(self, inner: Method[MethodConfig]) -> None:
        super().__init__(inner.config)
        self._inner = inner
        self.name = inner.name  # type: ignore[misc]
        self.needs, self.clip_scale = inner.needs, inner.clip_scale
        self.averages, self.samples_with = inner.averages, inner.samples_with
        self.edges: list[EdgeBatch] = []

    def plan(self, *args: object) -> Forest:
        """Not asked: the forest has been planned."""
        raise AssertionError(args)

    def log_ratio(self, batch: EdgeBatch) -> Tensor:
        """See `Method.log_ratio`."""
        return self._inner.log_ratio(batch)

    def edge_loss(self, batch: EdgeBatch) -> Tensor:
        """See `Method.edge_loss`."""
        self.edges.append(batch)
        before = _copied(batch)
        loss = self._inner.edge_loss(batch)
        _check_unwritten(before, batch, self._inner.name)
        return loss.detach().requires_grad_()


class ForwardRecorder(Recorder, ForwardMethod[MethodConfig]):
    """The same of a forward method."""

    def __init__(self, inner: ForwardMethod[MethodConfig]) -> None:
        super().__init__(inner)
        self._forward, self.given = inner, list[ForwardBatch]()

    def draws(self, schedule: Schedule) -> Draws:
        """See `ForwardMethod.draws`."""
        return self._forward.draws(schedule)

    def forward_loss(self, batch: ForwardBatch) -> Tensor:
        """See `ForwardMethod.forward_loss`."""
        self.given.append(batch)
        before = _copied(batch)
        loss = self._forward.forward_loss(batch)
        _check_unwritten(before, batch, self._inner.name)
        return loss


def _copied(batch: EdgeBatch | ForwardBatch) -> dict[str, Tensor]:
    return {name: tensor.detach().clone() for name, tensor in tensors(batch).items()}


def _check_unwritten(before: dict[str, Tensor], batch: EdgeBatch | ForwardBatch, method: str) -> None:
    """By value, which sees what torch does not count: writes through `.data` or a numpy view."""
    for name, tensor in tensors(batch).items():
        if not torch.equal(tensor, before[name]):
            raise written(name, method)
