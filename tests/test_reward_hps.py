"""`--reward hps` is HPSv2 as published: the same numbers as the official package, from the same file, or a sentence."""

from __future__ import annotations

from importlib import resources
from pathlib import Path

import numpy as np
import pytest
import reward_reference as reference
import torch
from reward_checkpoints import PROMPTS, RewardFiles, images, make_hps
from running import Make, run

from grpo_bench.config import RewardSection
from grpo_bench.errors import UserError
from grpo_bench.evaluation.scoring import make_rewards, score
from grpo_bench.reward import Reward, RewardConfig
from grpo_bench.rewarding.openclip import heads, load_open_clip
from grpo_bench.rewarding.pixels import longest_side_padded
from grpo_bench.rewarding.tokens import ClipTokens
from grpo_bench.rewarding.weights import read_tensors

HEADS = 2
VOCABULARY = Path(str(resources.files("grpo_bench.rewarding") / "bpe_simple_vocab_16e6.txt.gz"))


def hps(path: Path, **more: object) -> Reward[RewardConfig]:
    section = RewardSection.model_validate({"hps": {"path": str(path), **more}})
    return make_rewards(["hps"], section)["hps"]


def changed(path: Path, folder: Path, **tensors: torch.Tensor | None) -> Path:
    """A copy of the checkpoint with other tensors; None takes one out."""
    state = torch.load(path, weights_only=True)["state_dict"] | tensors
    torch.save({"state_dict": {name: value for name, value in state.items() if value is not None}}, folder / "other.pt")
    return folder / "other.pt"


@pytest.mark.parametrize("image", images())
def test_scores_are_the_papers_formula(image: str, reward_files: RewardFiles) -> None:
    # given the features by plain matrix algebra from the file's own names
    weights = reference.read(reward_files.hps)
    picture, tokens = images()[image], reference.Bpe(VOCABULARY)
    seen = reference.hps_image(picture, weights, HEADS)
    expected = [(seen @ reference.hps_text(tokens(prompt), weights, HEADS)).item() for prompt in PROMPTS.values()]

    # then the reward is their cosine
    pixels = reference.floats(picture).expand(len(PROMPTS), -1, -1, -1)
    scores = score(hps(reward_files.hps), pixels, list(PROMPTS.values()))
    np.testing.assert_allclose(scores, expected, atol=1e-6, rtol=0)
    assert np.ptp(expected) > 0.05


def test_a_batch_is_scored_as_its_images_alone(reward_files: RewardFiles) -> None:
    reward = hps(reward_files.hps, batch=3)
    pixels = torch.rand(7, 3, 40, 30, generator=torch.Generator().manual_seed(0))
    prompts = [list(PROMPTS.values())[i % len(PROMPTS)] for i in range(7)]
    together = score(reward, pixels, prompts)
    alone = [score(hps(reward_files.hps), pixels[i : i + 1], prompts[i : i + 1])[0] for i in range(7)]
    np.testing.assert_allclose(together, alone, atol=1e-5, rtol=0)


def test_images_are_judged_as_they_would_be_stored(reward_files: RewardFiles) -> None:
    # given images that differ by less than half a step of 8 bits
    pixels = torch.randint(0, 256, (2, 3, 16, 16), generator=torch.Generator().manual_seed(0)).float() / 255
    reward, prompts = hps(reward_files.hps), ["a cat", "a dog"]
    np.testing.assert_array_equal(score(reward, pixels + 0.4 / 255, prompts), score(reward, pixels, prompts))


def test_a_wide_image_gets_black_borders() -> None:
    # given a white image of 2 x 1, the prepared one is 224 x 112 of white with 56 rows of black on either side
    prepared = longest_side_padded(torch.ones(1, 3, 20, 40), 224)[0]
    black, white = -torch.tensor([0.48145466 / 0.26862954]), torch.tensor([(1 - 0.48145466) / 0.26862954])
    assert prepared.shape == (3, 224, 224)
    torch.testing.assert_close(prepared[0, [0, 55, 168, 223], 100], black.expand(4))
    torch.testing.assert_close(prepared[0, [56, 110, 167], 100], white.expand(3))


