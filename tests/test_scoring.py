"""Scores are checked before anything is made of them; the JPEG rewards are the sizes of files that Pillow writes."""

from __future__ import annotations

import io
from collections.abc import Mapping, Sequence

import numpy as np
import pytest
import torch
from PIL import Image
from reward_checkpoints import RewardFiles

from grpo_bench.config import RewardSection
from grpo_bench.errors import Diverged, UserError
from grpo_bench.evaluation.scoring import make_rewards, score, score_parts
from grpo_bench.registry import REWARDS
from grpo_bench.reward import Reward, RewardConfig

IMAGES = torch.rand(4, 3, 16, 16, generator=torch.Generator().manual_seed(0))
PROMPTS = ["a", "b", "c", "d"]


class Given(Reward[RewardConfig]):
    """Returns the scores and the part it was made with, whatever they are."""

    name = "given"
    range = (0.0, 4.0)

    def __init__(self, scores: object, part: torch.Tensor | None = None) -> None:
        super().__init__(RewardConfig())
        self._scores, self._part = scores, part

    def score(self, images_BCHW: torch.Tensor, prompts: Sequence[str]) -> torch.Tensor:
        return self._scores  # type: ignore[return-value]

    def components(self, images_BCHW: torch.Tensor, prompts: Sequence[str]) -> Mapping[str, torch.Tensor]:
        return {} if self._part is None else {"given-part": self._part}


def test_scores_come_back_in_double_precision_and_in_order() -> None:
    values = score(Given(torch.tensor([1.0, 2.0, 3.0, 4.0], requires_grad=True)), IMAGES, PROMPTS)
    assert values.dtype == np.float64
    assert values.tolist() == [1, 2, 3, 4]


@pytest.mark.parametrize("shape", [(3,), (4, 1), (), (1, 4)])
def test_scores_of_another_shape_are_the_rewards_fault(shape: tuple[int, ...]) -> None:
    with pytest.raises(UserError, match=r"reward 'given' returned scores of shape .* for 4 images; return \(4,\)"):
        score(Given(torch.zeros(shape)), IMAGES, PROMPTS)


@pytest.mark.parametrize("bad", [float("nan"), float("inf"), float("-inf")])
def test_a_score_that_is_no_number_ends_the_run(bad: float) -> None:
    with pytest.raises(Diverged, match=f"reward 'given' gave {bad} for image 2 of 4"):
        score(Given(torch.tensor([0.0, 1.0, bad, bad])), IMAGES, PROMPTS)


def test_components_are_checked_like_scores() -> None:
    good = torch.zeros(4)
    assert set(score_parts(Given(good, good), IMAGES, PROMPTS)) == {"given", "given-part"}
    with pytest.raises(Diverged, match="reward 'given-part' gave nan for image 0"):
        score_parts(Given(good, torch.full((4,), torch.nan)), IMAGES, PROMPTS)
    with pytest.raises(UserError, match="reward 'given-part' returned scores of shape"):
        score_parts(Given(good, torch.zeros(2)), IMAGES, PROMPTS)


@pytest.mark.parametrize("quality", [95, 30])
def test_jpeg_rewards_are_the_size_of_the_file(quality: int) -> None:
    # given the same pixels written by Pillow
    sizes = []
    for image in (IMAGES * 255).round().to(torch.uint8).permute(0, 2, 3, 1).numpy():
        buffer = io.BytesIO()
        Image.fromarray(image).save(buffer, format="JPEG", quality=quality)
        sizes.append(len(buffer.getvalue()) / 1000)
    section = RewardSection.model_validate(
        {name: {"quality": quality} for name in ("jpeg-compressibility", "jpeg-incompressibility")}
    )
    rewards = make_rewards(["jpeg-compressibility", "jpeg-incompressibility"], section)
    np.testing.assert_allclose(score(rewards["jpeg-incompressibility"], IMAGES, PROMPTS), sizes, rtol=1e-6)
    np.testing.assert_allclose(score(rewards["jpeg-compressibility"], IMAGES, PROMPTS), np.negative(sizes), rtol=1e-6)


def test_a_plain_image_compresses_best() -> None:
    plain = torch.full((1, 3, 32, 32), 0.5)
    noisy = torch.rand(1, 3, 32, 32, generator=torch.Generator().manual_seed(0))
    reward = make_rewards(["jpeg-compressibility"], RewardSection())["jpeg-compressibility"]
    plain_score, noisy_score = score(reward, torch.cat([plain, noisy]), PROMPTS[:2])
    assert plain_score > noisy_score + 1


OWN_PROMPTS = {
    "count": ["one red circle", "two blue squares and one green circle", "three purple squares"],
    "glyphs": ["the letters E F", "the letters P R", "the letters O Q"],
}
"""Of rewards that read no other caption than their workload's."""


@pytest.mark.parametrize("name", REWARDS.names())
def test_every_reward_scores_each_image_by_itself_and_refuses_too_few_prompts(
    name: str, reward_files: RewardFiles
) -> None:
    # given images of the built-in size, scored together and one by one
    own = reward_files.settings.get(name, {})
    reward = make_rewards([name], RewardSection.model_validate({name: own} if own else {}))[name]
    images = torch.rand(3, 3, 32, 32, generator=torch.Generator().manual_seed(1))
    prompts = OWN_PROMPTS.get(name, ["a red circle left of a blue square", "a green triangle", "a red square"])
    together = score(reward, images, prompts)
    alone = [float(score(reward, images[i : i + 1], prompts[i : i + 1])[0]) for i in range(3)]
    np.testing.assert_allclose(together, alone, rtol=1e-6, atol=1e-5 if reward.weights else 0)
    assert reward.range[0] <= together.min()
    assert together.max() <= reward.range[1]
    assert (score(reward, images, prompts) == together).all()
    with pytest.raises(ValueError, match="prompts"):
        reward.judge(images, prompts[:2])


def test_settings_reach_their_own_reward_only() -> None:
    with pytest.raises(UserError, match=r"no setting is named 'reward\.jpeg-compressibility\.qualty'.*quality"):
        make_rewards(["jpeg-compressibility"], RewardSection.model_validate({"jpeg-compressibility": {"qualty": 3}}))
    with pytest.raises(UserError, match="no reward is named 'jpeg'"):
        make_rewards(["jpeg"], RewardSection())
