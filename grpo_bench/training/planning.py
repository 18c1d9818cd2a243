"""What an iteration will cost, before anything runs: from the forest alone, without a network."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import asdict, dataclass

import numpy as np

from grpo_bench.config import RunConfig, SamplingSection, validated
from grpo_bench.errors import PluginFailed, UserError, nearest
from grpo_bench.forest.forest import Forest
from grpo_bench.forest.rollout import Bools, Ints
from grpo_bench.forest.schedule import Grid, Prediction, Schedule
from grpo_bench.guard import calling
from grpo_bench.metering.ledger import TRAIN_WEIGHT, BudgetKind, Counts
from grpo_bench.method import BEHAVIOUR, CURRENT, Draws, ForwardMethod, Method, MethodConfig
from grpo_bench.opened import making, watching
from grpo_bench.registry import METHODS
from grpo_bench.sampling.kernels import KERNELS, make_schedule
from grpo_bench.sampling.noise import Purpose, generator
from grpo_bench.sampling.schedule import diffusion_grid, linear_grid, shifted_grid


@dataclass(frozen=True)
class Cost(Counts):
    """What one iteration will spend, in the ledger's units (guided evaluations counted as two)."""

    reward_calls: int = 0
    updates: int = 0

    @property
    def nfe(self) -> int:
        """The budget's axis: rollout + reference + 3 x train (RULES.md, "Budgets")."""
        return self.rollout_nfe + self.reference_nfe + TRAIN_WEIGHT * self.train_nfe

    def amount(self, kind: BudgetKind) -> float:
        """The cost on a budget's axis; seconds are not known beforehand and count as zero."""
        return {
            "nfe": self.nfe,
            "rollout-nfe": self.rollout_nfe,
            "reward-calls": self.reward_calls,
            "updates": self.updates,
            "seconds": 0,
            "iterations": 1,
        }[kind]


def make_method(config: RunConfig) -> Method[MethodConfig]:
    """The configured method.

    Raises:
        UserError: unknown name, unknown setting or a value that breaks its rule.
    """
    kind = METHODS.get(config.method.name)
    settings = validated(kind.Config, config.method.settings, "method")
    with calling(f"method {config.method.name!r}"), watching(making(kind, settings)):
        return kind(settings)


def plan_forest(method: Method[MethodConfig], seed: int, iteration: int, schedule: Schedule) -> Forest:
    """The method's forest for an iteration; its draws depend on (seed, iteration) only."""
    return method.plan(iteration, generator(seed, Purpose.PLAN, iteration), schedule)


def planned(method: Method[MethodConfig], seed: int, iteration: int, schedule: Schedule) -> Forest:
    """`plan_forest`, for those who do not look into the method.

    Raises:
        PluginFailed: the method raised something, or planned no forest.
    """
    with calling(f"method {method.name!r}"):
        forest = plan_forest(method, seed, iteration, schedule)
    if not isinstance(forest, Forest):
        raise PluginFailed(f"method {method.name!r} planned {type(forest).__name__}; return a Forest")
    return forest


def plan_schedule(config: RunConfig) -> Schedule:
    """The configured schedule without a model: SD3's grid (ddim: SD's) stands for the model's own; costs are the same.

    Raises:
        UserError: a linear grid under ddim, or a kernel, noise or shift that does not fit.
    """
    kernel = config.sampling.kernel
    if kernel in KERNELS and KERNELS[kernel].prediction == "epsilon":
        check_grid(config.sampling, "epsilon")
        return sampling_schedule(config.sampling, diffusion_grid)
    return sampling_schedule(config.sampling, lambda steps: Grid(shifted_grid(steps)))


def sampling_schedule(sampling: SamplingSection, own: Callable[[int], Grid]) -> Schedule:
    """The configured kernel on the configured grid; `own` gives the model's grid of that many steps."""
    linear = sampling.grid == "linear"
    grid = Grid(linear_grid(sampling.steps, sampling.shift)) if linear else own(sampling.steps)
    return make_schedule(grid, sampling.kernel, sampling.noise, sampling.train_last)


