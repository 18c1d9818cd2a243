"""`--reward image-reward` is ImageReward as published: the same numbers as the official package, from the same file."""

from __future__ import annotations

import logging
from pathlib import Path

import numpy as np
import pytest
import reward_reference as reference
import torch
from PIL import Image
from reward_checkpoints import BERT_VOCAB, PROMPTS, RewardFiles, images
from running import Make, run
from transformers import BertTokenizer

from grpo_bench.config import RewardSection
from grpo_bench.errors import UserError
from grpo_bench.evaluation.scoring import make_rewards, score
from grpo_bench.reward import Reward, RewardConfig
from grpo_bench.rewarding.pixels import short_side_cropped


def image_reward(files: RewardFiles, path: Path | None = None, **more: object) -> Reward[RewardConfig]:
    settings = {"path": str(path or files.image_reward), "tokenizer": str(files.bert), **more}
    return make_rewards(["image-reward"], RewardSection.model_validate({"image-reward": settings}))["image-reward"]


@pytest.mark.parametrize("image", ["square", "wide", "tall", "tiny"])
def test_scores_are_the_papers_formula(image: str, reward_files: RewardFiles) -> None:
    # given the model by plain matrix algebra from the file's own names, on unpadded prompts
    weights, picture = reference.read(reward_files.image_reward), images()[image]
    tokenizer = BertTokenizer(vocab={word: i for i, word in enumerate(BERT_VOCAB)})
    tokens = [tokenizer(prompt, truncation=True, max_length=35)["input_ids"] for prompt in PROMPTS.values()]
    expected = [reference.image_reward(picture, ids, weights) for ids in tokens]

    # then the reward is the same, for all that it pads them
    pixels = reference.floats(picture).expand(len(PROMPTS), -1, -1, -1)
    scores = score(image_reward(reward_files), pixels, list(PROMPTS.values()))
    np.testing.assert_allclose(scores, expected, atol=1e-5, rtol=0)
    assert np.ptp(expected) > 0.3


def test_a_batch_is_scored_as_its_images_alone(reward_files: RewardFiles) -> None:
    pixels = torch.rand(7, 3, 40, 30, generator=torch.Generator().manual_seed(0))
    prompts = [list(PROMPTS.values())[i % len(PROMPTS)] for i in range(7)]
    together = score(image_reward(reward_files, batch=4), pixels, prompts)
    reward = image_reward(reward_files)
    alone = [score(reward, pixels[i : i + 1], prompts[i : i + 1])[0] for i in range(7)]
    np.testing.assert_allclose(together, alone, atol=1e-5, rtol=0)


def test_a_wide_image_loses_its_borders() -> None:
    # given 224 x 448 pixels, of which the left and right quarter are white: the middle square is black throughout
    pixels = torch.zeros(1, 3, 224, 448)
    pixels[..., :112] = pixels[..., -112:] = 1
    prepared = short_side_cropped(pixels, 224, "half-even")
    assert prepared.shape == (1, 3, 224, 224)
    torch.testing.assert_close(prepared[0, 0], torch.full((224, 224), -0.48145466 / 0.26862954))


@pytest.mark.parametrize(("rounding", "first"), [("half-even", 2), ("down", 1)])
def test_half_a_pixel_is_rounded_as_the_package_does(rounding: str, first: int) -> None:
    # given 224 x 227 pixels, of which 1.5 are cut at either end: torchvision rounds to 2, CLIPProcessor down to 1
    column = np.arange(227, dtype=np.uint8)
    picture = Image.fromarray(np.broadcast_to(column, (224, 227))).convert("RGB")
    prepared = short_side_cropped(reference.floats(picture)[None], 224, rounding)  # type: ignore[arg-type]
    value = prepared[0, 0, 0, 0] * 0.26862954 + 0.48145466
    assert round(float(value) * 255) == first


def test_a_cut_prompt_is_told_once(reward_files: RewardFiles, caplog: pytest.LogCaptureFixture) -> None:
    reward, pixels = image_reward(reward_files), torch.zeros(2, 3, 8, 8)
    with caplog.at_level(logging.WARNING, "grpo_bench"):
        score(reward, pixels, ["a cat", "a dog"])
        assert not caplog.records
        score(reward, pixels, ["red " * 50, "blue " * 60])
        score(reward, pixels, ["red " * 50, "blue " * 70])
    assert [record.getMessage() for record in caplog.records] == [
        f"reward 'image-reward' reads 35 tokens of a prompt: the end of {('red ' * 50)[:80]!r} (52 tokens) does not "
        "count; this is said once"
    ]


def test_what_does_not_count_changes_nothing(reward_files: RewardFiles) -> None:
    reward, pixels = image_reward(reward_files), torch.rand(2, 3, 8, 8, generator=torch.Generator().manual_seed(0))
    long = score(reward, pixels, ["red " * 33 + "cat", "red " * 33 + "dog " * 9])
    np.testing.assert_array_equal(long, score(reward, pixels, ["red " * 33, "red " * 33]))


def test_a_file_with_other_weights_is_refused(reward_files: RewardFiles, tmp_path: Path) -> None:
    state, path = torch.load(reward_files.image_reward, weights_only=True), tmp_path / "other.pt"
    for change, said in (
        ({"mlp.layers.7.bias": None}, "lacks mlp.7.bias"),
        ({"blip.queue": torch.zeros(1)}, "has blip.queue too many"),
        ({"mlp.layers.5.weight": torch.zeros(1)}, "its head has the layers 0, 2, 4, 5, 6, 7, not 0, 2, 4, 6, 7"),
        ({"blip.visual_encoder.pos_embed": None}, "'vision.embeddings.position_embedding' is missing"),
    ):
        torch.save({name: value for name, value in (state | change).items() if value is not None}, path)
        with pytest.raises(UserError, match=rf"not the weights of reward 'image-reward' \(other.pt\): .*{said}"):
            image_reward(reward_files, path).load(torch.device("cpu"))


def test_a_folder_without_the_vocabulary_is_refused(reward_files: RewardFiles, tmp_path: Path) -> None:
    settings = {"path": str(reward_files.image_reward), "tokenizer": str(tmp_path)}
    reward = make_rewards(["image-reward"], RewardSection.model_validate({"image-reward": settings}))["image-reward"]
    with pytest.raises(UserError, match=r"reward\.image-reward\.tokenizer = .* has no vocab.txt; give a folder"):
        reward.files()


def test_it_trains(make: Make, reward_files: RewardFiles, results: Path) -> None:
    section = {"name": "image-reward", "image-reward": reward_files.settings["image-reward"]}
    outcome = run(make(reward=section, budget={"iterations": 1.0}), results)
    assert outcome.record.status == "done"
    assert [row["reward/image-reward"] == row["proxy"] for row in outcome.store.rows()] == [True, True]
