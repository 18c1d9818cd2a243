"""The closed-form grid is the one diffusers' scheduler samples with."""

from __future__ import annotations

import numpy as np
import pytest

from grpo_bench.errors import UserError
from grpo_bench.forest.schedule import Coefficients, Grid, Points, Schedule
from grpo_bench.sampling.schedule import shifted_grid


@pytest.mark.parametrize("steps", [1, 2, 4, 10, 20, 40])
@pytest.mark.parametrize("shift", [1.0, 3.0])
def test_the_grid_is_diffusers_own(steps: int, shift: float) -> None:
    from diffusers import FlowMatchEulerDiscreteScheduler

    scheduler = FlowMatchEulerDiscreteScheduler(shift=shift)
    scheduler.set_timesteps(steps)
    np.testing.assert_allclose(shifted_grid(steps, shift), scheduler.sigmas.numpy(), rtol=0, atol=1e-6)


def test_the_grid_of_sd35_at_ten_steps() -> None:
    expected = [1, 0.9601, 0.9133, 0.8577, 0.7904, 0.7073, 0.6022, 0.4649, 0.2780, 0.0089, 0]
    np.testing.assert_allclose(shifted_grid(10), expected, rtol=0, atol=5e-5)


def test_the_last_sigma_is_shifted_twice() -> None:
    # 1/1000 -> 3/1002 -> 9/1008
    assert shifted_grid(10)[-2] == pytest.approx(9 / 1008, rel=1e-12)


@pytest.mark.parametrize(
    ("arguments", "sentence"),
    [((0,), "steps must be between 1 and 1000, got 0"), ((1001,), "got 1001"), ((10, 0.0), "shift must be a positive")],
)
def test_a_wrong_grid_is_refused(arguments: tuple[float, ...], sentence: str) -> None:
    with pytest.raises(UserError, match=sentence):
        shifted_grid(*arguments)  # type: ignore[arg-type]


def schedule(sigmas: object = (1.0, 0.4, 0.0), x: float = 1.0, std: float = 0.1) -> Schedule:
    """A made-up kernel that is alike at every step."""

    def rule(now: Points, after: Points, noise: np.ndarray) -> Coefficients:
        return np.full_like(now.sigma, x), after.sigma - now.sigma, np.full_like(now.sigma, std)

    return Schedule(Grid(np.array(sigmas)), rule, "made-up", 0.0)


def test_a_schedule_states_its_steps_and_cannot_be_written() -> None:
    built = schedule()
    assert built.steps == 2
    np.testing.assert_allclose(built.h_T, [0.6, 0.4], rtol=1e-15)
    np.testing.assert_allclose(built.v_T, [-0.6, -0.4], rtol=1e-15)
    for array in (built.sigmas, built.x_T, built.v_T, built.std_T):
        with pytest.raises(ValueError, match="read-only"):
            array[0] = 0


def test_a_float32_grid_that_starts_a_rounding_below_one_starts_at_one() -> None:
    assert schedule(sigmas=np.array([1 - 6e-8, 0.4, 0.0], dtype=np.float32)).sigmas[0] == 1.0


@pytest.mark.parametrize(
    ("changes", "sentence"),
    [
        ({"sigmas": (1.0,)}, "at least 2 numbers"),
        ({"sigmas": (1.0, float("nan"), 0.0)}, "finite, got nan at index 1"),
        ({"sigmas": (0.98, 0.4, 0.0)}, "from 1 .* got 0.98"),
        ({"sigmas": (1.0, 0.4, 0.1)}, "got 1 to 0.1: append the 0"),
        ({"sigmas": (1.0, 1.0, 0.0)}, "strictly decrease, got 1 then 1 at index 0"),
        ({"x": float("inf")}, "x_T of kernel made-up must be finite"),
        ({"std": -0.1}, "std_T of kernel made-up must be"),
    ],
)
def test_a_broken_schedule_is_refused(changes: dict[str, object], sentence: str) -> None:
    with pytest.raises(UserError, match=sentence):
        schedule(**changes)  # type: ignore[arg-type]
