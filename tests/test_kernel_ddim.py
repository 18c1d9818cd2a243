"""The ddim kernel and its grid: diffusers' own DDIM step, closed forms, and what does not fit together."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from diffusers import DDIMScheduler
from hypothesis import given
from hypothesis import strategies as st
from tinysd import scheduler

from grpo_bench.errors import UserError
from grpo_bench.forest.schedule import Grid, Schedule
from grpo_bench.sampling.kernels import make_schedule
from grpo_bench.sampling.schedule import diffusion_grid, shifted_grid, timestep_grid

T = 10
GRID = diffusion_grid(T)
assert GRID.alpha is not None
NOW, AFTER = GRID.alpha[:-1], GRID.alpha[1:]


def exact() -> DDIMScheduler:
    """diffusers' scheduler in float64, its alpha-bar recomputed without float32's rounding."""
    theirs = scheduler()
    beta = np.linspace(0.00085**0.5, 0.012**0.5, 1000) ** 2
    theirs.alphas_cumprod = torch.from_numpy(np.cumprod(1 - beta))
    theirs.final_alpha_cumprod = theirs.alphas_cumprod[0]
    theirs.set_timesteps(T)
    return theirs


@pytest.mark.parametrize("steps", [1, 2, 10, 40, 50])
def test_the_grid_is_diffusers_own(steps: int) -> None:
    theirs, ours = scheduler(), diffusion_grid(steps)
    theirs.set_timesteps(steps)
    np.testing.assert_array_equal(np.rint(ours.sigmas[:-1] * 1000), theirs.timesteps.numpy())
    assert ours.sigmas[-1] == 0
    assert ours.alpha is not None
    # diffusers multiplies a thousand factors in float32
    np.testing.assert_allclose(ours.alpha[:-1], theirs.alphas_cumprod[theirs.timesteps].numpy(), rtol=2e-5)
    assert ours.alpha[-1] == pytest.approx(1 - 0.00085, rel=1e-12)


@pytest.mark.parametrize("eta", [0.0, 0.3, 1.0])
def test_a_step_is_diffusers_own(eta: float) -> None:
    # given one latent, prediction and noise at every step
    theirs, ours = exact(), make_schedule(GRID, "ddim", eta)
    x, epsilon, noise = np.random.default_rng(0).standard_normal((3, T))
    for step, timestep in enumerate(theirs.timesteps):
        expected = theirs.step(
            torch.tensor([epsilon[step]]),
            timestep,
            torch.tensor([x[step]]),
            eta,
            variance_noise=torch.tensor([noise[step]]),
        ).prev_sample
        mean = ours.x_T[step] * x[step] + ours.v_T[step] * epsilon[step]
        assert mean + ours.std_T[step] * noise[step] == pytest.approx(float(expected), rel=1e-9)
        # and the spread by itself
        before = timestep - 1000 // T
        variance = float(theirs._get_variance(timestep, before))
        assert ours.std_T[step] == pytest.approx(eta * variance**0.5, rel=1e-9)


def test_ddpos_default_is_the_noise_of_ddpm() -> None:
    assert make_schedule(GRID, "ddim").noise == 1.0
    # eta = 1: the posterior's variance beta~ = (1-a') / (1-a) beta, beta = 1 - a/a'
    variance_T = make_schedule(GRID, "ddim").std_T ** 2
    np.testing.assert_allclose(variance_T, (1 - AFTER) / (1 - NOW) * (1 - NOW / AFTER), rtol=1e-12)


def test_without_noise_ddim_is_the_deterministic_step() -> None:
    still, ode = make_schedule(GRID, "ddim", 0.0), make_schedule(GRID, "ode")
    for left, right in (
        (still.x_T, ode.x_T),
        (still.v_T, ode.v_T),
        (ode.x_T, ode.still_step.x),
        (ode.v_T, ode.still_step.v),
    ):
        np.testing.assert_allclose(left, right, rtol=0, atol=1e-15)
    np.testing.assert_array_equal(still.std_T, 0)


def test_the_deterministic_step_of_the_exact_epsilon_lands_on_the_next_state() -> None:
    x0, eps = 1.7, -0.4
    schedule = make_schedule(GRID, "ddim")
    moved = schedule.still_step.x * (np.sqrt(NOW) * x0 + np.sqrt(1 - NOW) * eps) + schedule.still_step.v * eps
    np.testing.assert_allclose(moved, np.sqrt(AFTER) * x0 + np.sqrt(1 - AFTER) * eps, rtol=0, atol=1e-14)


@given(st.floats(0, 1), st.integers(1, 999))
def test_ddim_keeps_signal_and_noise_exactly(eta: float, steps: int) -> None:
    # given the exact epsilon at x = sqrt(a) x0 + sqrt(1-a) eps, the mean's weights on x0 and on eps
    grid = diffusion_grid(steps)
    schedule = make_schedule(grid, "ddim", eta)
    assert grid.alpha is not None
    now, after = grid.alpha[:-1], grid.alpha[1:]
    signal_T = schedule.x_T * np.sqrt(now)
    old_noise_T = schedule.x_T * np.sqrt(1 - now) + schedule.v_T
    # then signal sqrt(a') and, with the fresh noise, a total noise of sqrt(1-a')
    np.testing.assert_allclose(signal_T, np.sqrt(after), rtol=0, atol=1e-13)
    np.testing.assert_allclose(np.hypot(old_noise_T, schedule.std_T), np.sqrt(1 - after), rtol=0, atol=1e-13)


def test_the_last_step_keeps_noise_and_can_be_trained() -> None:
    # DDPO clamps the step before the first at timestep 0: alpha-bar .99915 there, .99830 at timestep 1
    schedule = make_schedule(GRID, "ddim", train_last=True)
    assert schedule.train_last
    beta = np.linspace(0.00085**0.5, 0.012**0.5, 1000) ** 2
    expected = 0.00085 / (1 - (1 - beta[0]) * (1 - beta[1])) * beta[1]
    assert schedule.std_T[-1] ** 2 == pytest.approx(expected, rel=1e-9)


def test_a_grid_that_ends_in_the_image_has_a_last_step_without_noise() -> None:
    ends = Grid(np.array([0.9, 0.4, 0.0]), np.array([0.1, 0.6, 1.0]))
    assert make_schedule(ends, "ddim").std_T[-1] == 0
    with pytest.raises(UserError, match="train_last needs noise on the last step, kernel ddim"):
        make_schedule(ends, "ddim", train_last=True)


def test_a_velocity_models_deterministic_step_is_euler() -> None:
    schedule = make_schedule(shifted_grid(T), "flow-sde")
    assert schedule.prediction == "velocity"
    np.testing.assert_array_equal(schedule.still_step.x, 1.0)
    np.testing.assert_array_equal(schedule.still_step.v, np.diff(shifted_grid(T)))


@pytest.mark.parametrize("kernel", ["flow-sde", "dance-sde", "cps"])
def test_a_flow_kernel_refuses_a_diffusion_model(kernel: str) -> None:
    with pytest.raises(UserError, match=rf"kernel {kernel} is for .* velocity, this one .* epsilon: .*kernel=ddim$"):
        make_schedule(GRID, kernel)


def test_ddim_refuses_a_flow_model() -> None:
    with pytest.raises(
        UserError, match=r"predict epsilon, this one predicts velocity: use sampling\.kernel=flow-sde or"
    ):
        make_schedule(shifted_grid(T), "ddim")


@pytest.mark.parametrize("eta", [-0.1, 1.1])
def test_eta_lies_between_zero_and_one(eta: float) -> None:
    with pytest.raises(UserError, match=f"noise of kernel ddim must be between 0 and 1, got {eta}"):
        make_schedule(GRID, "ddim", eta)


@pytest.mark.parametrize(
    ("alpha", "sentence"),
    [
        ((0.1, 0.9), "one number a point, got shape"),
        ((0.0, 0.5, 0.9), r"rise strictly within \(0, 1\], got 0 to 0.9"),
        ((0.1, 0.1, 0.9), "rise strictly"),
        ((0.1, 0.5, 1.1), "rise strictly"),
        ((0.1, float("nan"), 0.9), "rise strictly"),
    ],
)
def test_a_broken_alpha_is_refused(alpha: tuple[float, ...], sentence: str) -> None:
    with pytest.raises(UserError, match=sentence):
        Grid(np.array([0.9, 0.4, 0.0]), np.array(alpha))


def test_a_velocity_grid_starts_at_one_and_an_epsilon_grid_below_it() -> None:
    sigmas = np.array([0.9, 0.4, 0.0])
    with pytest.raises(UserError, match=r"from 1 \(noise\) to 0, got 0.9"):
        Grid(sigmas)
    assert Grid(sigmas, np.array([0.1, 0.5, 0.9])).prediction == "epsilon"


@pytest.mark.parametrize("steps", [0, 1001])
def test_a_number_of_steps_that_does_not_fit_is_refused(steps: int) -> None:
    with pytest.raises(UserError, match=f"steps must be between 1 and 1000, got {steps}"):
        diffusion_grid(steps)


@pytest.mark.parametrize("timesteps", [[1000, 1], [999, 0]])
def test_timesteps_past_either_end_are_refused(timesteps: list[int]) -> None:
    with pytest.raises(UserError, match="between 1 and 999"):
        timestep_grid(np.array(timesteps), np.linspace(0.999, 0.01, 1000))


def test_a_schedule_holds_its_grid_and_cannot_be_written() -> None:
    schedule = make_schedule(GRID, "ddim")
    assert isinstance(schedule, Schedule)
    assert schedule.prediction == "epsilon"
    assert schedule.grid.alpha is not None
    for array in (schedule.grid.alpha, schedule.still_step.x, schedule.still_step.v):
        with pytest.raises(ValueError, match="read-only"):
            array[0] = 0
