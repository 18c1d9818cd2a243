"""Exact moments, objective and gradient of the analytic workload, against samples and finite differences."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pytest
import torch
from analytic import NOISY, PROMPTS, SDE, STILL, OneStream, T, policy, sampled
from tiny import accumulate, batch

from grpo_bench.config import RunConfig
from grpo_bench.evaluation.scoring import make_rewards
from grpo_bench.forest.builders import branching, chains, trunk
from grpo_bench.forest.forest import Forest
from grpo_bench.forest.rollout import back_up
from grpo_bench.metering.ledger import Ledger
from grpo_bench.sampling.engine import grow
from grpo_bench.sampling.handle import Metered
from grpo_bench.sampling.kernels import make_schedule
from grpo_bench.sampling.schedule import shifted_grid
from grpo_bench.workloads.gaussian import cloud, score_latents
from grpo_bench.workloads.gaussian.clouds import NUMBERS, SHAPE
from grpo_bench.workloads.gaussian.exact import exact_gradient, exact_moments, exact_objective, mean_reward
from grpo_bench.workloads.gaussian.policy import GaussianPolicy


def test_the_ode_with_many_steps_carries_noise_to_the_prompts_gaussian() -> None:
    # given the exact flow, whose Euler steps are the only error
    errors = []
    for steps in (10, 40, 160):
        schedule = make_schedule(shifted_grid(steps), "ode")
        moments = exact_moments(policy(), schedule, np.zeros(steps, dtype=bool), PROMPTS)
        mean = np.array([cloud(prompt).mean for prompt in PROMPTS])
        covariance = np.array([cloud(prompt).covariance for prompt in PROMPTS])
        errors.append(
            max(np.abs(moments.mean[0].numpy() - mean).max(), np.abs(moments.covariance[0].numpy() - covariance).max())
        )

    # then four times the steps leave about a quarter of it
    assert errors[1] < errors[0] / 2.5 and errors[2] < errors[1] / 2.5 and errors[2] < 0.03, errors


@pytest.mark.parametrize("mask", [STILL, NOISY, (np.arange(T) >= 2) & (np.arange(T) < 5)], ids=["ode", "sde", "window"])
def test_the_engine_samples_the_propagated_moments(mask: np.ndarray) -> None:
    # given 20,000 samples of the engine
    made, count = policy(0.1), 20_000
    x_LPD = sampled(made, chains(SDE.sigmas, count, mask), SDE)
    moments = exact_moments(made, SDE, mask, PROMPTS)
    mean_PD, covariance_PDD = moments.mean[0], moments.covariance[0]

    # then means and covariances lie within four standard errors: sqrt(C_ii / n), sqrt((C_ii C_jj + C_ij^2) / n)
    variance_PD = covariance_PDD.diagonal(dim1=1, dim2=2)
    assert (((x_LPD.mean(0) - mean_PD) / (variance_PD / count).sqrt()).abs() < 4).all()
    centred_LPD = x_LPD - x_LPD.mean(0)
    empirical_PDD = torch.einsum("lpi,lpj->pij", centred_LPD, centred_LPD) / (count - 1)
    error_PDD = ((variance_PD[:, :, None] * variance_PD[:, None] + covariance_PDD.square()) / count).sqrt()
    assert (((empirical_PDD - covariance_PDD) / error_PDD).abs() < 4).all()


def test_the_mean_reward_is_the_mean_of_the_judges_scores() -> None:
    # given images of 20,000 samples, scored by the registered reward
    made, count = policy(0.1), 20_000
    x_LPD = sampled(made, chains(SDE.sigmas, count, NOISY), SDE, seed=3)
    (reward,) = make_rewards(["gaussian"], RunConfig().reward).values()
    images = made.decode(x_LPD.view(-1, *SHAPE))
    score_LP = reward.score(images, PROMPTS * count).view(count, 2).double()

    expected_P = mean_reward(exact_moments(made, SDE, NOISY, PROMPTS), PROMPTS)[0]

    deviation_P = (score_LP.mean(0) - expected_P) / (score_LP.std(0) / count**0.5)
    assert (deviation_P.abs() < 4).all(), deviation_P
    objective = exact_objective(made, SDE, NOISY, PROMPTS)
    assert objective.item() == pytest.approx(expected_P.mean().item())


def uneven(sigmas: np.ndarray) -> Forest:
    """T = 10: a trained edge (node 1) with a stochastic and a deterministic path below it, both then deterministic."""
    parent_N = np.array([-1, 0, 1, 1, *range(2, 2 + 2 * (T - 2))])
    depth_N = np.array([0, 1, *np.repeat(np.arange(2, T + 1), 2)])
    trained_N = np.isin(np.arange(parent_N.size), [1, 2])
    return Forest(sigmas, parent_N, depth_N, trained_N, trained_N)


FORESTS: dict[str, Callable[[np.ndarray], Forest]] = {
    "flat": lambda sigmas: chains(sigmas, 3, NOISY),
    "window": lambda sigmas: chains(sigmas, 3, (np.arange(T) > 1) & (np.arange(T) < 4), shared_noise=True),
    "some-trained": lambda sigmas: chains(sigmas, 2, NOISY, trained=np.arange(T) == 4),
    "tree": lambda sigmas: branching(sigmas, {1: 2, 2: 2}, (np.arange(T) > 0) & (np.arange(T) < 4)),
    "trunk": lambda sigmas: trunk(sigmas, {0: 2, 3: 3, 8: 1}),
    "uneven": uneven,
}


def slope(made: GaussianPolicy, mask: np.ndarray, name: str, step: int, direction: torch.Tensor) -> float:
    """Central difference of J along `direction` in the step's row of the weights called `name`."""
    values = []
    for sign in (1e-5, -1e-5):
        moved = {key: weight.detach().double().clone() for key, weight in made.parameters()}
        moved[name][step] += sign * direction
        values.append(exact_objective(made, SDE, mask, PROMPTS, moved).item())
    return (values[0] - values[1]) / 2e-5


