"""`sampling.grid`: the model's own noise levels, or the evenly spaced and shifted ones that FLUX is post-trained on."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from running import Make, cli_here, run, same_images, sentence
from tinysd import make_sd

from grpo_bench.config import RunConfig, SamplingSection, build
from grpo_bench.errors import UserError
from grpo_bench.registry import WORKLOADS
from grpo_bench.sampling.kernels import make_schedule
from grpo_bench.sampling.schedule import linear_grid, shifted_grid
from grpo_bench.training.planning import plan_schedule
from grpo_bench.training.prepare import identify
from grpo_bench.training.session import load_policy, open_session

FLUX = {"grid": "linear", "shift": 3.0}


class TestTheGrid:
    """`sd3_time_shift(3, torch.linspace(1, 0, T + 1))` of the three papers' train_*_flux.py."""

    @pytest.mark.parametrize("steps", [1, 4, 16, 20, 25, 50])
    @pytest.mark.parametrize("shift", [1.0, 3.0, 0.5])
    def test_is_the_released_formula(self, steps: int, shift: float) -> None:
        even = torch.linspace(1, 0, steps + 1)
        expected = shift * even / (1 + (shift - 1) * even)
        np.testing.assert_allclose(linear_grid(steps, shift), expected.numpy(), rtol=0, atol=1e-6)

    @pytest.mark.parametrize(("steps", "last"), [(16, 0.1667), (20, 0.1364), (25, 0.1111)])
    def test_ends_far_above_sd3s(self, steps: int, last: float) -> None:
        assert linear_grid(steps, 3.0)[-2] == pytest.approx(last, abs=5e-5)
        assert linear_grid(steps, 3.0)[-2] == pytest.approx(3 / (3 + steps - 1), rel=1e-12)
        assert shifted_grid(steps)[-2] == pytest.approx(0.0089, abs=5e-5)

    @pytest.mark.parametrize(
        ("steps", "kernel", "first", "last"),
        [(16, "dance-sde", 0.044, 0.123), (20, "dance-sde", 0.039, 0.111), (25, "flow-sde", 0.700, 0.083)],
    )
    def test_gives_the_released_noise(self, steps: int, kernel: str, first: float, last: float) -> None:
        std_T = make_schedule(linear_grid(steps, 3.0), kernel).std_T
        # the formulas by hand: .3 sqrt(h), and .7 sqrt(s h / (1 - s)) with sigma[1] for s at s = 1
        assert (std_T[0], std_T[-1]) == pytest.approx((first, last), abs=6e-4)


def gaussian(**sampling: object) -> RunConfig:
    layers = [
        ("workload", WORKLOADS.get("gaussian").defaults),
        ("test", {"workload": "gaussian", "sampling": sampling}),
    ]
    return build(layers)


class TestARun:
    """Rollout, plan and costs follow the setting; evaluation stays on the model's own grid."""

    def test_samples_and_trains_on_it(self, make: Make) -> None:
        for chosen in (make(sampling=FLUX), gaussian(**FLUX)):
            session = open_session(identify(chosen))
            steps = chosen.sampling.steps
            np.testing.assert_array_equal(session.schedule.sigmas, linear_grid(steps, 3.0))
            np.testing.assert_array_equal(plan_schedule(chosen).sigmas, session.schedule.sigmas)

    def test_without_a_shift_the_levels_are_even(self, make: Make) -> None:
        chosen = make(sampling={"grid": "linear"})
        assert plan_schedule(chosen).sigmas.tolist() == [1.0, 0.75, 0.5, 0.25, 0.0]

    def test_the_default_is_the_models_own(self, make: Make) -> None:
        chosen = make()
        np.testing.assert_allclose(open_session(identify(chosen)).schedule.sigmas, shifted_grid(4), atol=1e-6)

    @pytest.mark.slow
    def test_is_evaluated_on_the_models_own(self, make: Make, tmp_path: Path) -> None:
        # given the base on either grid, and one iteration of each
        own, flux = (run(make(sampling=grid, budget={"iterations": 1.0}), tmp_path / "runs") for grid in ({}, FLUX))

        # then the base's images and score are the same, and what was learned is not
        first, other = own.store.rows(), flux.store.rows()
        assert first[0]["proxy"] == other[0]["proxy"] and first[-1]["base_distance"] != other[-1]["base_distance"]
        base = [run(make(sampling=grid, budget={"iterations": 0.0}), tmp_path / "base") for grid in ({}, FLUX)]
        same_images(*(outcome.store for outcome in base))

    def test_plan_draws_it(self) -> None:
        assign = [part for key, value in FLUX.items() for part in ("--set", f"sampling.{key}={value}")]
        done = cli_here("plan", "flat", "--steps", "4", *assign)
        assert (done.returncode, done.stderr) == (0, "")
        # 3 u / (1 + 2 u) at u = 1, .75, .5, .25, 0
        (levels,) = (line.split()[1:] for line in done.stdout.splitlines() if line.split()[:1] == ["sigma"])
        assert [float(level) for level in levels] == [1, 0.9, 0.75, 0.5, 0]


class TestRefusals:
    """What means nothing is refused before anything is loaded."""

    @pytest.mark.parametrize(
        ("assigned", "said"),
        [
            (["sampling.shift=3"], "sampling.shift = 3 is not allowed: the model's own grid has its own shift"),
            (["recipe=dancegrpo", "sampling.grid=model"], "leave it at 1 or set sampling.grid = 'linear'"),
            (["sampling.grid=linear", "sampling.shift=0"], "sampling.shift = 0 is not allowed"),
            (["sampling.grid=linear", "sampling.shift=-3"], "sampling.shift = -3 is not allowed"),
            (["sampling.grid=linear", "sampling.shift=1e300"], "sampling.shift = 1e+300 is not allowed"),
            (["sampling.grid=linear", "sampling.shift=nan"], "sampling.shift = nan is not allowed"),
            (["sampling.grid=flux"], "sampling.grid = 'flux' is not allowed"),
            (["sampling.grid=linear", "sampling.steps=1001"], "steps must be between 1 and 1000, got 1001"),
            (["sampling.grid=linear", "sampling.kernel=ddim"], "sampling.grid = 'linear' holds noise levels of a flow"),
        ],
    )
    def test_of(self, assigned: list[str], said: str) -> None:
        for first in (["plan", "flat"], ["run", "--method", "flat"]):
            assert said in sentence(cli_here(*first, *(part for one in assigned for part in ("--set", one))))

    def test_of_a_diffusion_model_whatever_the_kernel(self, make: Make, tmp_path: Path) -> None:
        make_sd(tmp_path / "sd")
        chosen = make(
            model={"policy": "sd", "path": str(tmp_path / "sd")}, sampling={"grid": "linear", "kernel": "ode"}
        )
        with pytest.raises(UserError, match="holds noise levels of a flow, and a model that predicts epsilon"):
            load_policy(chosen, torch.device("cpu"))

    @pytest.mark.parametrize("shift", [0.01, 100.0])
    def test_not_of_the_allowed_extremes(self, shift: float) -> None:
        settings = SamplingSection(steps=1000, grid="linear", shift=shift)
        assert plan_schedule(RunConfig(sampling=settings)).steps == 1000
