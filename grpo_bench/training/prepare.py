"""What a config comes to before a model is loaded: checked, with its prompts and rewards, and named by all of it."""

from __future__ import annotations

from collections.abc import Mapping, MutableMapping, Sequence
from dataclasses import dataclass
from typing import TypeVar

import torch

from grpo_bench.config import Device, RunConfig
from grpo_bench.errors import UserError, nearest
from grpo_bench.evaluation.scoring import Rewards, check_media, make_rewards
from grpo_bench.guard import calling
from grpo_bench.identity import Base, find_base, outcome_hashes, placed
from grpo_bench.registry import POLICIES, WORKLOADS
from grpo_bench.run_id import run_id
from grpo_bench.training.planning import check_plan, make_method

T = TypeVar("T")
TUNING = "tuning"
"""The split that rates are tuned on; where the prompts have none, the held-out ones that reports leave out."""


@dataclass(frozen=True)
class Ingredients:
    """A config's model, prompts and rewards, none of whose weights have been read, and the hashes of them all."""

    base: Base
    prompts: Mapping[str, tuple[str, ...]]
    """By split."""
    rewards: Rewards
    """Those that are trained on, and the workload's gold."""
    hashes: Mapping[str, str]


@dataclass(frozen=True)
class Prepared:
    """A run that can be opened."""

    config: RunConfig
    """With the method's own settings written out; this is what config.toml holds."""
    ingredients: Ingredients
    run: str
    """The run's id."""

    @property
    def hashes(self) -> dict[str, str]:
        """Of all that determines the outcome and is no setting."""
        return dict(self.ingredients.hashes)


def identify(config: RunConfig, known: MutableMapping[str, Ingredients] | None = None) -> Prepared:
    """The run that a config names, after the checks that need no model.

    `known` keeps ingredients between calls, for many configs whose differences (seeds, budget, optimiser, most of
    evaluation) change neither prompts nor weights.

    Raises:
        UserError: anything in the config that does not fit.
    """
    method = make_method(config)
    config = config.model_copy(
        update={
            "method": _resolved(config, method.config.model_dump(exclude_none=True)),
            "device": pick_device("auto").type if config.device == "auto" else config.device,
        }
    )
    check_plan(config, method)  # before a model is fetched for a run that cannot be
    found = ingredients(config, {} if known is None else known)
    config = placed(config, found.base)
    return Prepared(config, found, run_id(config, found.hashes))


def ingredients(config: RunConfig, known: MutableMapping[str, Ingredients]) -> Ingredients:
    """The config's, from `known` where they are there.

    Raises:
        UserError: a model, prompts or a reward that are not there, or do not fit.
    """
    fresh = RunConfig()
    # Which held-out prompts are left to be tuned on depends on how many are reported.
    asked = {"split": config.evaluation.split, "prompts": config.evaluation.prompts}
    evaluation = fresh.evaluation.model_copy(update=asked)
    same = {"seed": 0, "budget": fresh.budget, "training": fresh.training, "evaluation": evaluation}
    key = config.model_copy(update=same).to_toml()
    if key not in known:
        base, prompts, rewards = find_base(config), splits(config), judges(config)
        policy = config.model.policy
        check_media(POLICIES.get(policy).media, f"policy {policy!r} draws", rewards)
        known[key] = Ingredients(base, prompts, rewards, outcome_hashes(config, base, prompts, rewards))
    return known[key]


def pick_device(wanted: Device = "auto") -> torch.device:
    """The device that `[device]` means here; `auto` is the first CUDA device where there is one, else the CPU.

    Raises:
        UserError: CUDA is wanted where torch sees none.
    """
    if wanted == "cuda" and not torch.cuda.is_available():
        raise UserError(
            "device = 'cuda', but torch sees no CUDA device here; run it where there is one, or give --device cpu, "
            "which is another run"
        )
    if wanted == "auto":
        wanted = "cuda" if torch.cuda.is_available() else "cpu"
    return torch.device(wanted)


def splits(config: RunConfig) -> Mapping[str, tuple[str, ...]]:
    """The config's prompts by split: of its file, else its workload's.

    Raises:
        UserError: a broken file, or no such split to evaluate.
    """
    from grpo_bench.workloads.prompts import PromptsWorkload

    with calling(f"workload {config.workload!r}"):
        source = PromptsWorkload() if config.prompts.path else WORKLOADS.get(config.workload)()
        found = source.prompts(config)
    if config.evaluation.split == TUNING and TUNING not in found and "heldout" in found:
        found = _with_tuning(found, config.evaluation.prompts)
    if config.evaluation.split not in found:
        raise UserError(
            f"evaluation.split = {config.evaluation.split!r} is not one of the prompts' splits; "
            f"{nearest(config.evaluation.split, found)}"
        )
    return found


def _with_tuning(found: Mapping[str, tuple[str, ...]], count: int) -> Mapping[str, tuple[str, ...]]:
    """The splits and that of trials: the held-out prompts that reports leave out.

    Raises:
        UserError: reports leave none out.
    """
    reported = set(evaluation_prompts(found["heldout"], count))
    rest = tuple(prompt for prompt in found["heldout"] if prompt not in reported)
    if not rest:
        raise UserError(
            f"rates are tuned on held-out prompts that reports leave out, and evaluation.prompts = {count} takes all "
            f"{len(found['heldout'])}; lower it, hold out more, or give the prompts a split {TUNING!r}"
        )
    return {**found, "heldout": tuple(prompt for prompt in found["heldout"] if prompt in reported), TUNING: rest}


def judges(config: RunConfig) -> Rewards:
    """The rewards that a run trains on, and its workload's gold; nothing is read yet.

    Raises:
        UserError: unknown name or setting.
    """
    gold = WORKLOADS.get(config.workload).gold
    return make_rewards([*config.reward.weights, *([gold] if gold else [])], config.reward)


def evaluation_prompts(prompts: Sequence[T], count: int) -> tuple[T, ...]:
    """`count` prompts spread evenly over a split (all of them when there are fewer), the same for every run."""
    if count >= len(prompts):
        return tuple(prompts)
    return tuple(prompts[i * len(prompts) // count] for i in range(count))


def _resolved(config: RunConfig, settings: dict[str, object]) -> object:
    return type(config.method)(name=config.method.name, **settings)
