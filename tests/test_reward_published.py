"""The published weights themselves, where they can be had: they load, tell pictures apart, and score as officially."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from record_official_rewards import batch
from reward_checkpoints import PROMPTS, images

from grpo_bench.config import RewardSection
from grpo_bench.evaluation.scoring import make_rewards, score
from grpo_bench.reward import Reward, RewardConfig

pytestmark = [pytest.mark.network, pytest.mark.timeout(3600)]


@pytest.fixture(autouse=True)
def online(monkeypatch: pytest.MonkeyPatch) -> None:
    """Weights may be fetched here, and nowhere else in the tests."""
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", False)


def published(name: str, **settings: object) -> Reward[RewardConfig]:
    return make_rewards([name], RewardSection.model_validate({name: settings} if settings else {}))[name]


@pytest.mark.parametrize("name", ["hps", "image-reward", "pickscore", "clip"])
def test_a_prompt_that_fits_scores_higher(name: str) -> None:
    red = torch.zeros(2, 3, 256, 256)
    red[:, 0] = 1
    fits, does_not = score(published(name), red, ["a plain red image", "a photo of a dog on a beach"])
    assert fits > does_not


def test_a_smooth_picture_looks_better_than_noise() -> None:
    x = torch.linspace(0, 1, 256)
    smooth = torch.stack([x.expand(256, -1), x[:, None].expand(-1, 256), 1 - x.expand(256, -1)])
    noise = torch.rand(3, 256, 256, generator=torch.Generator().manual_seed(0))
    better, worse = score(published("aesthetic"), torch.stack([smooth, noise]), ["", ""])
    assert 10 > better > worse > 0


@pytest.mark.official
@pytest.mark.parametrize("name", ["hps", "image-reward"])
def test_native_and_official_agree_on_the_published_weights(name: str) -> None:
    # given both backends, whose environment `grpo-bench rewards install` has made
    native, official = published(name, backend="native"), published(name, backend="official")
    prompts = list(PROMPTS.values())
    for picture in images().values():
        pixels = batch(picture, len(prompts))
        np.testing.assert_allclose(
            score(native, pixels, prompts), score(official, pixels, prompts), atol=1e-6, rtol=1e-6
        )
