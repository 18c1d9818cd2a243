"""DiffusionNFT and training on the forward process: the loss by closed form, its draws, its costs, its old policy."""

from __future__ import annotations

from contextlib import AbstractContextManager, nullcontext
from pathlib import Path

import numpy as np
import pytest
import torch
from running import Make, Watcher, run, same_points
from safetensors.torch import load_file
from scipy.stats import kstest
from tiny import LinearDenoiser, method

from grpo_bench.errors import UserError
from grpo_bench.forest.builders import chains
from grpo_bench.forest.forest import Forest
from grpo_bench.forest.rollout import Credit
from grpo_bench.forest.schedule import Schedule
from grpo_bench.metering.ledger import Counts, Ledger
from grpo_bench.method import Draws, ForwardBatch, ForwardMethod, Method, MethodConfig
from grpo_bench.registry import METHODS
from grpo_bench.sampling.engine import Trajectories, grow
from grpo_bench.sampling.handle import Metered
from grpo_bench.sampling.kernels import make_schedule
from grpo_bench.sampling.noise import Noise
from grpo_bench.sampling.schedule import shifted_grid
from grpo_bench.training.averages import Averages
from grpo_bench.training.checkpoint import AVERAGES
from grpo_bench.training.losses.edges import Batch, Diagnostics
from grpo_bench.training.losses.forward import ForwardObjective, ForwardSamples
from grpo_bench.training.planning import declared, drawn, draws_of
from grpo_bench.training.run import start

