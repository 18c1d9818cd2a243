"""The engine grows what the forest and the schedule say: Euler edges, kernel edges with the noise that was drawn."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from scipy.stats import norm
from tiny import CPU, LinearDenoiser, make, policy

from grpo_bench.forest.builders import branching, chains, trunk
from grpo_bench.forest.forest import Forest
from grpo_bench.forest.schedule import Schedule
from grpo_bench.metering.ledger import Ledger
from grpo_bench.sampling.engine import Trajectories, grow
from grpo_bench.sampling.gaussian import Likelihood
from grpo_bench.sampling.handle import Conditioning, Metered
from grpo_bench.sampling.kernels import make_schedule
from grpo_bench.sampling.noise import Noise, Purpose
from grpo_bench.sampling.schedule import shifted_grid

T = 6
GRID = shifted_grid(T)
SHAPE = (2, 4, 4)
PROMPTS = ["one", "two", "three"]
GAIN, PUSH = 0.3, 0.7
NOISY = ["flow-sde", "dance-sde", "cps"]


def window(start: int, width: int) -> np.ndarray:
    step_T = np.arange(T)
    return (start <= step_T) & (step_T < start + width)


TREE = branching(GRID, {1: 3, 2: 2}, window(1, 2))
FOREST_OF_ALL_SORTS = [
    TREE,
    chains(GRID, 3, window(0, T - 1)),
    chains(GRID, 3, window(0, T - 1), shared_noise=True),
    chains(GRID, 2, window(2, 2), shared_noise=True),
    branching(GRID, {0: 2, 2: 2}, window(0, T - 1), roots=2, sibling_noise=4.0),
    trunk(GRID, {0: 2, 1: 2, 3: 2}),
]


def grown(
    forest: Forest,
    schedule: Schedule,
    *,
    prompts: list[str] = PROMPTS,
    batch: int = 256,
    likelihood: Likelihood | None = None,
    old_mean: bool = False,
    shape: tuple[int, int, int] = SHAPE,
    gain: float = GAIN,
    conditioning: Conditioning | None = None,
) -> Trajectories:
    """The forest grown with v = gain x + push c."""
    denoiser = LinearDenoiser(shape, gain, PUSH)
    return grow(
        forest,
        schedule,
        Metered(denoiser, Ledger(), guidance=1.0, batch=batch),
        conditioning or denoiser.conditioning(len(prompts)),
        Noise(0, 4, prompts, shape),
        likelihood=likelihood or Likelihood(),
        old_mean=old_mean,
    )


def codes(x: torch.Tensor) -> torch.Tensor:
    """The prompts' codes 1, 2, 3 along the second axis of (N, P, C, H, W)."""
    return torch.arange(1.0, x.shape[1] + 1).view(1, -1, 1, 1, 1).double()


def euler(x: torch.Tensor, first: int, last: int) -> torch.Tensor:
    """x after the ODE steps first .. last - 1 of v = gain x + push c, in float64."""
    for step in range(first, last):
        x = x + (GAIN * x + PUSH * codes(x)) * float(GRID[step + 1] - GRID[step])
    return x


def own_noise(forest: Forest, nodes: np.ndarray, purpose: Purpose = Purpose.EDGE) -> torch.Tensor:
    return Noise(0, 4, PROMPTS, SHAPE).draw(purpose, forest.key_N[nodes], CPU).double()


def recovered_noise(forest: Forest, schedule: Schedule, out: Trajectories) -> torch.Tensor:
    """(x' - mean) / std of every trained edge (E, P, C, H, W), from the kept latents, float64."""
    parent_N = forest.parent_N[forest.trained_edges_E]
    x = out.parent_KPZ.double()[np.searchsorted(forest.trained_parents, parent_N)]
    x_E, v_E, std_E = (
        torch.from_numpy(values[forest.depth_N[parent_N]].copy()).view(-1, 1, 1, 1, 1)
        for values in (schedule.x_T, schedule.v_T, schedule.std_T)
    )
    return (out.child_EPZ.double() - x_E * x - v_E * (GAIN * x + PUSH * codes(x))) / std_E