@pytest.mark.parametrize(
    "prompt",
    [
        *PROMPTS.values(),
        "word " * 100,
        "x " * 75,
        "x " * 74,
        "l’été “quoted” text…",
        "&lt;b&gt; &amp; \u00a0 Ｆｕｌｌ ﬂow it´s",
        "1234567 and 3.14",
        "don't can't I'LL we've",
        "\N{FAMILY} \N{CAT FACE}\N{VARIATION SELECTOR-16} ß İ ǅ ñ n\u0303",
        "Ω \u212b snow\u200bman   \t \r\n end",
    ],
)
def test_tokens_are_open_clips(prompt: str) -> None:
    expected = reference.Bpe(VOCABULARY)(prompt)
    assert ClipTokens("hps", limit=77, repair=True).ids(prompt) == expected
    assert len(expected) <= 77


def test_heads_are_those_of_the_published_model() -> None:
    assert [heads(1280, 80, ""), heads(1024, 64, ""), heads(160, 80, ""), heads(32, 64, "")] == [16, 16, 2, 1]
    with pytest.raises(UserError, match="width 1024 is no multiple of a head's 80"):
        heads(1024, 80, "reward 'hps'")


def test_a_file_with_other_weights_is_refused(reward_files: RewardFiles, tmp_path: Path) -> None:
    bad = changed(reward_files.hps, tmp_path, **{"ln_final.bias": None})
    with pytest.raises(
        UserError, match=r"not the weights of reward 'hps' \(other.pt\).*lacks text_model.final_layer_n"
    ):
        hps(bad).load(torch.device("cpu"))
    bad = changed(reward_files.hps, tmp_path, **{"visual.extra": torch.zeros(1)})
    with pytest.raises(UserError, match=r"the file has visual.extra too many; give the published file"):
        hps(bad).load(torch.device("cpu"))
    bad = changed(reward_files.hps, tmp_path, **{"visual.proj": torch.zeros(160, 8)})
    with pytest.raises(UserError, match=r"visual_projection.weight in the shape \(8, 160\) instead of \(32, 160\)"):
        hps(bad).load(torch.device("cpu"))
    with pytest.raises(UserError, match=r"not the weights of reward 'hps'.*'visual.conv1.weight' is missing"):
        hps(reward_files.image_reward).load(torch.device("cpu"))


def test_names_as_a_parallel_training_writes_them_are_read(reward_files: RewardFiles, tmp_path: Path) -> None:
    # given the same weights under `module.`, with the constant that old versions of open_clip saved, and no wrapper
    state = torch.load(reward_files.hps, weights_only=True)["state_dict"]
    other = {f"module.{name}": value for name, value in state.items()} | {"module.attn_mask": torch.zeros(77, 77)}
    torch.save(other, tmp_path / "module.pt")
    pixels, prompts = torch.rand(2, 3, 8, 8, generator=torch.Generator().manual_seed(0)), ["a cat", "a dog"]
    scores = score(hps(tmp_path / "module.pt"), pixels, prompts)
    np.testing.assert_array_equal(scores, score(hps(reward_files.hps), pixels, prompts))


def test_weights_in_half_precision_are_used_in_single(reward_files: RewardFiles) -> None:
    model = load_open_clip(read_tensors(reward_files.hps), "a test")
    assert {weight.dtype for weight in model.parameters()} == {torch.float32}
    assert not any(weight.requires_grad for weight in model.parameters())


def test_it_trains(make: Make, reward_files: RewardFiles, results: Path) -> None:
    config = make(reward={"name": "hps", "hps": {"path": str(reward_files.hps)}}, budget={"iterations": 1.0})
    outcome = run(config, results)
    rows = outcome.store.rows()
    assert outcome.record.status == "done"
    assert [-1 < row["reward/hps"] < 1 and row["reward/hps"] == row["proxy"] for row in rows] == [True, True]
    assert rows[-1]["reward_calls"] == 4
    assert outcome.record.hashes["reward/hps/hps.pt"].startswith("unverified:")


@pytest.mark.slow
def test_other_weights_make_another_run(make: Make, reward_files: RewardFiles, results: Path, tmp_path: Path) -> None:
    path = tmp_path / "weights.pt"
    runs = []
    for seed in (0, 1):
        make_hps(path, seed)
        runs.append(run(make(reward={"name": "hps", "hps": {"path": str(path)}}, budget={"iterations": 1.0}), results))
    assert runs[0].record.run != runs[1].record.run