def check_grid(sampling: SamplingSection, prediction: Prediction) -> None:
    """A linear grid is one of noise levels of a flow.

    Raises:
        UserError: it is asked for and the model predicts the noise.
    """
    if sampling.grid == "linear" and prediction == "epsilon":
        raise UserError(
            "sampling.grid = 'linear' holds noise levels of a flow, and a model that predicts epsilon is sampled on "
            "its own timesteps; leave sampling.grid out"
        )


def needs_reference(beta: float, method: Method[MethodConfig]) -> bool:
    """Whether training evaluates the reference policy too: for the KL, or because the method asks."""
    return beta > 0 or "reference" in method.needs


def draws_of(method: Method[MethodConfig], schedule: Schedule) -> Draws | None:
    """How a forward method noises its images; None for one that trains on edges.

    Raises:
        UserError: more draws than the grid has times.
    """
    if not isinstance(method, ForwardMethod):
        return None
    with calling(f"method {method.name!r}"):
        draws = method.draws(schedule)
    if not isinstance(draws, Draws):
        raise PluginFailed(f"method {method.name!r} gave {type(draws).__name__} for its draws; return Draws")
    if draws.law == "grid" and draws.number > schedule.steps:
        raise UserError(
            f"method {method.name!r} draws {draws.number} times of a grid that has {schedule.steps}; lower the draws "
            "or raise sampling.steps"
        )
    return draws


def frozen_evaluations(method: Method[MethodConfig], beta: float) -> int:
    """Evaluations without gradient beside each trained one: the reference policy's, and others of a forward loss."""
    others = {BEHAVIOUR, *method.averages} & method.needs if isinstance(method, ForwardMethod) else set()
    return int(needs_reference(beta, method)) + len(others)


def drawn(draws: Draws | None, forest: Forest, prompts: int) -> int:
    """Samples that a forward method noises in one iteration; none without draws."""
    return draws.number * forest.images * prompts if draws else 0


def declared(
    forest: Forest,
    method: Method[MethodConfig],
    keep_NP: Bools,
    *,
    evaluations_T: Ints,
    beta: float = 0.0,
    forward_nfe: int = 0,
) -> Counts:
    """The exact cost of one iteration, before or after pruning: what the ledger must count.

    Args:
        forest: of the iteration.
        method: for what else it needs evaluated.
        keep_NP: which trained edges are kept, for each of P prompts.
        evaluations_T: network evaluations of one prediction at each of the grid's points (two where it is guided).
        beta: weight of the KL to the reference policy.
        forward_nfe: the evaluations of a forward method's draws.
    """
    prompts = keep_NP.shape[1]
    _, edges = forest.kept_cost(keep_NP)
    cost_N = np.append(evaluations_T, 0)[forest.depth_N]  # a leaf is evaluated by no network
    train_nfe = int(forest.kept_parents(keep_NP) @ cost_N) + forward_nfe
    reference_nfe = train_nfe * frozen_evaluations(method, beta)
    return Counts(int(cost_N.sum()) * prompts, train_nfe, reference_nfe, edges, forest.images * prompts)


def iteration_cost(
    forest: Forest,
    config: RunConfig,
    method: Method[MethodConfig],
    schedule: Schedule,
    evaluations_T: Ints | None = None,
) -> Cost:
    """The cost of one iteration before pruning: exact on edges, for draws the most that they can take.

    `evaluations_T` are the network's a prediction at each point of the grid; without a model all are taken as guided.
    """
    everything_NP = np.ones((forest.nodes, config.training.prompts), dtype=bool)
    if evaluations_T is None:
        evaluations_T = np.full(schedule.steps, 2 if config.sampling.guidance > 1 else 1)
    draws = draws_of(method, schedule)
    counts = declared(
        forest,
        method,
        everything_NP,
        evaluations_T=evaluations_T,
        beta=config.objective.beta,
        forward_nfe=drawn(draws, forest, config.training.prompts) * int(evaluations_T.max()),
    )
    reward_calls = counts.images * len(config.reward.weights)
    return Cost(**asdict(counts), reward_calls=reward_calls, updates=config.training.updates)


