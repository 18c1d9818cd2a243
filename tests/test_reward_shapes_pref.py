"""`shapes-pref`: the shipped proxy, read by the code that reads HPS, prefers what suits a caption."""

from __future__ import annotations

import hashlib
import json
import time
from pathlib import Path

import numpy as np
import pytest
import torch
from running import cli_here
from torch import Tensor

from grpo_bench.config import RewardSection
from grpo_bench.errors import UserError
from grpo_bench.evaluation.scoring import Rewards, make_rewards
from grpo_bench.rewarding import ClipJudge
from grpo_bench.rewarding.openclip import rename
from grpo_bench.store.reader import read_runs
from grpo_bench.workloads.pretraining.parts import make_tokenizer
from grpo_bench.workloads.shapes.preference import MODEL, TOKENIZER, WEIGHTS, autoencoder, pretrain
from grpo_bench.workloads.shapes.preference_fitting import (
    embed_images,
    embed_texts,
    make_model,
    published_layout,
    tokens_of,
)
from grpo_bench.workloads.shapes.preference_pairs import CONTENT, LOOKS, SCENES, Pairs, autoencoded, draw_pairs
from grpo_bench.workloads.shapes.render import render_ideal
from grpo_bench.workloads.shapes.scenes import WORDS, caption, parse
from grpo_bench_rewards.shapes_pref import ShapesPrefReward


def made(**settings: object) -> ShapesPrefReward:
    found: Rewards = make_rewards(["shapes-pref"], RewardSection.model_validate({"shapes-pref": settings}))
    reward = found["shapes-pref"]
    assert isinstance(reward, ShapesPrefReward)
    return reward


@pytest.fixture(scope="module")
def reward() -> ShapesPrefReward:
    return made()


@pytest.fixture(scope="module")
def held_out() -> Pairs:
    """Pairs that no training has seen: another seed than the card's, held-out captions."""
    decode = autoencoded(autoencoder(), torch.Generator().manual_seed(5))
    return draw_pairs(512, "heldout", np.random.default_rng(5), decode)


def scores(reward: ShapesPrefReward, pixels: Tensor, prompts: list[str]) -> Tensor:
    return reward.judge(pixels.float() / 255, prompts)["shapes-pref"]


def test_it_prefers_the_better_of_held_out_pairs(reward: ShapesPrefReward, held_out: Pairs) -> None:
    prompts = [caption(SCENES[index]) for index in held_out.asked]
    right = (scores(reward, held_out.better, prompts) > scores(reward, held_out.worse, prompts)).numpy()
    assert right.mean() >= 0.95
    for kind in ("colour", "missing", "extra", "other", "noise", "blur", "pale", "plain"):
        assert right[held_out.kind == kind].mean() >= 0.9, kind


def test_another_caption_scores_lower(reward: ShapesPrefReward) -> None:
    texts = ["a red circle left of a blue square", "a green triangle", "a cyan square above a purple circle"]
    pictures = torch.from_numpy(render_ideal([parse(text) for text in texts]))
    table = torch.stack([reward.judge(pictures, [text] * 3)["shapes-pref"] for text in texts])
    assert table.argmax(1).tolist() == table.argmax(0).tolist() == [0, 1, 2]


def test_it_is_read_by_the_code_that_reads_hps(reward: ShapesPrefReward) -> None:
    pictures = torch.rand(3, 3, 32, 32, generator=torch.Generator().manual_seed(0))
    prompts = ["a red circle", "a blue square above a red circle", "a zebra"]
    hps = ClipJudge.open_clip(MODEL / WEIGHTS, "hps", tokenizer=MODEL / TOKENIZER)
    assert torch.equal(reward.judge(pictures, prompts)["shapes-pref"], hps.cosine(pictures, prompts))


def test_the_layout_is_the_inverse_of_how_hps_is_read() -> None:
    torch.manual_seed(0)
    state = make_model(make_tokenizer(WORDS)).state_dict()
    read = rename(published_layout(state))
    assert set(read) == set(state)
    assert all(torch.equal(read[name], value) for name, value in state.items())


