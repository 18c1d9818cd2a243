"""Kernels by value: closed forms, and the table of released code's scales at SD3.5's ten steps."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from grpo_bench.errors import UserError
from grpo_bench.forest.schedule import Schedule
from grpo_bench.sampling.kernels import KERNELS, make_schedule
from grpo_bench.sampling.schedule import diffusion_grid, shifted_grid

GRID = shifted_grid(10)
S, S_NEXT, DT = GRID[:-1], GRID[1:], np.diff(GRID)
NOISY = ["flow-sde", "dance-sde", "cps"]


@pytest.mark.parametrize(
    ("kernel", "expected"),
    [
        # g sqrt(h) of Flow-GRPO's step at a = 0.7
        ("flow-sde", [0.7000, 0.7430, 0.5362, 0.4459, 0.3918, 0.3528, 0.3191, 0.2820, 0.2254, 0.0063]),
        # eta sqrt(h) at eta = 0.3
        ("dance-sde", [0.060, 0.065, 0.071, 0.078, 0.087, 0.097, 0.111, 0.130, 0.156, 0.028]),
        # s' sin(0.4 pi) at a = 0.8
        ("cps", [0.913, 0.869, 0.816, 0.752, 0.673, 0.573, 0.442, 0.264, 0.0085, 0.0]),
        ("ode", [0.0] * 10),
    ],
)
def test_default_noise_levels_give_the_tabulated_std(kernel: str, expected: list[float]) -> None:
    std_T = make_schedule(GRID, kernel).std_T
    tolerance = 6e-5 if kernel == "flow-sde" else 6e-4
    np.testing.assert_allclose(std_T, expected, rtol=0, atol=tolerance)


def test_flow_sde_at_sigma_one_takes_the_next_sigma_in_the_denominator() -> None:
    # g = a sqrt(1 / (1 - sigma[1])) and h = 1 - sigma[1]: the std is a, exactly
    assert make_schedule(GRID, "flow-sde", 0.7).std_T[0] == pytest.approx(0.7, rel=1e-14)


def test_flow_sde_scales_the_velocity_by_one_plus_half_a_squared() -> None:
    for noise in (0.3, 0.7, 1.2):
        schedule = make_schedule(GRID, "flow-sde", noise)
        ratio_T = np.abs(schedule.v_T) / schedule.h_T
        np.testing.assert_allclose(ratio_T[1:], 1 + noise**2 / 2, rtol=1e-13)
        assert ratio_T[0] == pytest.approx(1, rel=1e-13)


@pytest.mark.parametrize("kernel", NOISY)
def test_without_noise_every_kernel_is_the_ode_step(kernel: str) -> None:
    still, ode = make_schedule(GRID, kernel, 0.0), make_schedule(GRID, "ode")
    np.testing.assert_allclose(still.x_T, ode.x_T, rtol=0, atol=1e-15)
    np.testing.assert_allclose(still.v_T, ode.v_T, rtol=0, atol=1e-15)
    np.testing.assert_array_equal(still.std_T, 0)


@pytest.mark.parametrize("kernel", NOISY)
def test_little_noise_is_near_the_ode_step(kernel: str) -> None:
    # the drift's correction is of second order in the noise level
    ode = make_schedule(GRID, "ode")
    off = [np.abs(make_schedule(GRID, kernel, noise).v_T - ode.v_T).max() for noise in (0.02, 0.01)]
    assert off[0] / off[1] == pytest.approx(4, rel=1e-2)


def test_the_ode_step_of_the_exact_velocity_lands_on_the_next_latent() -> None:
    # x_s = (1-s) x0 + s eps, v = eps - x0
    x0, eps = 1.7, -0.4
    ode = make_schedule(GRID, "ode")
    moved = ode.x_T * ((1 - S) * x0 + S * eps) + ode.v_T * (eps - x0)
    np.testing.assert_allclose(moved, (1 - S_NEXT) * x0 + S_NEXT * eps, rtol=0, atol=1e-15)


@given(st.floats(0, 1))
def test_cps_keeps_signal_and_noise_exactly(noise: float) -> None:
    schedule = make_schedule(GRID, "cps", noise)
    # given v = eps - x0 at x = (1-s) x0 + s eps, the mean's weights on x0 and on eps
    signal_T = schedule.x_T * (1 - S) - schedule.v_T
    old_noise_T = schedule.x_T * S + schedule.v_T
    # then signal 1 - s' and, with the fresh noise, a total noise of s'
    np.testing.assert_allclose(signal_T, 1 - S_NEXT, rtol=0, atol=1e-14)
    np.testing.assert_allclose(np.hypot(old_noise_T, schedule.std_T), S_NEXT, rtol=0, atol=1e-14)


def test_flow_sde_leaves_the_noise_that_a_finite_step_predicts() -> None:
    # for the exact velocity Var = s'^2 + g^2 h^2 / s + g^4 h^2 / (4 s^2), more than the grid's s'^2
    a = 0.7
    schedule = make_schedule(GRID, "flow-sde", a)
    g_T = a * np.sqrt(S / (1 - np.append(GRID[1], S[1:])))
    total = (schedule.x_T * S + schedule.v_T) ** 2 + schedule.std_T**2
    h_T = schedule.h_T
    expected = S_NEXT**2 + g_T**2 * h_T**2 / S + g_T**4 * h_T**2 / (4 * S**2)
    np.testing.assert_allclose(total, expected, rtol=1e-12)


def as_released(kernel: str, noise: float, x: np.ndarray, v: np.ndarray) -> np.ndarray:
    """The means in the shape in which Flow-GRPO, DanceGRPO and FlowCPS write them."""
    x0hat, x1hat = x - S * v, x + (1 - S) * v
    if kernel == "flow-sde":
        g_T = noise * np.sqrt(S / (1 - np.where(S == 1, GRID[1], S)))
        return x * (1 + g_T**2 / (2 * S) * DT) + v * (1 + g_T**2 * (1 - S) / (2 * S)) * DT
    if kernel == "dance-sde":
        return x + v * DT + 0.5 * noise**2 * (x - (1 - S) * x0hat) / S**2 * DT
    std_T = S_NEXT * np.sin(noise * np.pi / 2)
    return (1 - S_NEXT) * x0hat + np.sqrt(S_NEXT**2 - std_T**2) * x1hat


@pytest.mark.parametrize("kernel", NOISY)
@given(st.floats(0.01, 1), st.floats(-3, 3), st.floats(-3, 3))
def test_means_are_those_of_the_released_formulas(kernel: str, noise: float, x: float, v: float) -> None:
    schedule = make_schedule(GRID, kernel, noise)
    x_T, v_T = np.full(10, x), np.full(10, v)
    mean_T = schedule.x_T * x_T + schedule.v_T * v_T
    np.testing.assert_allclose(mean_T, as_released(kernel, noise, x_T, v_T), rtol=0, atol=1e-12)


@given(st.integers(0, 8), st.floats(0.05, 1.5))
def test_flow_sde_and_dance_sde_are_one_form(step: int, g: float) -> None:
    # given the dance level that equals Flow-GRPO's g at one step
    flow = make_schedule(GRID, "flow-sde", g)
    dance = make_schedule(GRID, "dance-sde", flow.std_T[step] / np.sqrt(flow.h_T[step]))
    # then the kernels agree at that step
    for name in ("x_T", "v_T", "std_T"):
        assert getattr(flow, name)[step] == pytest.approx(getattr(dance, name)[step], rel=1e-12)


def test_tempflow_weights_at_ten_steps() -> None:
    # std over its mean on the trained steps; 2.252 is the normaliser that TempFlow's code rounds to 2.25
    std_T = make_schedule(GRID, "flow-sde").std_T[:-1]
    expected = [1.58, 1.67, 1.21, 1.00, 0.88, 0.79, 0.72, 0.64, 0.51]
    np.testing.assert_allclose(std_T / std_T.mean(), expected, rtol=0, atol=5e-3)
    assert 1 / std_T.mean() == pytest.approx(2.252, abs=1e-3)


@pytest.mark.parametrize("kernel", list(KERNELS))
@pytest.mark.parametrize("steps", [1, 2, 40])
def test_coefficients_are_finite_float64_on_any_grid(kernel: str, steps: int) -> None:
    epsilon = KERNELS[kernel].prediction == "epsilon"
    schedule = make_schedule(diffusion_grid(steps) if epsilon else shifted_grid(steps), kernel)
    assert isinstance(schedule, Schedule)
    assert schedule.kernel == kernel
    for array in (schedule.x_T, schedule.v_T, schedule.std_T):
        assert array.dtype == np.float64
        assert np.isfinite(array).all()


def test_the_last_step_follows_the_formula_and_can_be_trained_where_it_has_noise() -> None:
    assert make_schedule(GRID, "flow-sde", train_last=True).train_last
    for kernel in ("cps", "ode"):
        with pytest.raises(UserError, match="train_last needs noise on the last step"):
            make_schedule(GRID, kernel, train_last=True)


@pytest.mark.parametrize(
    ("kernel", "noise", "sentence"),
    [
        ("flow_sde", None, "no kernel is named 'flow_sde': did you mean 'flow-sde'"),
        ("danse-sde", None, "did you mean 'dance-sde'"),
        ("zzz", None, "known: cps, dance-sde, ddim, flow-sde, ode"),
        ("cps", 1.1, "noise of kernel cps must be between 0 and 1, got 1.1"),
        ("ode", 0.7, "noise of kernel ode must be 0, got 0.7"),
        ("flow-sde", -0.1, "must be finite and at least 0, got -0.1"),
        ("dance-sde", float("nan"), "got nan"),
    ],
)
def test_a_wrong_kernel_or_noise_is_one_sentence(kernel: str, noise: float | None, sentence: str) -> None:
    with pytest.raises(UserError, match=sentence):
        make_schedule(GRID, kernel, noise)