@pytest.mark.parametrize("shape", FORESTS)
def test_the_exact_gradient_is_the_finite_difference_of_the_objective(shape: str) -> None:
    # given a trained policy, a forest, and a direction in the weights of each step
    made, forest = policy(0.1), FORESTS[shape](SDE.sigmas)
    exact = exact_gradient(forest, SDE, made, PROMPTS)
    stream = torch.Generator().manual_seed(0)
    for name, weight in made.parameters():
        direction = torch.randn(weight.shape, generator=stream, dtype=torch.float64)
        # when every trained edge adds the slope of its step, averaged over the leaves below it, path by path
        expected_T = np.zeros(T)
        for edge in forest.trained_edges_E:
            step = int(forest.depth_N[edge]) - 1
            below = [path for path in forest.path_LD if edge in path]
            for path in below:
                mask = forest.stochastic_N[path[1:]]
                expected_T[step] += slope(made, mask, name, step, direction[step]) / len(below) / forest.trained_edges

        # then the exact gradient agrees, at the steps without a trained edge as well
        got_T = (exact[name] * direction).flatten(1).sum(1)
        np.testing.assert_allclose(got_T, expected_T, rtol=1e-5, atol=1e-8)


def test_loss_weights_scale_their_edges() -> None:
    forest = chains(SDE.sigmas, 2, NOISY)
    weight_N = np.where(forest.depth_N == 3, 5.0, 1.0)

    plain = exact_gradient(forest, SDE, policy(), PROMPTS)["bias"]
    weighted = exact_gradient(forest, SDE, policy(), PROMPTS, weight_N)["bias"]

    factor = torch.ones(T, 1, dtype=torch.float64)
    factor[2] = 5.0
    torch.testing.assert_close(weighted, plain * factor)


def test_steps_that_share_a_row_add_up_and_a_forest_without_trained_edges_follows_the_ode() -> None:
    # given 25 steps on ten rows, and a forest of deterministic chains (DiffusionNFT's)
    schedule = make_schedule(shifted_grid(25), "flow-sde")
    still = np.zeros(25, dtype=bool)
    forest = chains(schedule.sigmas, 2, still)
    made = policy(0.1)

    exact = exact_gradient(forest, schedule, made, PROMPTS)

    # then it is autograd's gradient of the ODE sampler's mean reward, over the two leaves that count alike
    parameters = {name: weight.detach().double().requires_grad_() for name, weight in made.parameters()}
    exact_objective(made, schedule, still, PROMPTS, parameters).backward()
    for name, weight in parameters.items():
        torch.testing.assert_close(exact[name], weight.grad)


def estimate(made: GaussianPolicy, forest: Forest, seed: int) -> torch.Tensor:
    """The objective's own direction of ascent, with advantages that are rewards less their prompt's mean."""
    conditioning = made.encode(PROMPTS)
    handle = Metered(made, Ledger(), guidance=1.0, batch=1 << 16)
    grown = grow(forest, SDE, handle, conditioning, OneStream(seed))
    reward_LP = score_latents(grown.leaf_LPZ.flatten(0, 1).numpy(), PROMPTS * forest.images).reshape(-1, 2)
    advantage_NP = back_up(forest, reward_LP - reward_LP.mean(0))
    data = batch(forest, SDE, grown, conditioning, advantage_NP[forest.trained_edges_E])
    for _, weight in made.parameters():
        weight.grad = None
    accumulate(made, data, clip=1e9, train_batch=1 << 14)
    return -torch.cat([weight.grad.flatten() for _, weight in made.parameters() if weight.grad is not None]).double()


@pytest.mark.parametrize(
    ("shape", "rounds"),
    [
        (lambda: chains(SDE.sigmas, 2500, NOISY), 2),
        (lambda: branching(SDE.sigmas, {2: 3, 3: 3, 4: 3}, (np.arange(T) > 1) & (np.arange(T) < 5), roots=100), 4),
        (lambda: trunk(SDE.sigmas, {2: 20, 5: 20}, roots=100), 3),
    ],
    ids=["flat", "tree", "trunk"],
)
def test_the_policy_gradient_points_along_the_exact_one(shape: Callable[[], Forest], rounds: int) -> None:
    # given an estimate from many samples of the engine, through the objective that runs use
    made, forest = policy(0.05), shape()

    ascent = torch.stack([estimate(made, forest, seed) for seed in range(rounds)]).mean(0)

    exact = torch.cat([value.flatten() for value in exact_gradient(forest, SDE, made, PROMPTS).values()])
    cosine = torch.nn.functional.cosine_similarity(ascent, exact, dim=0).item()
    assert cosine > 0.95, cosine
    # and is 1/D as long, the log-prob being a mean over D numbers
    assert (ascent @ exact / (exact @ exact)).item() == pytest.approx(1 / NUMBERS, rel=0.1)
