"""The exponential moving average of the weights: its recursion by hand, and that evaluation and `sample` see it."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import tiny
import torch
from running import Make, run

from grpo_bench.config import ModelSection
from grpo_bench.evaluation.compare import compare
from grpo_bench.policies.base import Policy
from grpo_bench.policies.sd3 import SD3Policy
from grpo_bench.training.ema import Ema
from grpo_bench.training.run import stored_config
from grpo_bench.training.session import load_policy, pick_device


@pytest.fixture
def policy(tmp_path: Path) -> Policy:
    tiny.make(tmp_path / "model")
    settings = ModelSection(height=32, width=32, max_sequence_length=0)
    return SD3Policy.load(str(tmp_path / "model"), settings, torch.device("cpu"))


def fill(policy: Policy, value: float) -> None:
    for _, weight in policy.parameters():
        weight.data.fill_(value)


def seen(policy: Policy) -> list[float]:
    """The different values among the weights."""
    return torch.cat([weight.detach().flatten() for _, weight in policy.parameters()]).unique().tolist()


def test_average_follows_flow_grpos_warm_up(policy: Policy) -> None:
    # given weights of 0, then updates to 1 with an averaging at every second one
    fill(policy, 0.0)
    ema = Ema(policy, 0.9, 2)
    fill(policy, 1.0)
    for _ in range(4):
        ema.update()

    # then d_1 = 2/11 and d_2 = 3/12: 1 - d_1 d_2
    with ema.applied():
        assert seen(policy) == pytest.approx([1 - 2 / 11 * 3 / 12])
    assert seen(policy) == [1.0]


def test_decay_of_zero_keeps_nothing_and_changes_nothing(policy: Policy) -> None:
    fill(policy, 1.0)
    ema = Ema(policy, 0.0, 1)
    ema.update()

    assert set(ema.tensors()) == {"updates"}
    with ema.applied():
        assert seen(policy) == [1.0]


def test_average_survives_a_checkpoint(policy: Policy) -> None:
    fill(policy, 0.0)
    ema = Ema(policy, 0.9, 1)
    fill(policy, 1.0)
    ema.update()
    other = Ema(policy, 0.9, 1)
    other.load({name: tensor.clone() for name, tensor in ema.tensors().items()})

    ema.update()
    other.update()

    for name, tensor in ema.tensors().items():
        assert torch.equal(tensor, other.tensors()[name])


def test_sample_draws_with_the_weights_that_were_evaluated(make: Make, results: Path) -> None:
    # given a run whose weights have moved, but not yet their average, whose first turn comes after 1,000 updates
    training = {"learning_rate": 0.05, "ema_decay": 0.9, "ema_every": 1000}
    outcome = run(make(training=training), results)
    rows = outcome.store.rows()
    assert rows[-1]["base_distance"] == 0

    # then base and trained images are the same
    resolved = stored_config(outcome.store)
    policy = load_policy(resolved, pick_device())
    base, trained = compare(outcome.store, resolved, policy, ("shape 1",), images=2, seed=0)
    np.testing.assert_array_equal(base, trained)

    # and without an average they are not
    plain = run(make(training={"learning_rate": 0.05}), results)
    resolved = stored_config(plain.store)
    policy = load_policy(resolved, pick_device())
    base, trained = compare(plain.store, resolved, policy, ("shape 1",), images=2, seed=0)
    assert (base != trained).any()
