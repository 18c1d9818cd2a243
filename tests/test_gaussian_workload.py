"""The analytic workload: every closed form against brute force, a sample or a finite difference; and real runs."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from running import Watcher, cli_here, same_points, sentence
from tiny import CPU, accumulate, batch

from grpo_bench.config import ModelSection, RunConfig, build
from grpo_bench.errors import UserError
from grpo_bench.evaluation.scoring import make_rewards
from grpo_bench.forest.forest import Forest, branching, chains, trunk
from grpo_bench.forest.rollout import back_up
from grpo_bench.forest.schedule import Schedule
from grpo_bench.metering.ledger import Ledger
from grpo_bench.registry import WORKLOADS
from grpo_bench.sampling.engine import grow
from grpo_bench.sampling.handle import Metered
from grpo_bench.sampling.kernels import make_schedule
from grpo_bench.sampling.noise import Noise, Purpose
from grpo_bench.sampling.schedule import shifted_grid
from grpo_bench.store.run import RunStore
from grpo_bench.training.run import start
from grpo_bench.workloads.gaussian import cloud, latents_of, score_latents
from grpo_bench.workloads.gaussian.clouds import NUMBERS, QUALITY, SHAPE
from grpo_bench.workloads.gaussian.exact import (
    exact_gradient,
    exact_moments,
    exact_objective,
    mean_reward,
)
from grpo_bench.workloads.gaussian.policy import GaussianPolicy
from grpo_bench.workloads.gaussian.workload import MODEL

T = 10
PROMPTS = ["cloud 0", "cloud 1"]
SDE = make_schedule(shifted_grid(T), "flow-sde")
STILL = np.zeros(T, dtype=bool)
NOISY = np.arange(T) < T - 1


def policy(spread: float = 0.0, **changes: object) -> GaussianPolicy:
    """The workload's policy; `spread` is the std of its residual's weights."""
    settings = ModelSection.model_validate({"height": 8, "width": 8} | changes)
    made = GaussianPolicy.load(str(MODEL), settings, CPU)
    stream = np.random.default_rng(0)
    for _, weight in made.parameters():
        weight.data = torch.tensor(spread * stream.standard_normal(weight.shape), dtype=torch.float32)
    return made


class OneStream(Noise):
    """Noise in one piece: many chains in no time, and still standard normal."""

    def __init__(self, seed: int) -> None:
        super().__init__(seed, 0, PROMPTS, SHAPE)
        self.one = np.random.default_rng(seed)

    def draw(self, purpose: Purpose, key_N: np.ndarray, device: torch.device) -> torch.Tensor:
        """See `Noise.draw`."""
        return torch.from_numpy(self.one.standard_normal((len(key_N), len(PROMPTS), *SHAPE), dtype=np.float32))


def sampled(made: GaussianPolicy, forest: Forest, schedule: Schedule, seed: int = 0) -> torch.Tensor:
    """Leaves (L, P, D), float64, of the engine."""
    handle = Metered(made, Ledger(), guidance=1.0, batch=1 << 16)
    return grow(forest, schedule, handle, made.encode(PROMPTS), OneStream(seed)).leaf_LPCHW.flatten(2).double()


# The flow


@pytest.mark.parametrize("sigma", [1.0, 0.9, 0.5, 0.1, 0.0089])
def test_the_velocity_is_the_conditional_expectation(sigma: float) -> None:
    # given the joint covariance of (x0, eps, x), x = (1-s) x0 + s eps, and the textbook formula for a Gaussian given x
    made, x_BD = policy(), np.random.default_rng(1).standard_normal((2, NUMBERS))
    expected = []
    for prompt, x_D in zip(PROMPTS, x_BD, strict=True):
        pick = np.eye(NUMBERS)
        joint = np.block(
            [[cloud(prompt).covariance, np.zeros((NUMBERS, NUMBERS))], [np.zeros((NUMBERS, NUMBERS)), pick]]
        )
        onto_x = np.hstack([(1 - sigma) * pick, sigma * pick])
        onto_v = np.hstack([-pick, pick])
        mean = np.concatenate([cloud(prompt).mean, np.zeros(NUMBERS)])
        step = np.linalg.solve(onto_x @ joint @ onto_x.T, x_D - onto_x @ mean)
        expected.append(onto_v @ mean + onto_v @ joint @ onto_x.T @ step)

    # then the untrained policy predicts exactly that
    x_BCHW = torch.tensor(x_BD.reshape(2, *SHAPE), dtype=torch.float32)
    v_BCHW = made.predict(x_BCHW, torch.full((2,), sigma), made.encode(PROMPTS), 1.0)
    np.testing.assert_allclose(v_BCHW.detach().flatten(1), expected, rtol=1e-4, atol=2e-5)


def test_rows_of_one_batch_have_their_own_sigma_and_prompt() -> None:
    made, x_BCHW = policy(0.3), torch.randn(4, *SHAPE, generator=torch.Generator().manual_seed(0))
    sigma_B, row_B = torch.tensor([1.0, 0.5, 0.2, 0.5]), torch.tensor([0, 1, 1, 0])
    conditioning = made.encode(PROMPTS)

    together = made.predict(x_BCHW, sigma_B, conditioning.select(row_B), 1.0)

    for i in range(4):
        alone = made.predict(x_BCHW[i : i + 1], sigma_B[i : i + 1], conditioning.select(row_B[i : i + 1]), 1.0)
        torch.testing.assert_close(together[i : i + 1], alone, rtol=1e-5, atol=1e-6)


def test_every_step_of_the_default_grid_has_its_own_residual_and_other_grids_the_nearest() -> None:
    knot_K = shifted_grid(T)[:-1]
    denoiser = policy().denoiser

    assert denoiser.rows(torch.tensor(knot_K)).tolist() == list(range(T))
    other = shifted_grid(37)[:-1]
    nearest = np.abs(other[:, None] - knot_K).argmin(1)
    assert denoiser.rows(torch.tensor(other)).tolist() == nearest.tolist()


def test_the_residual_is_affine_in_the_latent() -> None:
    made, plain = policy(0.5), policy()
    x_BCHW, sigma_B = torch.ones(1, *SHAPE), torch.tensor([SDE.sigmas[3]], dtype=torch.float32)
    conditioning = made.encode(PROMPTS[:1])

    difference = made.predict(x_BCHW, sigma_B, conditioning, 1.0) - plain.predict(x_BCHW, sigma_B, conditioning, 1.0)

    weights = dict(made.parameters())
    expected = weights["weight"][3] @ torch.ones(NUMBERS) + weights["bias"][3]
    torch.testing.assert_close(difference.flatten(), expected, rtol=1e-4, atol=1e-5)


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


# Moments and reward


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


def test_a_picture_keeps_the_latent_and_the_best_score_is_zero_at_the_target() -> None:
    # given the two targets, drawn
    target = np.array([cloud(prompt).target for prompt in PROMPTS]).reshape(2, *SHAPE)
    images = policy().decode(torch.tensor(target, dtype=torch.float32))

    # then they are read back, and score 0; a step of 1 along an axis of Q's with eigenvalue 1.5 scores -1.5 / 12
    assert images.shape == (2, 3, 8, 8) and images.min() > 0 and images.max() < 1
    np.testing.assert_allclose(latents_of(images.numpy()), target, atol=1e-5)
    np.testing.assert_array_equal(score_latents(target, PROMPTS), 0)
    value, axis = np.linalg.eigh(QUALITY)
    assert value[-1] == pytest.approx(1.5)
    moved = target + axis[:, -1].reshape(SHAPE)
    np.testing.assert_allclose(score_latents(moved, PROMPTS), -1.5 / 12)
    with pytest.raises(ValueError, match="2 images need as many prompts, not 1"):
        score_latents(target, PROMPTS[:1])
    with pytest.raises(ValueError, match="even height"):
        latents_of(np.zeros((1, 3, 7, 8)))


def test_a_prompts_gaussian_depends_on_its_text_alone() -> None:
    one, other = cloud("cloud 0"), cloud("any text at all")
    again = cloud.__wrapped__("cloud 0")

    np.testing.assert_array_equal(one.mean, again.mean)
    np.testing.assert_array_equal(one.basis, again.basis)
    assert np.abs(one.mean - other.mean).max() > 0.1
    np.testing.assert_allclose(one.basis @ one.basis.T, np.eye(NUMBERS), atol=1e-12)
    assert one.spectrum.max() / one.spectrum.min() > 5
    # Pinned: runs of different versions are compared on these.
    np.testing.assert_allclose(one.mean[:2], PINNED_MEAN, rtol=1e-9)
    assert one.covariance[0, 1] == pytest.approx(PINNED_COVARIANCE, rel=1e-9)


PINNED_MEAN = [0.12850451338495827, -0.6553121837658277]
PINNED_COVARIANCE = -0.1953312033115703


# The gradient


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
    forest = chains(schedule.sigmas, 2, still, forward_draws=2)
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
    reward_LP = score_latents(grown.leaf_LPCHW.flatten(0, 1).numpy(), PROMPTS * forest.images).reshape(-1, 2)
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


# Runs


def small(**over: object) -> RunConfig:
    """A short run of the workload."""
    layers = [("workload", WORKLOADS.get("gaussian").defaults), ("test", {"workload": "gaussian", **over})]
    return build(layers)


@pytest.mark.parametrize("name", ["flat", "mix", "tree"])
def test_a_run_from_the_command_line_learns(results: Path, name: str) -> None:
    done = cli_here("run", "--workload", "gaussian", "--method", name, "--budget", "nfe=40000", "--quiet")

    # then the reward of held-out prompts has risen by far more than chance: the evaluation's noise is always the same
    assert done.returncode == 0, done.stderr
    (folder,) = results.iterdir()
    rows = RunStore(folder).rows()
    assert rows[-1]["proxy"] > rows[0]["proxy"] + 0.1, (rows[0]["proxy"], rows[-1]["proxy"])
    assert rows[0]["base_distance"] == 0 < rows[-1]["base_distance"]


def test_an_interrupted_run_goes_on_as_if_nothing_had_happened(tmp_path: Path) -> None:
    chosen = small(budget={"iterations": 6.0}, training={"updates": 2, "ema_decay": 0.9})
    whole = start(chosen, tmp_path / "whole", Watcher())
    start(chosen, tmp_path / "pieces", Watcher(stop_after=2))
    pieces = start(chosen, tmp_path / "pieces", Watcher())

    assert pieces.record.status == "done" and whole.record.tier == "analytic" and whole.record.gold_is_proxy
    same_points(whole.store, pieces.store)


def test_weights_survive_saving_bit_for_bit(tmp_path: Path) -> None:
    trained, fresh = policy(0.7), policy()
    trained.save(tmp_path)

    fresh.restore(tmp_path)
    loaded = GaussianPolicy.load(str(tmp_path), trained.settings, CPU)

    for other in (fresh, loaded):
        for (name, weight), (_, own) in zip(other.parameters(), trained.parameters(), strict=True):
            assert torch.equal(weight, own), name


def test_the_reference_is_the_exact_flow_after_training() -> None:
    made, plain = policy(), policy()
    made.keep_reference()
    for _, weight in made.parameters():
        weight.data = weight.data + 1
    arguments = torch.ones(1, *SHAPE), torch.tensor([0.5]), made.encode(PROMPTS[:1]), 1.0

    with made.reference():
        assert torch.equal(made.predict(*arguments), plain.predict(*arguments))
    assert not torch.equal(made.predict(*arguments), plain.predict(*arguments))


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"trainable": "lora"}, "policy 'gaussian' takes model.trainable = 'full' only, not 'lora'; leave it out"),
        ({"dtype": "bf16"}, "model.dtype = 'fp32' only"),
        ({"gradient_checkpointing": True}, "model.gradient_checkpointing = False only"),
        ({"height": 9}, "images of even height and width, not 9 x 8; use 8"),
    ],
)
def test_what_the_closed_form_has_no_use_for_is_refused(change: dict[str, object], said: str) -> None:
    with pytest.raises(UserError, match=said):
        policy(**change)


@pytest.mark.parametrize("config", [None, "{", '{"_class_name": "SD3Transformer2DModel"}'])
def test_another_models_folder_is_refused_in_one_sentence(tmp_path: Path, config: str | None) -> None:
    (tmp_path / "denoiser").mkdir()
    if config is not None:
        (tmp_path / "denoiser" / "config.json").write_text(config, encoding="utf-8")

    done = cli_here("run", "--workload", "gaussian", "--model", str(tmp_path))

    assert "is not a Gaussian policy's folder" in sentence(done)