def test_the_reward_is_the_cosine_that_was_trained(tmp_path: Path) -> None:
    # given a model of two steps, when the reward reads its file, then it gives the training code's own cosines
    pretrain(tmp_path / "model", steps=2)
    reward, tokenizer = made(path=str(tmp_path / "model")), make_tokenizer(WORDS)
    model = make_model(tokenizer).eval()
    state = torch.load(tmp_path / "model" / WEIGHTS, weights_only=True)["state_dict"]
    model.load_state_dict(rename({name: value.float() for name, value in state.items()}))
    pixels = torch.randint(256, (4, 3, 32, 32), dtype=torch.uint8, generator=torch.Generator().manual_seed(0))
    prompts = ["a red circle", "a green square", "a red circle left of a green square", "a cyan triangle"]
    with torch.inference_mode():
        expected = (embed_texts(model, tokens_of(tokenizer, prompts)) * embed_images(model, pixels)).sum(-1)
    torch.testing.assert_close(scores(reward, pixels, prompts), expected, rtol=0, atol=1e-5)


def test_scores_do_not_depend_on_the_batch_and_stay_in_range(reward: ShapesPrefReward, held_out: Pairs) -> None:
    prompts = [caption(SCENES[index]) for index in held_out.asked[:24]]
    together = scores(reward, held_out.better[:24], prompts)
    alone = torch.cat([scores(reward, held_out.better[i : i + 1], prompts[i : i + 1]) for i in range(24)])
    torch.testing.assert_close(together, alone, rtol=0, atol=1e-5)
    assert torch.equal(together, scores(reward, held_out.better[:24], prompts))
    assert together.abs().max() <= 1
    assert together.dtype == torch.float32


def test_larger_pictures_are_resized_as_hps_does(reward: ShapesPrefReward) -> None:
    texts = ["a red circle", "a blue square"]
    small = torch.from_numpy(render_ideal([parse(text) for text in texts]))
    large = torch.nn.functional.interpolate(small, size=(64, 64), mode="nearest")
    score = reward.judge(large, texts)["shapes-pref"]
    assert score.shape == (2,)
    torch.testing.assert_close(score, reward.judge(small, texts)["shapes-pref"], rtol=0, atol=0.15)


def test_it_is_quick_enough_for_a_laptop(reward: ShapesPrefReward) -> None:
    pictures = torch.rand(64, 3, 64, 64, generator=torch.Generator().manual_seed(0))
    prompts = ["a red circle left of a blue square"] * 64
    reward.judge(pictures, prompts)
    spent = []
    for _ in range(3):
        begin = time.process_time()
        reward.judge(pictures, prompts)
        spent.append(time.process_time() - begin)
    assert min(spent) < 0.2  # seconds of one core; a tenth of that as measured


@pytest.mark.slow
def test_a_run_on_it_has_a_proxy_and_a_gold(tmp_path: Path) -> None:
    flags = (
        "--method flat --reward shapes-pref --budget iterations=1 --quiet --set method.group=2 --set training.prompts=2"
    )
    small = "--set evaluation.prompts=2 --set evaluation.images=1 --set sampling.steps=3"
    done = cli_here("run", *flags.split(), *small.split(), "--results", str(tmp_path))
    assert done.returncode == 0, done.stderr
    runs = read_runs(tmp_path)
    points, record = runs.points, runs.records[0]
    assert not record.gold_is_proxy
    assert (points["proxy"] == points["reward/shapes-pref"]).all()
    assert (points["gold"] == points["reward/shapes"]).all()
    assert (points["proxy"] != points["gold"]).all()
    digest = hashlib.sha256((MODEL / WEIGHTS).read_bytes()).hexdigest()
    assert any(digest in value for value in record.hashes.values())


def test_a_folder_that_is_none_is_refused(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="pretrain shapes-pref"):
        made(path=str(tmp_path)).files()


def test_the_card_promises_what_a_proxy_needs() -> None:
    card = json.loads((MODEL / "card.json").read_text(encoding="utf-8"))
    assert card["accuracy"] >= 0.95
    assert set(card["by_kind"]) == {*CONTENT, *LOOKS}
    assert min(card["by_kind"].values()) >= 0.9
