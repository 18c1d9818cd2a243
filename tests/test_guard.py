"""GRPO-Guard by closed form: a ratio that is one on average, a gradient alike at all steps, a clip in its own units."""

from __future__ import annotations

import re
from pathlib import Path

import numpy as np
import pytest
import torch
from running import Make, Watcher, run
from tiny import LinearDenoiser, accumulate, batch, method

from grpo_bench.errors import UserError
from grpo_bench.metering.ledger import Ledger
from grpo_bench.method import EdgeBatch
from grpo_bench.sampling.engine import grow
from grpo_bench.sampling.gaussian import GAUSSIAN_MEAN, log_prob
from grpo_bench.sampling.handle import Metered
from grpo_bench.sampling.kernels import make_schedule
from grpo_bench.sampling.noise import Noise
from grpo_bench.sampling.schedule import shifted_grid
from grpo_bench.training.objective import Diagnostics
from grpo_bench.training.run import start

SHAPE = (4, 4, 4)
D = 64


def fresh_noise(samples: int, shift: float, std: float, clip: float = 1.0) -> tuple[EdgeBatch, torch.Tensor]:
    """Edges x' = mean_old + std eps, scored by a policy whose mean lies `shift` away; and <shift, eps> / D of each."""
    generator = torch.Generator().manual_seed(0)
    eps = torch.randn(samples, *SHAPE, generator=generator)
    old_mean = torch.randn(samples, *SHAPE, generator=generator)
    move = shift * torch.randn(1, *SHAPE, generator=generator)
    mean = (old_mean + move).requires_grad_()
    std_E = torch.full((samples,), std)
    child = old_mean + std * eps
    edges = EdgeBatch(
        logp=log_prob(child, mean, std_E, GAUSSIAN_MEAN),
        logp_old=log_prob(child, old_mean, std_E, GAUSSIAN_MEAN),
        mean=mean,
        std=std_E,
        h=torch.full((samples,), 0.1),
        advantage=torch.ones(samples),
        weight=torch.ones(samples),
        clip=clip,
        old_mean=old_mean,
    )
    return edges, (move * eps).flatten(1).mean(1)


@pytest.mark.parametrize("std", [0.05, 0.7])
@pytest.mark.parametrize("shift", [0.003, 0.3])
def test_the_log_ratio_is_the_shift_along_the_noise(shift: float, std: float) -> None:
    edges, along = fresh_noise(50, shift, std)
    log_ratio = method("guard").log_ratio(edges)
    # the difference of two log-probs of size up to shift^2 / std^2 rounds at 1e-7 of it
    torch.testing.assert_close(log_ratio.detach(), along, rtol=1e-4, atol=2e-6 * (1 + (shift / std) ** 2))


def test_its_mean_is_zero_under_fresh_noise_and_the_plain_ratios_is_not() -> None:
    samples, shift, std = 20000, 0.3, 0.3
    edges, _ = fresh_noise(samples, shift, std)
    guarded, plain = method("guard").log_ratio(edges).detach(), method("flat").log_ratio(edges).detach()
    assert abs(guarded.mean()) < 4 * guarded.std() / samples**0.5
    # E = -|dmean|^2 / (2 std^2), mean over dimensions: about -(0.3 / 0.3)^2 / 2
    assert plain.mean() == pytest.approx(-0.5, abs=0.15)


def test_the_gradient_is_linear_in_the_noise() -> None:
    # d log_ratio / d mean = eps / D, whatever the shift: the bias cancels the quadratic term
    edges, _ = fresh_noise(5, 0.3, 0.4)
    method("guard").log_ratio(edges).sum().backward()
    assert edges.mean.grad is not None
    assert edges.old_mean is not None
    generator = torch.Generator().manual_seed(0)
    eps = torch.randn(5, *SHAPE, generator=generator)
    torch.testing.assert_close(edges.mean.grad, eps / D, rtol=1e-4, atol=1e-6)