@pytest.mark.parametrize("kernel", NOISY)
def test_recorded_noise_is_the_noise_drawn_for_the_edge(kernel: str) -> None:
    schedule = make_schedule(GRID, kernel)
    out = grown(TREE, schedule)
    expected = own_noise(TREE, TREE.trained_edges_E)
    torch.testing.assert_close(recovered_noise(TREE, schedule, out), expected, rtol=0, atol=2e-5)


@pytest.mark.parametrize("reduction", ["mean", "sum"])
@pytest.mark.parametrize("kernel", NOISY)
def test_the_old_log_prob_is_that_of_the_drawn_noise(kernel: str, reduction: str) -> None:
    # scored at another scale than drawn, or around another mean, the densities below would differ
    schedule = make_schedule(GRID, kernel)
    out = grown(TREE, schedule, likelihood=Likelihood(reduction=reduction))
    std_E = schedule.std_T[TREE.depth_N[TREE.parent_N[TREE.trained_edges_E]]][:, None, None]
    noise = own_noise(TREE, TREE.trained_edges_E).flatten(2).numpy()
    density_EP = getattr(norm.logpdf(noise * std_E, scale=std_E), reduction)(-1)
    np.testing.assert_allclose(out.logp_EP.numpy(), density_EP, rtol=2e-5, atol=2e-5)


def test_an_ode_forest_lands_where_euler_does() -> None:
    # given one chain without noise, v = gain x + push c
    forest = chains(GRID, 1, window(0, 0))
    out = grown(forest, make_schedule(GRID, "ode"))
    root = own_noise(forest, np.array([0]), Purpose.ROOT)
    torch.testing.assert_close(out.leaf_LPZ.double(), euler(root, 0, T), rtol=1e-5, atol=1e-6)
    # and without the x term the sum of the steps is -1, whatever the grid
    still = grown(forest, make_schedule(GRID, "ode"), gain=0.0)
    torch.testing.assert_close(still.leaf_LPZ.double(), root - PUSH * codes(root), rtol=1e-5, atol=1e-6)


def test_a_flows_deterministic_step_is_euler_to_the_last_bit() -> None:
    # what every run's numbers rest on: fp32, one product and one sum
    forest = chains(GRID, 1, window(0, 0))
    x = Noise(0, 4, PROMPTS, SHAPE).draw(Purpose.ROOT, forest.key_N[:1], CPU)
    gain, push = torch.tensor(GAIN), torch.tensor(PUSH)
    for step in range(T):
        x = x + float(GRID[step + 1] - GRID[step]) * (gain * x + 1.0 * push * codes(x).float())
    assert torch.equal(grown(forest, make_schedule(GRID, "flow-sde")).leaf_LPZ, x)


def test_a_tree_is_an_ode_before_and_after_its_window() -> None:
    # given the tree on steps 1 and 2
    out = grown(TREE, make_schedule(GRID, "flow-sde"))
    root = own_noise(TREE, np.array([0]), Purpose.ROOT)
    # then its first trained parent is one Euler step from the root, its leaves are Euler steps from the last edges
    torch.testing.assert_close(out.parent_KPZ[:1].double(), euler(root, 0, 1), rtol=1e-5, atol=1e-6)
    last_edges = TREE.depth_N[TREE.trained_edges_E] == 3
    expected = euler(out.child_EPZ[last_edges].double(), 3, T)
    torch.testing.assert_close(out.leaf_LPZ.double(), expected, rtol=1e-5, atol=1e-6)


def test_kept_latents_are_the_very_ones_the_next_step_saw() -> None:
    # given chains whose every step but the last is trained: a child is bit for bit the next step's parent
    forest = chains(GRID, 2, window(0, T - 1))
    out = grown(forest, make_schedule(GRID, "flow-sde"))
    parent, edge = forest.trained_parents.tolist(), forest.trained_edges_E.tolist()
    both = [node for node in edge if node in parent]
    assert len(both) == 2 * (T - 2)
    for node in both:
        assert torch.equal(out.child_EPZ[edge.index(node)], out.parent_KPZ[parent.index(node)])


@pytest.mark.parametrize("forest", FOREST_OF_ALL_SORTS)
def test_prompts_do_not_mix(forest: Forest) -> None:
    # given the same prompts in another order, each with its own conditioning
    order = [2, 0, 1]
    schedule = make_schedule(GRID, "flow-sde")
    turned_codes = LinearDenoiser.conditioning(3).select(torch.tensor(order))
    straight = grown(forest, schedule)
    turned = grown(forest, schedule, prompts=[PROMPTS[i] for i in order], conditioning=turned_codes)
    for name in ("leaf_LPZ", "parent_KPZ", "child_EPZ", "logp_EP"):
        assert torch.equal(getattr(turned, name), getattr(straight, name)[:, order]), name


