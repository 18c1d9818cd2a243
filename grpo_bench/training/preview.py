"""What `grpo-bench plan` shows of a configured method: its first forest, and what its credit keeps of an example."""

from __future__ import annotations

import inspect
import traceback
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from grpo_bench.config import RunConfig
from grpo_bench.errors import UserError
from grpo_bench.forest.forest import Forest
from grpo_bench.forest.invariants import Bools
from grpo_bench.forest.rollout import Rollout
from grpo_bench.forest.sketch import Sketch
from grpo_bench.method import Method, MethodConfig
from grpo_bench.registry import METHODS
from grpo_bench.training.planning import draws_of, frozen_evaluations, make_method, plan_schedule, planned


def preview(config: RunConfig) -> Sketch:
    """The method's forest of iteration 0, with the edges that stay trained after example rewards.

    Raises:
        UserError: unknown name or setting, or settings that do not fit the schedule.
    """
    method = make_method(config)
    schedule = plan_schedule(config)
    forest, draws = planned(method, config.seed, 0, schedule), draws_of(method, schedule)
    frozen = frozen_evaluations(method, config.objective.beta)
    kept_N = _example_keep(method, forest)
    return Sketch(config.method.name, forest, kept_N, frozen, draws.number if draws else 0)


def _example_keep(method: Method[MethodConfig], forest: Forest) -> Bools | None:
    """Which edges (N,) the credit keeps for one prompt whose leaves' rewards come from a fixed stream.

    Pruning by width depends on rewards, so there is no exact answer before a rollout; log-probs are all zero.
    """
    reward_LP = np.random.Generator(np.random.Philox(0)).random((forest.images, 1))
    rollout = Rollout(forest, {"example": reward_LP}, np.zeros((forest.nodes, 1)), prompts=("an example",))
    try:
        keep_NP = method.credit(rollout).keep_NP
    except UserError:
        raise
    except Exception as error:  # a plugin's own code
        raise UserError(
            f"method {method.name!r} fails in credit on example rewards: {type(error).__name__}: {error} "
            f"({_place(method, error)}); correct it"
        ) from error
    return None if keep_NP is None else keep_NP[:, 0]


def _place(method: Method[MethodConfig], error: Exception) -> str:
    """The last line of the method's own file that the error passed through, else its class."""
    file = inspect.getsourcefile(type(method))
    lines = [frame.lineno for frame in traceback.extract_tb(error.__traceback__) if frame.filename == file]
    return f"{Path(file).name}, line {lines[-1]}" if file and lines else type(method).__name__


def own_settings(assignments: Sequence[str], name: str, compared: Sequence[str]) -> list[str]:
    """The `--set` assignments that concern method `name`: `NAME.KEY=VALUE` sets KEY of that compared method alone."""
    chosen = []
    for assignment in assignments:
        owner, _, rest = assignment.partition(".")
        if owner not in compared:
            chosen.append(assignment)
        elif owner == name:
            chosen.append(f"method.{rest}")
    return chosen


def check_names(names: Sequence[str], *, compare: bool, recipe: str | None) -> None:
    """Refuse names that no method has, and a number of them that does not fit.

    Raises:
        UserError: an unknown name, several without `compare`, or with it fewer than two or a recipe.
    """
    for name in names:
        METHODS.get(name)
    if len(names) > 1 and not compare:
        raise UserError(f"plan draws one method, not {', '.join(names)}; add --compare to put them side by side")
    if compare and len(names) < 2:
        raise UserError(f"--compare puts methods side by side, got only {names[0]!r}; name another one")
    if compare and recipe:
        raise _recipe_refused(recipe)


def check_shared(configs: Sequence[RunConfig]) -> None:
    """Refuse what would not be laid on all compared methods alike.

    Raises:
        UserError: a setting of `[method]` that only some of the methods have, or a config file's recipe.
    """
    known = {config.method.name: set(METHODS.get(config.method.name).Config.model_fields) for config in configs}
    for config in configs:
        name = config.method.name
        if config.recipe:
            raise _recipe_refused(config.recipe)
        for key in config.method.settings:
            owner = next((other for other in known if key in known[other]), None)
            if key not in known[name] and owner is not None:
                raise UserError(
                    f"method.{key} is laid on every compared method, and {name!r} has no such setting; give it as "
                    f"--set {owner}.{key}=VALUE"
                )


def _recipe_refused(recipe: str) -> UserError:
    return UserError(
        f"--compare gives all methods the same settings, and recipe {recipe!r} is one method's own; leave one of the "
        "two out"
    )
