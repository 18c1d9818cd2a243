"""What an iteration will cost, before anything runs: from the forest alone, without a network."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from grpo_bench.config import RunConfig, SamplingSection, validated
from grpo_bench.errors import PluginFailed, UserError
from grpo_bench.forest.forest import Forest
from grpo_bench.forest.schedule import Grid, Prediction, Schedule
from grpo_bench.guard import calling
from grpo_bench.metering.ledger import TRAIN_WEIGHT, BudgetKind
from grpo_bench.method import Method, MethodConfig
from grpo_bench.registry import METHODS
from grpo_bench.sampling.kernels import KERNELS, make_schedule
from grpo_bench.sampling.noise import Purpose, generator
from grpo_bench.sampling.schedule import diffusion_grid, linear_grid, shifted_grid


@dataclass(frozen=True)
class Cost:
    """What one iteration will spend, in the ledger's units (guided evaluations counted as two)."""

    rollout_nfe: int
    train_nfe: int
    reference_nfe: int
    images: int
    trained_edges: int
    reward_calls: int
    updates: int

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
    with calling(f"method {config.method.name!r}"):
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


def frozen_evaluations(forest: Forest, beta: float, method: Method[MethodConfig]) -> int:
    """Evaluations without gradient beside each trained one: the reference policy's, on forward draws the old one's."""
    old = forest.forward_draws > 0 and "old_policy" in method.needs
    return int(needs_reference(beta, method)) + int(old)


def iteration_cost(forest: Forest, config: RunConfig, method: Method[MethodConfig]) -> Cost:
    """The exact cost of one iteration before pruning."""
    prompts = config.training.prompts
    evaluations = prompts * (2 if config.sampling.guidance > 1 else 1)
    frozen = frozen_evaluations(forest, config.objective.beta, method)
    return Cost(
        rollout_nfe=forest.rollout_nfe * evaluations,
        train_nfe=forest.train_nfe * evaluations,
        reference_nfe=forest.train_nfe * evaluations * frozen,
        images=forest.images * prompts,
        trained_edges=forest.trained_edges * prompts,
        reward_calls=forest.images * prompts * len(config.reward.weights),
        updates=config.training.updates,
    )


def check_plan(config: RunConfig, method: Method[MethodConfig]) -> Cost:
    """The first iteration's cost, after the checks that need no model.

    Raises:
        UserError: the method does not fit the schedule, nothing would be trained, or the budget is too small for it.
    """
    forest = planned(method, config.seed, 0, plan_schedule(config))
    name, objective = config.method.name, config.objective
    if method.gaussian_mean_only and (objective.reduction, objective.logprob_scale) != ("mean", "gaussian"):
        raise UserError(
            f"method {name!r} needs objective.reduction = 'mean' and logprob_scale = 'gaussian', not "
            f"{objective.reduction!r} and {objective.logprob_scale!r}; leave both at their defaults"
        )
    if forest.forward_draws:
        _check_forward(config, method, forest)
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
    cost = iteration_cost(forest, config, method)
    kind, amount = config.budget_kind, config.budget_amount
    if 0 < amount < cost.amount(kind):
        raise UserError(
            f"a budget of {kind}={amount:g} is too small: one iteration of {config.method.name!r} costs "
            f"{cost.amount(kind):g}; raise --budget or lower training.prompts"
        )
    return cost


def _check_forward(config: RunConfig, method: Method[MethodConfig], forest: Forest) -> None:
    """What training on the forward process needs, and cannot be combined with."""
    name = config.method.name
    if forest.trained_edges:
        raise UserError(
            f"method {name!r} plans forward draws and {forest.trained_edges} trained edges; plan one of the two"
        )
    if type(method).forward_loss is Method.forward_loss:
        raise UserError(
            f"method {name!r} plans forward draws but has no forward_loss; define it, or train edges instead"
        )
    if config.objective.beta > 0:
        raise UserError(
            f"objective.beta = {config.objective.beta:g} weighs a KL between transitions, and method {name!r} trains "
            "none; set it to 0"
        )
    if plan_schedule(config).prediction != "velocity":
        raise UserError(
            f"method {name!r} noises images along a flow, and kernel {config.sampling.kernel!r} is for models that "
            "predict the noise; choose another method"
        )