def check_plan(config: RunConfig, method: Method[MethodConfig]) -> Cost:
    """The first iteration's cost, after the checks that need no model.

    Raises:
        UserError: the method does not fit the schedule, nothing would be trained, or the budget is too small for it.
    """
    schedule = plan_schedule(config)
    forest = planned(method, config.seed, 0, schedule)
    forest.transitions(schedule, forest.trained_edges_E)  # a noise level that the kernel does not have
    name, objective = config.method.name, config.objective
    if "mean_log_prob" in method.needs and (objective.reduction, objective.logprob_scale) != ("mean", "gaussian"):
        raise UserError(
            f"method {name!r} needs objective.reduction = 'mean' and logprob_scale = 'gaussian', not "
            f"{objective.reduction!r} and {objective.logprob_scale!r}; leave both at their defaults"
        )
    negative = config.model.negative_prompt
    if negative is not None and max(config.sampling.guidance, config.evaluation.guidance) <= 1:
        raise UserError(
            f"model.negative_prompt = {negative[:40]!r} is what guidance moves away from, and sampling.guidance and "
            "evaluation.guidance are 1; raise one, or leave the prompt out"
        )
    _check_copies(method)
    if isinstance(method, ForwardMethod):
        _check_forward(config, method, forest, schedule)
    elif not forest.trained_edges:
        raise UserError(
            f"method {config.method.name!r} trains no edge with kernel {config.sampling.kernel!r}; change one"
        )
    elif config.sampling.kernel == "ode":
        raise UserError("sampling.kernel = 'ode' draws no noise to learn from; choose flow-sde, dance-sde, cps or ddim")
    if config.training.updates > config.training.prompts:
        raise UserError(
            f"training.updates = {config.training.updates} is more than training.prompts = {config.training.prompts}; "
            "updates are split over prompts, so lower it"
        )
    cost = iteration_cost(forest, config, method, schedule)
    kind, amount = config.budget_kind, config.budget_amount
    if 0 < amount < cost.amount(kind):
        raise UserError(
            f"a budget of {kind}={amount:g} is too small: one iteration of {config.method.name!r} costs "
            f"{cost.amount(kind):g}; raise --budget or lower training.prompts"
        )
    return cost


def known_needs(method: Method[MethodConfig]) -> frozenset[str]:
    """What `needs` may name."""
    if isinstance(method, ForwardMethod):
        return frozenset({"reference", BEHAVIOUR, *method.averages})
    return frozenset({"reference", "old_mean", "mean_log_prob"})


def _check_copies(method: Method[MethodConfig]) -> None:
    """What a method asks for is there."""
    known = known_needs(method)
    for need in sorted(method.needs - known):
        raise UserError(f"method {method.name!r} needs {need!r}; {nearest(need, known)}")
    if method.samples_with != CURRENT and method.samples_with not in method.averages:
        raise UserError(
            f"method {method.name!r} samples with {method.samples_with!r}; "
            f"{nearest(method.samples_with, {CURRENT, *method.averages})}"
        )


def _check_forward(config: RunConfig, method: ForwardMethod[MethodConfig], forest: Forest, schedule: Schedule) -> None:
    """What training on the forward process needs, and cannot be combined with."""
    name = config.method.name
    if forest.trained_edges:
        raise UserError(
            f"method {name!r} trains on the forward process and plans {forest.trained_edges} trained edges; train "
            "none, or derive it from Method"
        )
    draws, group = draws_of(method, schedule), forest.images
    if draws is not None and draws.whole_groups and group > config.training.train_batch:
        raise UserError(
            f"method {name!r} compares the {group} images of a prompt in one micro-batch, and training.train_batch = "
            f"{config.training.train_batch} is less; raise it"
        )
    if config.objective.beta > 0:
        raise UserError(
            f"objective.beta = {config.objective.beta:g} weighs a KL between transitions, and method {name!r} trains "
            "none; set it to 0"
        )
    if schedule.prediction != "velocity":
        raise UserError(
            f"method {name!r} noises images along a flow, and kernel {config.sampling.kernel!r} is for models that "
            "predict the noise; choose another method"
        )
