"""What a plugin is given is for reading: arrays are locked, writes into tensors are told, images are copies."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import fields, replace
from pathlib import Path

import numpy as np
import pytest
import torch
from planned import schedule
from running import Make, run
from tiny import method
from torch import Tensor

from grpo_bench.errors import UserError
from grpo_bench.forest.builders import chains
from grpo_bench.forest.forest import Forest
from grpo_bench.forest.rollout import Rollout
from grpo_bench.method import EdgeBatch, ForwardBatch
from grpo_bench.registry import METHODS, load_plugin
from grpo_bench.reward import Reward, RewardConfig
from grpo_bench.training.handed import handed

SCHEDULE = schedule(4)
FOREST = chains(SCHEDULE.sigmas, 3, np.arange(4) < 3)


def rollout() -> Rollout:
    return Rollout(FOREST, {"r": np.arange(6.0).reshape(3, 2)}, np.zeros((FOREST.nodes, 2)), {"r": 1.0})


@pytest.mark.parametrize(
    "write",
    [
        lambda given: given.rewards["r"].__iadd__(100.0),
        lambda given: given.rewards["r"].fill(0.0),
        lambda given: given.rewards["r"][0].sort(),
        lambda given: given.terms()[0][2].__imul__(-1.0),
        lambda given: given.rewards.update(r=0),
        lambda given: given.rewards.__setitem__("s", given.rewards["r"]),
        lambda given: given.reward_weights.clear(),
        lambda given: given.logp_NP.__setitem__(0, 1.0),
        lambda given: given.forest.trained_N.fill(True),
    ],
)
def test_a_rollout_cannot_be_written_to(write: Callable[[Rollout], object]) -> None:
    with pytest.raises((ValueError, AttributeError, TypeError)):
        write(rollout())


def test_what_a_rollout_was_made_of_is_still_its_makers() -> None:
    reward_LP = np.zeros((3, 2))
    made = Rollout(FOREST, {"r": reward_LP}, np.zeros((FOREST.nodes, 2)))
    reward_LP += 1.0
    assert not made.rewards["r"].any()
    assert replace(made, rewards={"r": reward_LP}).rewards["r"].all()


@pytest.mark.parametrize("owner", [SCHEDULE, FOREST], ids=["schedule", "forest"])
def test_the_arrays_of_a_forest_and_a_schedule_are_locked(owner: object) -> None:
    cached = ["leaves_L", "depth_start", "child_count_N", "first_child_N", "child_index_N", "path_LD", "descendant_NL"]
    tables = ["sigmas", "x_T", "v_T", "std_T", "h_T"]
    names = [field.name for field in fields(owner)] + (cached if isinstance(owner, Forest) else tables)  # type: ignore[arg-type]
    arrays = [value for name in names if isinstance(value := getattr(owner, name), np.ndarray)]
    assert len(arrays) >= 5
    assert not any(array.flags.writeable for array in arrays)


def edge_batch() -> EdgeBatch:
    numbers, latents = torch.ones(3), torch.ones(3, 1, 2, 2)
    return EdgeBatch(
        numbers.clone().requires_grad_() * 1, numbers.clone(), latents, *(numbers.clone() for _ in range(4)), 0.1
    )


@pytest.mark.parametrize(
    ("write", "name"),
    [
        (lambda batch: batch.advantage.mul_(10), "advantage"),
        (lambda batch: batch.weight[0:1].zero_(), "weight"),
        (lambda batch: batch.logp_old.copy_(batch.logp.detach()), "logp_old"),
        (lambda batch: batch.mean.flatten(1).add_(1), "mean"),
        (lambda batch: batch.logp.add_(1), "logp"),
        (lambda batch: batch.std.__setitem__(0, 9.0), "std"),
    ],
)
def test_a_write_into_a_batch_is_told_at_once(write: Callable[[EdgeBatch], object], name: str) -> None:
    batch = edge_batch()
    with pytest.raises(UserError, match=rf"method 'mine' wrote into batch\.{name}, .* copy it"), handed(batch, "mine"):
        write(batch)


def test_a_loss_that_reads_a_batch_is_let_through() -> None:
    batch = edge_batch()
    with handed(batch, "flat"):
        loss = method("flat").edge_loss(batch)
    loss.sum().backward()


def test_a_write_into_forward_samples_is_told_too() -> None:
    latents = torch.ones(2, 1, 2, 2)
    batch = ForwardBatch(
        *(latents.clone(), torch.ones(2), latents.clone(), latents.clone(), torch.ones(2), 5.0, latents),
        v_average={"slow": latents.clone()},
    )
    for name in ("x_0", "t", "v_behaviour"):
        with pytest.raises(UserError, match=f"batch.{name}"), handed(batch, "mine"):
            getattr(batch, name).zero_()
    with pytest.raises(UserError, match=r"batch.v_average\['slow'\]"), handed(batch, "mine"):
        batch.v_average["slow"].zero_()


class Painter(Reward[RewardConfig]):
    """Paints what it judges black: the mean brightness before that."""

    name = "painter"
    range = (0.0, 1.0)

    def score(self, images_BCHW: Tensor, prompts: Sequence[str]) -> Tensor:
        found = images_BCHW.mean(dim=(1, 2, 3))
        images_BCHW.zero_()
        return found


def test_a_reward_that_paints_changes_no_other_rewards_images() -> None:
    images = torch.rand(5, 3, 4, 4, generator=torch.Generator().manual_seed(0))
    painter = Painter(RewardConfig(batch=2))
    first, second = (painter.judge(images, ["a"] * 5)["painter"] for _ in range(2))
    assert first.min() > 0 and torch.equal(first, second)


WRITER = """
import numpy as np
from grpo_bench import Method, chains


class Mine(Method):
    '''A pair of chains that writes into what it is given.'''

    name = "mine"

    def plan(self, iteration, rng, schedule):
        return chains(schedule.sigmas, 2, np.arange(schedule.steps) < schedule.steps - 1)

"""
INTO_ITS_BATCH = (
    "    def edge_loss(self, batch):\n        batch.{name}.mul_(0)\n        return super().edge_loss(batch)\n"
)


@pytest.mark.parametrize("name", ["advantage", "logp_old", "mean"])
def test_a_run_whose_method_writes_into_its_batch_ends_with_a_sentence(make: Make, tmp_path: Path, name: str) -> None:
    (tmp_path / "mine.py").write_text(WRITER + INTO_ITS_BATCH.format(name=name), encoding="utf-8")
    before = dict(METHODS._plugins)
    load_plugin(str(tmp_path / "mine.py"))
    try:
        with pytest.raises(UserError, match=rf"method 'mine' wrote into batch\.{name}"):
            run(make(method={"name": "mine"}), tmp_path)
    finally:
        METHODS._plugins.clear()
        METHODS._plugins.update(before)