@pytest.mark.parametrize("forest", FOREST_OF_ALL_SORTS)
def test_shapes_follow_the_forest(forest: Forest) -> None:
    out = grown(forest, make_schedule(GRID, "flow-sde"), old_mean=True)
    parents, edges = len(forest.trained_parents), forest.trained_edges
    assert out.leaf_LPZ.shape == (forest.images, 3, *SHAPE)
    assert out.parent_KPZ.shape == (parents, 3, *SHAPE)
    assert out.child_EPZ.shape == (edges, 3, *SHAPE)
    assert out.logp_EP.shape == (edges, 3)
    assert out.old_mean_FPZ is not None
    assert out.old_mean_FPZ.shape == (parents, 3, *SHAPE)


def test_the_old_mean_is_kept_only_when_asked_for() -> None:
    schedule = make_schedule(GRID, "cps")
    assert grown(TREE, schedule).old_mean_FPZ is None
    out = grown(TREE, schedule, old_mean=True)
    assert out.old_mean_FPZ is not None
    step_K = TREE.depth_N[TREE.trained_parents]
    x_K, v_K = (torch.from_numpy(c[step_K].copy()).view(-1, 1, 1, 1, 1) for c in (schedule.x_T, schedule.v_T))
    x = out.parent_KPZ.double()
    expected = x_K * x + v_K * (GAIN * x + PUSH * codes(x))
    torch.testing.assert_close(out.old_mean_FPZ.double(), expected, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("spread", [0.5, 4.0])
def test_siblings_share_noise_as_asked_and_keep_their_marginal(spread: float) -> None:
    # given three children of one node, 32,768 numbers each for two prompts
    shape, prompts = (2, 128, 128), PROMPTS[:2]
    forest = branching(GRID, {0: 3}, window(0, 2), sibling_noise=spread)
    schedule = make_schedule(GRID, "dance-sde")
    out = grown(forest, schedule, prompts=prompts, shape=shape)
    noise = recovered_noise(forest, schedule, out).flatten(1).numpy()
    covariance = np.cov(noise[:3])
    # then covariance 1 / (1 + s^2) between siblings, 1 with themselves, within 4 standard errors (< sqrt(2 / n))
    expected = np.full((3, 3), 1 / (1 + spread**2)) + np.eye(3) * (1 - 1 / (1 + spread**2))
    np.testing.assert_allclose(covariance, expected, rtol=0, atol=4 * (2 / noise.shape[1]) ** 0.5)
    np.testing.assert_allclose(noise.mean(1), 0, atol=4 / noise.shape[1] ** 0.5)


def test_an_only_child_has_its_own_noise() -> None:
    forest = branching(GRID, {0: 3}, window(0, 2), sibling_noise=4.0)
    schedule = make_schedule(GRID, "flow-sde")
    only = forest.depth_N[forest.trained_edges_E] == 2
    noise = recovered_noise(forest, schedule, grown(forest, schedule))[only]
    torch.testing.assert_close(noise, own_noise(forest, forest.trained_edges_E[only]), rtol=0, atol=2e-5)


@pytest.fixture(scope="module")
def pipeline(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make(tmp_path_factory.mktemp("engine") / "model")


@pytest.mark.parametrize("batch", [1, 5])
def test_the_micro_batch_size_changes_nothing_but_rounding(pipeline: Path, batch: int) -> None:
    # given a real transformer
    sd3 = policy(pipeline)
    conditioning = sd3.encode(PROMPTS)
    schedule = make_schedule(GRID, "flow-sde")

    def leaves(size: int) -> torch.Tensor:
        handle = Metered(sd3, Ledger(), guidance=1.0, batch=size)
        noise = Noise(0, 0, PROMPTS, sd3.latent_shape)
        return grow(TREE, schedule, handle, conditioning, noise).leaf_LPZ

    torch.testing.assert_close(leaves(batch), leaves(256), rtol=1e-5, atol=1e-5)
