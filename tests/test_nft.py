"""DiffusionNFT and training on the forward process: the loss by closed form, its draws, its costs, its old policy."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from running import Make, Watcher, run, same_points
from safetensors.torch import load_file
from tiny import LinearDenoiser, method

from grpo_bench.errors import UserError
from grpo_bench.forest.builders import chains
from grpo_bench.forest.forest import Forest
from grpo_bench.forest.schedule import Schedule
from grpo_bench.metering.ledger import Ledger
from grpo_bench.method import ForwardBatch, Method, MethodConfig
from grpo_bench.registry import METHODS
from grpo_bench.sampling.engine import grow
from grpo_bench.sampling.handle import Metered
from grpo_bench.sampling.kernels import make_schedule
from grpo_bench.sampling.noise import Noise
from grpo_bench.sampling.schedule import shifted_grid
from grpo_bench.training.behaviour import Behaviour
from grpo_bench.training.checkpoint import BEHAVIOUR
from grpo_bench.training.forward import ForwardObjective, ForwardSamples
from grpo_bench.training.run import start

SCHEDULE: Schedule = make_schedule(shifted_grid(4), "flow-sde")
SHAPE = (2, 2, 2)
NFT = {"name": "nft", "group": 3}


def draws(advantage: list[float], *, same: bool = True, reference: bool = False) -> ForwardBatch:
    """Random forward samples; `same`: the old velocity is the current one."""
    generator = torch.Generator().manual_seed(1)
    size = (len(advantage), *SHAPE)
    x_0, eps, v = (torch.randn(size, generator=generator) for _ in range(3))
    t = torch.linspace(0.2, 0.9, len(advantage))
    other = torch.randn(size, generator=generator)
    return ForwardBatch(
        x_0=x_0,
        t=t,
        x_t=(1 - t.view(-1, 1, 1, 1)) * x_0 + t.view(-1, 1, 1, 1) * eps,
        v=v.clone().requires_grad_(),
        advantage=torch.tensor(advantage),
        advantage_clip=5.0,
        v_old=v if same else other,
        v_reference=other if reference else None,
    )


class TestLoss:
    """Equations 5 to 7 by hand."""

    @pytest.mark.parametrize("beta", [0.1, 1.0, 3.0])
    def test_v_plus_and_v_minus_are_v_when_old_equals_current(self, beta: float) -> None:
        # then both errors are |x_t - t v - x_0|^2 / m, and the loss 5 / beta times it, whatever was rewarded
        given = draws([-5.0, -1.0, 0.0, 2.0, 5.0])
        nft = method("nft", beta=beta, reference_weight=0.0)
        error = (given.x_t - given.t.view(-1, 1, 1, 1) * given.v - given.x_0).detach().flatten(1)
        expected = 5 / beta * error.square().mean(1) / error.abs().mean(1)
        torch.testing.assert_close(nft.forward_loss(given).detach(), expected)

    @pytest.mark.parametrize("beta", [0.1, 1.0, 3.0])
    def test_its_gradient_is_then_proportional_to_2r_minus_1(self, beta: float) -> None:
        advantage = [-5.0, -1.0, 0.0, 2.0, 5.0]
        given = draws(advantage)
        method("nft", beta=beta, reference_weight=0.0).forward_loss(given).sum().backward()
        error = (given.x_t - given.t.view(-1, 1, 1, 1) * given.v - given.x_0).detach()
        # dL/dv = 5/b (r b - (1 - r) b) (-2 t error / m) / dims, and 2r - 1 = A / 5
        scale = error.abs().flatten(1).mean(1).view(-1, 1, 1, 1)
        pull = -2 * given.t.view(-1, 1, 1, 1) * error / scale / 8
        expected = 5 * torch.tensor(advantage).view(-1, 1, 1, 1) / 5 * pull
        assert given.v.grad is not None
        torch.testing.assert_close(given.v.grad, expected, rtol=1e-4, atol=1e-6)

    def test_mirrored_velocities_by_value(self) -> None:
        # full reward: only v+ = b v + (1 - b) v_old counts; full blame: only v- = (1 + b) v_old - b v
        given = draws([5.0, -5.0], same=False)
        assert given.v_old is not None
        beta, v = 0.25, given.v.detach()
        liked, blamed = beta * v + (1 - beta) * given.v_old, (1 + beta) * given.v_old - beta * v
        error = (given.x_t - given.t.view(-1, 1, 1, 1) * torch.stack([liked[0], blamed[1]]) - given.x_0).flatten(1)
        expected = 5 / beta * error.square().mean(1) / error.abs().mean(1)
        torch.testing.assert_close(method("nft", beta=beta).forward_loss(given).detach(), expected)

    def test_the_reference_pulls_with_its_weight(self) -> None:
        plain, pulled = draws([1.0, 2.0]), draws([1.0, 2.0], reference=True)
        nft = method("nft", reference_weight=0.5)
        assert pulled.v_reference is not None
        distance = (pulled.v - pulled.v_reference).flatten(1).square().mean(1)
        torch.testing.assert_close(nft.forward_loss(pulled), nft.forward_loss(plain) + 0.5 * distance)


class TestBehaviour:
    """old <- d old + (1 - d) current."""

    def test_the_decay_follows_the_released_schedules(self) -> None:
        # `return_decay` of the gradient steps n done: type 1 min(.001 n, .5), one step an iteration
        first = method("nft")
        assert [first.behaviour_decay(k) for k in (0, 1, 99, 499, 900)] == pytest.approx([0.001, 0.002, 0.1, 0.5, 0.5])
        # type 2 (OCR): 0 until n = 75, then min(.0075 (n - 75), .999), two steps an iteration
        second = method("nft", behaviour_rate=0.015, behaviour_cap=0.999, behaviour_delay=37.5)
        for k in (0, 36, 37, 38, 100, 1000):
            n = 2 * (k + 1)
            expected = 0.0 if n < 75 else min(0.0075 * (n - 75), 0.999)
            assert second.behaviour_decay(k) == pytest.approx(expected), k

    @pytest.mark.slow
    def test_a_run_keeps_the_average_in_its_checkpoint(self, make: Make, results: Path) -> None:
        chosen = make(
            method=NFT | {"behaviour_rate": 0.2, "behaviour_cap": 0.4, "draws": 2},
            budget={"iterations": 3.0},
            training={"checkpoint_every": 1, "learning_rate": 1e-2},
        )
        weights, old = [], []
        for _ in range(3):
            store = run(chosen, results, Watcher(stop_after=1)).store
            point = store.rewind()
            assert point is not None
            old.append(load_file(point.path / BEHAVIOUR))
            weights.append(load_file(next((point.path / "transformer").glob("*.safetensors"))))
        name = max(old[0], key=lambda key: old[0][key].numel())
        # decays .2, .4 and (capped) .4 after iterations 0, 1, 2; the first average holds the base's weights
        assert not torch.equal(old[0][name], weights[0][name])
        second = 0.4 * old[0][name] + 0.6 * weights[1][name]
        torch.testing.assert_close(old[1][name], second)
        torch.testing.assert_close(old[2][name], 0.4 * second + 0.6 * weights[2][name])
        assert not torch.equal(old[2][name], weights[2][name])

    def test_methods_without_need_keep_nothing(self, make: Make, results: Path) -> None:
        point = run(make(budget={"iterations": 1.0}), results).store.rewind()
        assert point is not None
        assert load_file(point.path / BEHAVIOUR) == {}

    @pytest.mark.slow
    def test_resume_equals_the_uninterrupted_run(self, make: Make, results: Path, tmp_path: Path) -> None:
        chosen = make(method=NFT | {"behaviour_rate": 0.3}, training={"updates": 2})
        whole = run(chosen, tmp_path / "whole").store
        assert run(chosen, results, Watcher(stop_after=2)).record.status == "interrupted"
        same_points(whole, run(chosen, results).store)


class TestCounts:
    """Rollout, train and reference evaluations, by declaration and by ledger."""

    def test_of_the_paper(self) -> None:
        # T = 10, 24 images: 240 rollout, 24 x 9 trained, twice that for the old and the reference policy
        forest = method("nft").plan(0, np.random.default_rng(0), make_schedule(shifted_grid(10), "flow-sde"))
        assert (forest.rollout_nfe, forest.train_nfe, forest.trained_edges, forest.images) == (240, 216, 0, 24)

    @pytest.mark.parametrize(("weight", "frozen"), [(1e-4, 2), (0.0, 1)])
    def test_of_a_run(self, make: Make, results: Path, weight: float, frozen: int) -> None:
        chosen = make(method=NFT | {"reference_weight": weight}, budget={"iterations": 2.0}, sampling={"guidance": 2.0})
        row = run(chosen, results).store.rows()[-1]
        # 2 iterations x 2 prompts x 3 images x 4 steps (3 draws), guided evaluations counted twice
        assert row["rollout_nfe"] == 2 * 2 * 3 * 4 * 2
        assert row["train_nfe"] == 2 * 2 * 3 * 3 * 2
        assert row["reference_nfe"] == frozen * row["train_nfe"]
        assert (row["trained_edges"], row["updates"], row["images"]) == (0, 2, 12)

    def test_it_learns_from_its_samples(self, make: Make, results: Path) -> None:
        rows = run(make(method=NFT, budget={"iterations": 1.0}), results).store.rows()
        assert rows[0]["base_distance"] == 0
        assert rows[-1]["base_distance"] > 0


class TestDraws:
    """Times are the sampler's, distinct for an image; noise is named by seed, iteration, prompt, leaf and draw."""

    def samples(self, prompts: list[str], forward_draws: int = 3) -> tuple[ForwardSamples, LinearDenoiser]:
        denoiser, stochastic = LinearDenoiser(SHAPE), np.zeros(4, dtype=bool)
        forest = chains(SCHEDULE.sigmas, 5, stochastic, forward_draws=forward_draws)
        noise = Noise(0, 0, prompts, SHAPE)
        handle = Metered(denoiser, Ledger(), guidance=1.0, batch=64)
        grown = grow(forest, SCHEDULE, handle, LinearDenoiser.conditioning(len(prompts)), noise)
        advantage_LP = np.linspace(-1, 1, 5 * len(prompts)).reshape(5, -1)
        return ForwardSamples(forest, SCHEDULE, grown.leaf_LPZ, advantage_LP, 5.0, noise), denoiser

    def test_an_images_times_are_distinct_grid_points(self) -> None:
        samples, _ = self.samples(["a", "b"])
        rows = samples.rows(np.arange(2))
        assert len(rows) == 5 * 2 * 3
        _, t, _ = samples.noised(rows)
        for image in t.view(-1, 3):
            assert len(set(image.tolist())) == 3
            assert all(np.isclose(SCHEDULE.sigmas[:-1], float(value)).any() for value in image)
        assert len(set(t.tolist())) == 4  # every step of the grid is somebody's

    def test_the_noise_is_standard_and_fresh(self) -> None:
        samples, _ = self.samples(["a", "b"])
        x_0, t, x_t = samples.noised(samples.rows(np.arange(2)))
        t_D111 = t.view(-1, 1, 1, 1)
        eps = (x_t - (1 - t_D111) * x_0) / t_D111
        eps = eps[t > 0.1].double()
        assert abs(eps.mean()) < 4 / eps.numel() ** 0.5
        assert abs(eps.var() - 1) < 4 * (2 / eps.numel()) ** 0.5
        assert len({tuple(row.flatten().tolist()) for row in eps}) == len(eps)

    def test_neither_micro_batch_nor_batch_order_changes_them(self) -> None:
        forwards, _ = self.samples(["a", "b"])
        backwards, _ = self.samples(["b", "a"])
        rows = forwards.rows(np.array([0]))
        whole = forwards.noised(rows)
        for start_row in range(0, len(rows), 4):
            part = forwards.noised(rows[start_row : start_row + 4])
            assert torch.equal(part[2], whole[2][start_row : start_row + 4])
        _, t, _ = backwards.noised(backwards.rows(np.array([1])))
        assert torch.equal(t, whole[1])

    def test_the_gradient_does_not_depend_on_the_micro_batch(self) -> None:
        gradients = []
        for train_batch in (4, 64):
            samples, denoiser = self.samples(["a", "b"])
            policy_free = Behaviour.__new__(Behaviour)  # a linear denoiser is no policy: its old weights are its own
            policy_free._old = {}
            handle = Metered(denoiser, Ledger(), guidance=1.0, batch=64)
            objective = ForwardObjective(method("nft", beta=0.5), handle, policy_free, train_batch)
            loss, count = objective.accumulate(samples, LinearDenoiser.conditioning(2), np.arange(2))
            assert count == 30
            assert np.isfinite(loss)
            assert denoiser.gain.grad is not None
            gradients.append(float(denoiser.gain.grad))
        assert gradients[0] == pytest.approx(gradients[1], rel=1e-5)
        assert gradients[0] != 0