SCHEDULE: Schedule = make_schedule(shifted_grid(4), "flow-sde")
SHAPE = (2, 2, 2)
NFT = {"name": "nft", "group": 3}
THREE = Draws(3)


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
        v_behaviour=v if same else other,
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
        # full reward: only v+ = b v + (1 - b) v_b counts; full blame: only v- = (1 + b) v_b - b v
        given = draws([5.0, -5.0], same=False)
        old = given.v_behaviour
        assert old is not None
        beta, v = 0.25, given.v.detach()
        liked, blamed = beta * v + (1 - beta) * old, (1 + beta) * old - beta * v
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
            old.append({key.removeprefix("old/"): value for key, value in load_file(point.path / AVERAGES).items()})
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
        assert load_file(point.path / AVERAGES) == {}

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
        nft, schedule = method("nft"), make_schedule(shifted_grid(10), "flow-sde")
        forest = nft.plan(0, np.random.default_rng(0), schedule)
        keep_NP = np.ones((forest.nodes, 1), dtype=bool)
        forward_nfe = drawn(draws_of(nft, schedule), forest, 1)
        counts = declared(forest, nft, keep_NP, evaluations_T=np.ones(10, dtype=np.int64), forward_nfe=forward_nfe)
        assert counts == Counts(rollout_nfe=240, train_nfe=216, reference_nfe=432, trained_edges=0, images=24)

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

    def samples(
        self, prompts: list[str], drawn: Draws = THREE, shape: tuple[int, ...] = SHAPE
    ) -> tuple[ForwardSamples, LinearDenoiser]:
        denoiser, stochastic = LinearDenoiser(shape), np.zeros(4, dtype=bool)
        forest = chains(SCHEDULE.sigmas, 5, stochastic)
        noise = Noise(0, 0, prompts, shape)
        handle = Metered(denoiser, Ledger(), guidance=1.0, batch=64)
        grown = grow(forest, SCHEDULE, handle, LinearDenoiser.conditioning(len(prompts)), noise)
        advantage_LP = np.linspace(-1, 1, 5 * len(prompts)).reshape(5, -1)
        return ForwardSamples(forest, SCHEDULE, drawn, grown.leaf_LPZ, advantage_LP, 5.0, noise), denoiser

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
            loss, count = accumulated(method("nft", beta=0.5), samples, denoiser, train_batch)
            assert count == 30
            assert np.isfinite(loss)
            assert denoiser.gain.grad is not None
            gradients.append(float(denoiser.gain.grad))
        assert gradients[0] == pytest.approx(gradients[1], rel=1e-5)
        assert gradients[0] != 0

    @pytest.mark.parametrize(
        ("law", "low", "high"), [("uniform", 0.0, 1.0), ("uniform", 0.2, 0.4), ("stratified", 0, 1)]
    )
    def test_times_off_the_grid_follow_their_law(self, law: str, low: float, high: float) -> None:
        samples, _ = self.samples([f"prompt {i}" for i in range(60)], Draws(8, law, low, high))  # type: ignore[arg-type]
        rows = samples.rows(np.arange(60))
        share = (samples.times(rows) - low) / (high - low)
        assert share.min() >= 0 and share.max() < 1
        assert kstest(share, "uniform").pvalue > 0.01
        if law == "stratified":  # one in each eighth, for every image
            eighths = np.sort(np.floor(share.reshape(-1, 8) * 8), axis=1)
            assert (eighths == np.arange(8)).all()
        # each lies in the step of the grid that it is counted for
        sigma = samples.schedule.sigmas
        point, time = samples.points(rows), samples.times(rows)
        assert ((sigma[point] >= time) & (time > sigma[point + 1])).all()

    def test_shared_draws_are_the_same_for_all_leaves_of_a_prompt(self) -> None:
        samples, _ = self.samples(["a", "b"], Draws(2, "uniform", shared=True))
        rows = samples.rows(np.arange(2))
        x_0, t, x_t = samples.noised(rows)
        eps = (x_t - (1 - t.view(-1, 1, 1, 1)) * x_0) / t.view(-1, 1, 1, 1)
        for prompt in range(2):
            for draw in range(2):
                mine = (rows[:, 1] == prompt) & (rows[:, 2] == draw)
                assert mine.sum() == 5 and len(set(t[mine].tolist())) == 1
                assert float((eps[mine] - eps[mine][0]).abs().max()) < 1e-4
        assert len(set(t.tolist())) == 4

    @pytest.mark.parametrize("train_batch", [5, 9, 10, 64])
    def test_a_loss_that_compares_leaves_is_given_whole_groups(self, train_batch: int) -> None:
        samples, denoiser = self.samples(["a", "b"], Draws(3, shared=True, whole_groups=True))
        seen = Grouped(MethodConfig())
        loss, count = accumulated(seen, samples, denoiser, train_batch)
        assert count == 30 and np.isfinite(loss)
        assert sum(len(sizes) for sizes in seen.sizes) == 2 * 3
        assert {size for sizes in seen.sizes for size in sizes} == {5}
        assert all(sum(sizes) <= train_batch for sizes in seen.sizes)

    def test_other_policies_cost_an_evaluation_a_draw_each(self) -> None:
        samples, denoiser = self.samples(["a", "b"])
        ledger = Ledger()
        accumulated(method("nft"), samples, denoiser, 7, ledger)
        assert (ledger.evaluations("train"), ledger.evaluations("reference")) == (30, 60)

    @pytest.mark.parametrize("shape", [(2, 3, 2, 2), (8,)])
    def test_a_latent_may_have_any_number_of_axes(self, shape: tuple[int, ...]) -> None:
        samples, denoiser = self.samples(["a"], Draws(2), shape)
        loss, _ = accumulated(method("nft"), samples, denoiser, 64)
        assert np.isfinite(loss)


class Grouped(ForwardMethod[MethodConfig]):
    """Compares the leaves of a prompt's draw; it notes how many of each group it was given."""

    name = "grouped"
    sizes: list[list[int]]

    def plan(self, iteration: int, rng: np.random.Generator, schedule: Schedule) -> Forest:
        return chains(schedule.sigmas, 5, np.zeros(schedule.steps, dtype=bool))

    def draws(self, schedule: Schedule) -> Draws:
        return Draws(3, shared=True, whole_groups=True)

    def forward_loss(self, batch: ForwardBatch) -> torch.Tensor:
        assert batch.group is not None
        self.sizes = [*getattr(self, "sizes", []), torch.bincount(batch.group).tolist()]
        return batch.v.flatten(1).square().mean(1)


