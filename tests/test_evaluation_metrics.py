"""What is measured on images, by closed form; and an evaluator that gives the same answer twice."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from tiny import make, policy

from grpo_bench.config import EvaluationSection, RewardSection
from grpo_bench.errors import Diverged
from grpo_bench.evaluation.diversity import across_prompts, features, pairwise_distance, per_prompt, tripwires, vendi
from grpo_bench.evaluation.evaluator import Evaluator, to_bytes, to_images
from grpo_bench.evaluation.scoring import make_rewards
from grpo_bench.metering.ledger import Ledger
from grpo_bench.policies.sd3 import SD3Policy
from grpo_bench.sampling.handle import Metered
from grpo_bench.training.ranks import ALONE

PROMPTS = ("a red circle", "a blue square", "a star")


def plain(*levels: int, size: int = 32) -> np.ndarray:
    """One grey image a level."""
    return np.stack([np.full((size, size, 3), level, dtype=np.uint8) for level in levels])


def test_features_are_the_mean_colours_of_an_8_by_8_grid() -> None:
    # given 16 x 24 pixels, whose cells are 2 x 3
    images = np.random.default_rng(0).integers(0, 256, (2, 16, 24, 3), dtype=np.uint8)
    cells = images.reshape(2, 8, 2, 8, 3, 3).mean((2, 4)) / 255 - 0.5
    np.testing.assert_allclose(features(images), cells.reshape(2, -1), atol=1e-12)


def test_features_of_an_image_smaller_than_the_grid_are_finite() -> None:
    assert np.isfinite(features(plain(10, 200, size=5))).all()


def test_pairwise_distance_by_hand() -> None:
    # root mean square differences: 1 between the first two, 2 and 1 to the third; mean 4/3
    points = np.array([[0.0, 0.0], [1.0, 1.0], [2.0, 2.0]])
    assert pairwise_distance(points) == pytest.approx(4 / 3)
    assert pairwise_distance(points[:1]) == 0
    assert pairwise_distance(np.repeat(points[:1], 5, axis=0)) == 0
    # black and white differ by 1 in every cell
    assert pairwise_distance(features(plain(0, 255))) == pytest.approx(1)


def test_vendi_counts_different_images() -> None:
    # n identical images: one eigenvalue of 1; n far apart: n of 1/n (a kernel of exp(-1/(2 0.2^2) 18/6) < 1e-16)
    assert vendi(np.tile(np.random.default_rng(0).standard_normal(6), (5, 1))) == pytest.approx(1)
    assert vendi(3 * np.eye(5)) == pytest.approx(5)
    # two and two alike: eigenvalues 1/2, 1/2
    assert vendi(5 * np.eye(4)[[0, 0, 1, 1]]) == pytest.approx(2)
    # two images at the kernel's width: k = exp(-1/2), eigenvalues (1 +- k) / 2
    k = np.exp(-0.5)
    share = np.array([1 + k, 1 - k]) / 2
    assert vendi(np.array([[0.0, 0.0], [0.2, 0.2]])) == pytest.approx(np.exp(-(share * np.log(share)).sum()))


def test_per_prompt_averages_over_prompts_and_never_across_them() -> None:
    # prompt 0: two equal images; prompt 1: black and white
    images = np.concatenate([plain(80, 80), plain(0, 255)])
    columns = per_prompt(images, np.array([0, 0, 1, 1]))
    assert columns["diversity"] == pytest.approx((0 + 1) / 2)
    # two equal images count as one, black and white as two
    assert columns["vendi"] == pytest.approx(1.5, abs=1e-4)


def test_vendi_of_orthogonal_kernels_is_exact_in_closed_form() -> None:
    # given images: two blacks and two whites, a kernel of two blocks of ones (to exp(-1 / 0.08) = 4e-6)
    assert vendi(features(plain(0, 0, 255, 255))) == pytest.approx(2, abs=1e-4)
    assert vendi(features(plain(7))) == pytest.approx(1)
    # three points at one distance d: eigenvalues (1 + 2k) / 3 and twice (1 - k) / 3, k = exp(-d^2 / 0.08), d^2 = 0.02
    k = np.exp(-0.25)
    share = np.array([1 + 2 * k, 1 - k, 1 - k]) / 3
    points = np.sqrt(0.02 * 3 / 2) * np.eye(3)
    assert vendi(points) == pytest.approx(np.exp(-(share * np.log(share)).sum()))


def test_across_prompts_compares_different_prompts_only() -> None:
    # given two prompts of two images: each prompt's own differ, those of one place are alike
    images, prompt_B = plain(0, 255, 0, 255), np.array([0, 0, 1, 1])
    columns = across_prompts(images, prompt_B)
    assert columns["diversity_across"] == 0
    assert columns["vendi_across"] == pytest.approx(1)
    assert per_prompt(images, prompt_B)["diversity"] == pytest.approx(1)
    # and the other way round: one picture a prompt, different ones between the prompts, in any order
    columns = across_prompts(plain(0, 255, 0, 255), np.array([0, 1, 0, 1]))
    assert columns["diversity_across"] == pytest.approx(1)
    assert columns["vendi_across"] == pytest.approx(2, abs=1e-4)
    # a single prompt has nothing to differ from
    assert across_prompts(plain(0, 255), np.array([0, 0]))["diversity_across"] == 0


def test_tripwires_of_a_plain_image() -> None:
    columns = tripwires(plain(51))
    assert columns == pytest.approx({"luminance": 0.2, "edge_density": 0, "colour_entropy": 0, "high_frequency": 0})


@pytest.mark.parametrize(("channel", "weight"), [(0, 0.2126), (1, 0.7152), (2, 0.0722)])
def test_luminance_weighs_channels_by_rec_709(channel: int, weight: float) -> None:
    image = np.zeros((1, 8, 8, 3), dtype=np.uint8)
    image[..., channel] = 255
    assert tripwires(image)["luminance"] == pytest.approx(weight)


def test_a_checkerboard_is_all_high_frequency() -> None:
    rows, columns = np.indices((32, 32))
    board = np.where((rows + columns) % 2, 255, 0).astype(np.uint8)
    pixels = np.repeat(board[None, :, :, None], 3, axis=3)
    out = tripwires(pixels)
    assert out["high_frequency"] == pytest.approx(1)
    # black and white, half each: 1 bit
    assert out["colour_entropy"] == pytest.approx(1)
    # a wave of 2 periods over 32 pixels has 1/16 cycles a pixel, below half of Nyquist, 1/4
    wave = np.rint(127.5 + 100 * np.sin(2 * np.pi * 2 * columns / 32)).astype(np.uint8)
    assert tripwires(np.repeat(wave[None, :, :, None], 3, axis=3))["high_frequency"] == pytest.approx(0, abs=1e-4)


def test_edge_density_is_the_share_of_steep_pixels() -> None:
    # a step from 0 to 1 between columns 15 and 16 of 32: central differences of 0.5 at both, 2 of 32 columns
    image = plain(0)
    image[:, :, 16:] = 255
    assert tripwires(image)["edge_density"] == pytest.approx(2 / 32)


def test_colour_entropy_of_all_64_bins_is_6_bits() -> None:
    levels = np.array([0, 64, 128, 192], dtype=np.uint8)
    colours = np.stack(np.meshgrid(levels, levels, levels), -1).reshape(1, 8, 8, 3)
    assert tripwires(colours)["colour_entropy"] == pytest.approx(6)


def test_eight_bits_survive_the_way_to_a_tensor_and_back() -> None:
    pixels = np.random.default_rng(0).integers(0, 256, (2, 4, 5, 3), dtype=np.uint8)
    images = to_images(pixels, torch.device("cpu"))
    assert images.shape == (2, 3, 4, 5)
    np.testing.assert_array_equal(to_bytes(images), pixels)
    # rounded, not cut: 0.5 / 255 above a level
    assert to_bytes(torch.full((1, 3, 1, 1), 99.6 / 255)).ravel().tolist() == [100] * 3


@pytest.fixture(scope="module")
def pipeline(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make(tmp_path_factory.mktemp("evaluation") / "model")


def evaluator(
    sd3: SD3Policy, ledger: Ledger, *, prompts: tuple[str, ...] = PROMPTS, batch: int = 64, **changes: object
) -> Evaluator:
    settings = EvaluationSection.model_validate({"images": 2, "steps": 3} | changes)
    return Evaluator(
        sd3,
        Metered(sd3, ledger, guidance=settings.guidance, batch=batch),
        sd3.encode(prompts),
        prompts,
        settings,
        make_rewards(["jpeg-compressibility", "jpeg-incompressibility"], RewardSection()),
        weights={"jpeg-incompressibility": 0.5},
        gold="jpeg-compressibility",
        decode_batch=4,
        ranks=ALONE,
    )


def test_an_evaluation_repeats_itself(pipeline: Path) -> None:
    sd3 = policy(pipeline)
    judge = evaluator(sd3, Ledger())
    first, second = judge.evaluate(), judge.evaluate()
    assert first.columns == second.columns
    np.testing.assert_array_equal(first.images, second.images)
    # and so does another evaluator of another policy object with the same weights
    assert evaluator(policy(pipeline), Ledger()).evaluate().columns == first.columns
    # another seed draws other noise
    other = evaluator(sd3, Ledger(), seed=1).evaluate()
    assert not np.array_equal(other.images, first.images)


def test_every_image_belongs_to_its_prompt(pipeline: Path) -> None:
    # given one prompt alone: its images are those it has among the others, whichever place it has there
    sd3 = policy(pipeline)
    images = evaluator(sd3, Ledger()).evaluate().images.astype(int)
    for place, prompt in enumerate(PROMPTS):
        alone = evaluator(sd3, Ledger(), prompts=(prompt,)).evaluate().images.astype(int)
        # batches of other sizes may round a pixel to the next level
        assert abs(alone[0] - images[place]).max() <= 1
        assert abs(alone[0] - images[(place + 1) % 3]).max() > 10


def test_evaluation_columns_are_means_of_the_stored_images(pipeline: Path) -> None:
    out = evaluator(policy(pipeline), Ledger()).evaluate()
    assert out.images.shape == (3, 2, 32, 32, 3)
    assert out.images.dtype == np.uint8
    flat = out.images.reshape(6, 32, 32, 3)
    reward = make_rewards(["jpeg-incompressibility"], RewardSection())["jpeg-incompressibility"]
    again = reward.score(to_images(flat, torch.device("cpu")), [p for p in PROMPTS for _ in range(2)])
    assert out.columns["reward/jpeg-incompressibility"] == pytest.approx(float(again.double().mean()))
    # the proxy weighs what is trained on; the gold is the judge
    assert out.columns["proxy"] == 0.5 * out.columns["reward/jpeg-incompressibility"]
    assert out.columns["gold"] == out.columns["reward/jpeg-compressibility"]
    assert out.columns["luminance"] == tripwires(flat)["luminance"]
    assert out.columns["diversity_across"] == across_prompts(flat, np.repeat(np.arange(3), 2))["diversity_across"] > 0
    assert out.columns["diversity"] == per_prompt(flat, np.repeat(np.arange(3), 2))["diversity"] > 0


@pytest.mark.parametrize("guidance", [1.0, 3.0])
def test_evaluation_is_charged_to_eval_alone(pipeline: Path, guidance: float) -> None:
    ledger = Ledger()
    judge = evaluator(policy(pipeline), ledger, guidance=guidance)
    assert ledger.evaluations("eval") == 0
    assert ledger.evaluations("setup") > 0
    before = ledger.evaluations("setup")
    judge.evaluate()
    # 3 prompts x 2 images x 3 steps, and 4 noise levels x 3 prompts of the distance from the base
    assert ledger.evaluations("eval") == (3 * 2 * 3 + 4 * 3) * (2 if guidance > 1 else 1)
    assert ledger.evaluations("setup") == before
    assert ledger.nfe == 0


def test_base_distance_is_zero_at_the_base_and_grows_with_the_weights(pipeline: Path) -> None:
    sd3 = policy(pipeline)
    judge = evaluator(sd3, Ledger())
    assert judge.evaluate().columns["base_distance"] == 0
    direction = [torch.randn(w.shape, generator=torch.Generator().manual_seed(0)) for _, w in sd3.parameters()]
    distances = []
    for _ in range(2):
        with torch.no_grad():
            for (_, weight), move in zip(sd3.parameters(), direction, strict=True):
                weight += 0.01 * move
        distances.append(judge.evaluate().columns["base_distance"])
    assert 0 < distances[0] < distances[1]


def test_base_distance_is_the_mean_squared_difference_of_velocities(pipeline: Path) -> None:
    # given a policy whose output is shifted by 0.1 everywhere: the last bias of the transformer
    sd3 = policy(pipeline)
    judge = evaluator(sd3, Ledger())
    with torch.no_grad():
        sd3.denoiser.proj_out.bias += 0.1
    assert judge.evaluate().columns["base_distance"] == pytest.approx(0.01, rel=1e-4)


def test_a_policy_that_gives_nan_ends_the_evaluation(pipeline: Path) -> None:
    sd3 = policy(pipeline)
    judge = evaluator(sd3, Ledger())
    with torch.no_grad():
        sd3.denoiser.proj_out.bias[0] = torch.nan
    with pytest.raises(Diverged, match="NaN or Inf while sampling evaluation images"):
        judge.evaluate()
