"""The analytic workload: its velocity against brute force, its pictures and judge, and real runs."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from analytic import PROMPTS, SDE, T, policy
from running import Watcher, cli_here, same_points, sentence
from tiny import CPU

from grpo_bench.config import RunConfig, build
from grpo_bench.errors import UserError
from grpo_bench.registry import WORKLOADS
from grpo_bench.sampling.handle import Regime
from grpo_bench.sampling.schedule import shifted_grid
from grpo_bench.store.run import RunStore
from grpo_bench.training.run import start
from grpo_bench.workloads.gaussian import cloud, latents_of, score_latents
from grpo_bench.workloads.gaussian.clouds import NUMBERS, QUALITY, SHAPE
from grpo_bench.workloads.gaussian.policy import GaussianPolicy


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
    v_BCHW = made.predict(x_BCHW, torch.full((2,), sigma), made.encode(PROMPTS), ALONE)
    np.testing.assert_allclose(v_BCHW.detach().flatten(1), expected, rtol=1e-4, atol=2e-5)


def test_rows_of_one_batch_have_their_own_sigma_and_prompt() -> None:
    made, x_BCHW = policy(0.3), torch.randn(4, *SHAPE, generator=torch.Generator().manual_seed(0))
    sigma_B, row_B = torch.tensor([1.0, 0.5, 0.2, 0.5]), torch.tensor([0, 1, 1, 0])
    conditioning = made.encode(PROMPTS)

    together = made.predict(x_BCHW, sigma_B, conditioning.select(row_B), ALONE)

    for i in range(4):
        alone = made.predict(x_BCHW[i : i + 1], sigma_B[i : i + 1], conditioning.select(row_B[i : i + 1]), ALONE)
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

    difference = made.predict(x_BCHW, sigma_B, conditioning, ALONE) - plain.predict(
        x_BCHW, sigma_B, conditioning, ALONE
    )

    weights = dict(made.parameters())
    expected = weights["weight"][3] @ torch.ones(NUMBERS) + weights["bias"][3]
    torch.testing.assert_close(difference.flatten(), expected, rtol=1e-4, atol=1e-5)


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


ALONE = Regime("denoiser")
PINNED_MEAN = [0.12850451338495827, -0.6553121837658277]
PINNED_COVARIANCE = -0.1953312033115703


def small(**over: object) -> RunConfig:
    """A short run of the workload."""
    layers = [("workload", WORKLOADS.get("gaussian").defaults), ("test", {"workload": "gaussian", **over})]
    return build(layers)


@pytest.mark.slow
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
    arguments = torch.ones(1, *SHAPE), torch.tensor([0.5]), made.encode(PROMPTS[:1]), ALONE

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