class Free(Averages):
    """A linear denoiser is no policy: all its averages are itself."""

    def __init__(self) -> None:
        self._copies = {}

    def applied(self, name: str) -> AbstractContextManager[None]:
        return nullcontext()


def accumulated(
    trained: Method[MethodConfig],
    samples: ForwardSamples,
    denoiser: LinearDenoiser,
    train_batch: int,
    ledger: Ledger | None = None,
) -> tuple[float, int]:
    """One update's loss and draws on all prompts of the samples."""
    assert isinstance(trained, ForwardMethod)
    handle = Metered(denoiser, ledger or Ledger(), guidance=1.0, batch=64)
    prompts = samples.leaf_LPZ.shape[1]
    advantage_NP = np.zeros((samples.forest.nodes, prompts))
    advantage_NP[samples.forest.leaves_L] = samples.advantage_LP
    grown = Trajectories(samples.leaf_LPZ, *[torch.zeros(0)] * 3, None)
    batch = Batch.credited(
        samples.forest,
        samples.schedule,
        grown,
        LinearDenoiser.conditioning(prompts),
        Credit(advantage_NP, np.zeros(advantage_NP.shape, dtype=np.int64)),
        None,
        samples.noise,
        advantage_clip=5.0,
        draws=samples.draws,
    )
    objective = ForwardObjective(trained, handle, Free(), clip=0.1, train_batch=train_batch)
    return objective.accumulate(batch, np.arange(prompts), Diagnostics.empty(4))


class Both(ForwardMethod[MethodConfig]):
    """Trains on the forward process, and plans trained edges too."""

    name = "both"

    def plan(self, iteration: int, rng: np.random.Generator, schedule: Schedule) -> Forest:
        return chains(schedule.sigmas, 2, np.arange(schedule.steps) < schedule.steps - 1)

    def draws(self, schedule: Schedule) -> Draws:
        return Draws(1)

    def forward_loss(self, batch: ForwardBatch) -> torch.Tensor:
        return batch.t


class Strange(Grouped):
    """Needs what nobody has."""

    name = "strange"
    needs = frozenset({"behavior"})


class Elsewhere(Grouped):
    """Samples with an average that it does not keep."""

    name = "elsewhere"
    samples_with = "old"


class TestRefusals:
    """One sentence each, before anything is made."""

    @pytest.mark.parametrize(
        ("over", "sentence"),
        [
            ({"method": NFT, "objective": {"beta": 0.1}}, "objective.beta = 0.1 weighs a KL between transitions"),
            ({"method": NFT | {"draws": 5}}, "draws 5 times of a grid that has 4"),
            ({"method": NFT, "sampling": {"kernel": "ddim"}}, "'ddim' is for models that predict the noise"),
            ({"method": {"name": "both"}}, "plans 6 trained edges"),
            ({"method": {"name": "strange"}}, "needs 'behavior'; did you mean 'behaviour'"),
            ({"method": {"name": "elsewhere"}}, "samples with 'old'"),
            ({"method": {"name": "grouped"}, "training": {"train_batch": 4}}, "train_batch = 4 is less"),
        ],
    )
    def test_of(self, make: Make, results: Path, over: dict[str, object], sentence: str) -> None:
        for kind in (Both, Strange, Elsewhere, Grouped):
            METHODS.add(kind.name, lambda kind=kind: kind, origin="test")  # type: ignore[misc]
        try:
            with pytest.raises(UserError, match=sentence):
                start(make(**over), results, Watcher())
        finally:
            METHODS._plugins.clear()
        assert not results.exists() or not any(results.iterdir())