def test_every_step_pulls_alike_on_the_velocity() -> None:
    # |d mean / d v| / h = 1 + a^2 / 2 for i >= 1 and 1 at i = 0 (methods.md: 1.245 at a = 0.7), and the loss is that
    # times <eps, .> / D: no step is heavier than another, where plain GRPO's last is 26 times its first
    schedule = make_schedule(shifted_grid(10), "flow-sde", 0.7)
    pull_T = np.abs(schedule.v_T) / schedule.h_T
    np.testing.assert_allclose(pull_T[1:], 1 + 0.7**2 / 2, rtol=1e-6)
    assert pull_T[0] == pytest.approx(1.0)
    edges, _ = fresh_noise(3, 0.0, 0.4)
    assert method("guard").edge_loss(edges).tolist() == pytest.approx([-1 / 0.1] * 3, rel=1e-5)


def test_its_clip_is_in_its_own_units() -> None:
    # objective.clip 1e-4 on SD3.5 means 2e-6 there, as released
    assert method("guard").clip_scale * 1e-4 == pytest.approx(2e-6)
    wide, _ = fresh_noise(4, 0.3, 0.4, clip=10.0)
    tight, along = fresh_noise(4, 0.3, 0.4, clip=1e-3)
    guard = method("guard")
    clipped = -torch.where(along > 1e-3, torch.tensor(1 + 1e-3), along.exp()) / 0.1
    torch.testing.assert_close(guard.edge_loss(tight).detach(), clipped, rtol=1e-4, atol=1e-5)
    torch.testing.assert_close(guard.edge_loss(wide).detach(), -along.exp() / 0.1, rtol=1e-4, atol=1e-5)


def test_a_run_clips_all_steps_alike(make: Make, results: Path) -> None:
    chosen = make(method={"name": "guard", "group": 4}, budget={"iterations": 2.0}, training={"updates": 2})
    outcome = run(chosen, results)
    assert outcome.record.status == "done"
    log = outcome.store.run_log.read_text(encoding="utf-8")
    ratios = [float(found) for found in re.findall(r"first ratio off by (\S+),", log)]
    assert len(ratios) == 2
    assert max(ratios) < 1e-6
    for line in re.findall(r"clipped by step (.*), gradient", log):
        shares = [float(share.split(":")[1]) for share in line.split()]
        assert len(shares) == 3
        assert max(shares) - min(shares) <= 0.25
        assert max(shares) > 0


@pytest.mark.parametrize("objective", [{"reduction": "sum"}, {"logprob_scale": "raw"}])
def test_another_log_prob_is_refused(make: Make, results: Path, objective: dict[str, str]) -> None:
    with pytest.raises(UserError, match=r"'guard' needs objective\.reduction = 'mean'"):
        start(make(method={"name": "guard", "group": 4}, objective=objective), results, Watcher())


def test_the_engine_hands_over_the_mean_that_the_rollout_saw() -> None:
    schedule, denoiser, guard = make_schedule(shifted_grid(4), "flow-sde"), LinearDenoiser(), method("guard", group=3)
    forest = guard.plan(0, np.random.default_rng(0), schedule)
    handle, given = Metered(denoiser, Ledger(), guidance=1.0, batch=64), LinearDenoiser.conditioning(2)
    grown = grow(forest, schedule, handle, given, Noise(0, 0, ["a", "b"], (1, 2, 2)), old_mean=True)
    data = batch(forest, schedule, grown, given, np.ones((forest.trained_edges, 2)))
    seen = Diagnostics.empty(4)
    loss, edges = accumulate(denoiser, data, chosen=guard, diagnostics=seen)
    assert edges == 3 * 3 * 2
    assert seen.ratio_deviation < 1e-6
    # all advantages 1 and ratios 1: the loss is minus the mean of 1 / h over the trained steps
    assert loss == pytest.approx(-float(np.mean(1 / schedule.h_T[:3])), rel=1e-5)