class Both(Method[MethodConfig]):
    """Plans trained edges and forward draws at once."""

    name = "both"

    def plan(self, iteration: int, rng: np.random.Generator, schedule: Schedule) -> Forest:
        stochastic = np.arange(schedule.steps) < schedule.steps - 1
        return chains(schedule.sigmas, 2, stochastic, forward_draws=1)


class Lossless(Method[MethodConfig]):
    """Plans forward draws and has no loss for them."""

    name = "lossless"

    def plan(self, iteration: int, rng: np.random.Generator, schedule: Schedule) -> Forest:
        return chains(schedule.sigmas, 2, np.zeros(schedule.steps, dtype=bool), forward_draws=1)


class TestRefusals:
    """One sentence each, before anything is made."""

    @pytest.mark.parametrize(
        ("over", "sentence"),
        [
            ({"method": NFT, "objective": {"beta": 0.1}}, "objective.beta = 0.1 weighs a KL between transitions"),
            ({"method": NFT | {"draws": 5}}, "method.draws = 5 is more than the 4 times of the grid"),
            ({"method": NFT, "sampling": {"kernel": "ddim"}}, "'ddim' is for models that predict the noise"),
            ({"method": {"name": "both"}}, "plans forward draws and 6 trained edges"),
            ({"method": {"name": "lossless"}}, "has no forward_loss"),
        ],
    )
    def test_of(self, make: Make, results: Path, over: dict[str, object], sentence: str) -> None:
        METHODS.add("both", lambda: Both, origin="test")
        METHODS.add("lossless", lambda: Lossless, origin="test")
        try:
            with pytest.raises(UserError, match=sentence):
                start(make(**over), results, Watcher())
        finally:
            METHODS._plugins.clear()
        assert not results.exists() or not any(results.iterdir())
