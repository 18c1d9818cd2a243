"""The exponential moving average of the weights: its recursion by hand, and that evaluation and `sample` see it."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import ClassVar

import numpy as np
import pytest
import tiny
import torch
from running import Make, run

from grpo_bench.config import ModelSection, TrainingSection
from grpo_bench.evaluation.compare import compare
from grpo_bench.policies.base import Policy
from grpo_bench.policies.sd3 import SD3Policy
from grpo_bench.training.averages import Ema
from grpo_bench.training.prepare import pick_device
from grpo_bench.training.run import stored_config
from grpo_bench.training.session import load_policy


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


def averaged(policy: Policy, updates: int, weight: Callable[[int], float], **settings: object) -> float:
    """The average after `updates` optimiser steps that leave weight(n) after step n, weight(0) at the start."""
    fill(policy, weight(0))
    ema = Ema(policy, TrainingSection.model_validate({"ema_decay": 0.9} | settings))
    for n in range(1, updates + 1):
        fill(policy, weight(n))
        ema.update()
    with ema.applied():
        (value,) = seen(policy)
    return value


def step_up(n: int) -> float:
    """0 at the start and 1 ever after: one minus the average is the base weights' share of it."""
    return float(n > 0)


class TestFlowGRPO:
    """flow_grpo/ema.py: n counts optimiser steps, and the average moves where `ema_every` divides n + 1."""

    def test_warms_up(self, policy: Policy) -> None:
        # d = 2/11, 3/12, 4/13 at n = 1, 2, 3
        assert averaged(policy, 3, step_up) == pytest.approx(1 - 2 / 11 * 3 / 12 * 4 / 13)

    def test_counts_optimiser_steps_and_not_averagings(self, policy: Policy) -> None:
        # ema_every = 8 averages at n = 7 and 15, with d = 8/17 and 16/25
        assert averaged(policy, 6, step_up, ema_every=8) == 0
        assert averaged(policy, 22, step_up, ema_every=8) == pytest.approx(1 - 8 / 17 * 16 / 25)

    def test_a_micro_batchs_repeats_see_the_same_weights(self, policy: Policy) -> None:
        # the released loop calls `step` after each of 2 micro-batches an update, written out
        average = 0.0
        for update in range(40):
            for n, weight in ((update, float(update)), (update + 1, float(update + 1))):
                if (n + 1) % 8 == 0:
                    decay = min((1 + n) / (10 + n), 0.9)
                    average = decay * average + (1 - decay) * weight
        assert averaged(policy, 40, float, ema_every=8, ema_repeats=2) == pytest.approx(average, rel=1e-5)

    @pytest.mark.parametrize(("repeats", "lag"), [(1, 72.0), (2, 8 * 0.81 / 0.19), (4, 8 * 0.6561 / 0.3439)])
    def test_trails_growing_weights_by_every_d_over_1_minus_d(self, policy: Policy, repeats: int, lag: float) -> None:
        last = 8 * 100 - 1
        average = averaged(policy, last, float, ema_every=8, ema_repeats=repeats)
        assert last - average == pytest.approx(lag, rel=0.01)


class TestConstantDecay:
    """FSDP_EMA of DanceGRPO: .995 from the first averaging on, once an iteration of two updates."""

    SETTINGS: ClassVar[dict[str, object]] = {"ema_decay": 0.995, "ema_every": 2, "ema_warmup": "none"}

    def test_keeps_a_fifth_of_the_base_after_300_iterations(self, policy: Policy) -> None:
        assert 1 - averaged(policy, 600, step_up, **self.SETTINGS) == pytest.approx(0.2223, abs=1e-4)
        # .995^300 = .2223; with Flow-GRPO's warm-up there is nothing left
        assert 1 - averaged(policy, 300, step_up, ema_decay=0.995) == pytest.approx(0, abs=1e-6)

    def test_trails_growing_weights_by_half_of_300_iterations(self, policy: Policy) -> None:
        # weights n after iteration n: 300 - (1 - d^300) d / (1 - d) = 145, with the warm-up 270
        expected = 300 - (1 - 0.995**300) * 0.995 / 0.005
        assert expected == pytest.approx(145, abs=0.5)
        assert averaged(policy, 600, lambda n: n / 2, **self.SETTINGS) == pytest.approx(expected, rel=1e-4)
        assert averaged(policy, 300, float, ema_decay=0.995) == pytest.approx(270, abs=0.5)


def test_decay_of_zero_keeps_nothing_and_changes_nothing(policy: Policy) -> None:
    fill(policy, 1.0)
    ema = Ema(policy, TrainingSection())
    ema.update()

    assert set(ema.tensors()) == {"updates"}
    with ema.applied():
        assert seen(policy) == [1.0]


def test_average_survives_a_checkpoint(policy: Policy) -> None:
    fill(policy, 0.0)
    ema = Ema(policy, TrainingSection(ema_decay=0.9))
    fill(policy, 1.0)
    ema.update()
    other = Ema(policy, TrainingSection(ema_decay=0.9))
    other.load({name: tensor.clone() for name, tensor in ema.tensors().items()})

    ema.update()
    other.update()

    for name, tensor in ema.tensors().items():
        assert torch.equal(tensor, other.tensors()[name])


@pytest.mark.slow
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
