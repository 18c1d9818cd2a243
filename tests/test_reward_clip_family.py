"""pickscore, clip and aesthetic: what their authors' own snippets give, with transformers' processor and model."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import reward_reference as reference
import torch
from reward_checkpoints import PROMPTS, RewardFiles, images, make_aesthetic
from running import Make, arguments, cli_here, run, settings, write_prompts
from transformers import CLIPImageProcessorPil, CLIPModel, CLIPTokenizer

from grpo_bench.config import RewardSection
from grpo_bench.errors import UserError
from grpo_bench.evaluation.scoring import Rewards, make_rewards, score
from grpo_bench.rewarding.tokens import clip_tokenizer

NAMES = ["pickscore", "clip", "aesthetic"]


def rewards(files: RewardFiles, **over: dict[str, object]) -> Rewards:
    tables = {name: {**files.settings[name], **over.get(name, {})} for name in NAMES}
    return make_rewards(NAMES, RewardSection.model_validate(tables))


def features(files: RewardFiles, image: str) -> tuple[torch.Tensor, torch.Tensor, float]:
    """Unit features of one image (1, D) and of all prompts (B, D), and the scale, by transformers alone."""
    model = CLIPModel.from_pretrained(files.clip).eval()
    tokenizer: CLIPTokenizer = clip_tokenizer()
    pixels = CLIPImageProcessorPil()(images=images()[image], return_tensors="pt")["pixel_values"]
    tokens = tokenizer(
        list(PROMPTS.values()), padding="max_length", truncation=True, max_length=77, return_tensors="pt"
    )
    with torch.no_grad():
        seen = model.get_image_features(pixel_values=pixels).pooler_output
        said = model.get_text_features(input_ids=tokens["input_ids"]).pooler_output
        return (
            torch.nn.functional.normalize(seen, dim=-1),
            torch.nn.functional.normalize(said, dim=-1),
            float(model.logit_scale.exp()),
        )


@pytest.mark.parametrize("image", images())
def test_clip_and_pickscore_are_the_cards_snippet(image: str, reward_files: RewardFiles) -> None:
    # given the cosine and, for PickScore, its scale, as the model's card computes them
    seen, said, scale = features(reward_files, image)
    cosine = (said @ seen.T)[:, 0].numpy()

    # then the rewards are these
    pixels = reference.floats(images()[image]).expand(len(PROMPTS), -1, -1, -1)
    made = rewards(reward_files)
    np.testing.assert_allclose(score(made["clip"], pixels, list(PROMPTS.values())), cosine, atol=1e-6)
    np.testing.assert_allclose(score(made["pickscore"], pixels, list(PROMPTS.values())), scale * cosine, atol=1e-5)
    assert scale == pytest.approx(np.exp(3))


@pytest.mark.parametrize("image", ["square", "exact", "tiny", "grey"])
def test_aesthetic_is_the_head_on_unit_features(image: str, reward_files: RewardFiles) -> None:
    # given the head's five layers by hand on transformers' features
    value = features(reward_files, image)[0][0]
    head = reference.read(reward_files.aesthetic)
    for layer in (0, 2, 4, 6, 7):
        value = reference.linear(value, head, f"layers.{layer}")

    pixels = reference.floats(images()[image])[None]
    np.testing.assert_allclose(score(rewards(reward_files)["aesthetic"], pixels, ["any"]), value, atol=1e-6)


@pytest.mark.parametrize("name", NAMES)
def test_a_batch_is_scored_as_its_images_alone(name: str, reward_files: RewardFiles) -> None:
    reward = rewards(reward_files, **{name: {"batch": 3}})[name]
    pixels = torch.rand(7, 3, 40, 30, generator=torch.Generator().manual_seed(0))
    prompts = [list(PROMPTS.values())[i % len(PROMPTS)] for i in range(7)]
    alone = [score(reward, pixels[i : i + 1], prompts[i : i + 1])[0] for i in range(7)]
    np.testing.assert_allclose(score(reward, pixels, prompts), alone, atol=1e-5, rtol=1e-6)


def test_a_prompts_features_do_not_depend_on_its_company(reward_files: RewardFiles) -> None:
    # given one prompt scored among others, and by a fresh reward alone: a resumed run must see the same bits
    pixels = torch.rand(1, 3, 8, 8, generator=torch.Generator().manual_seed(0)).expand(3, -1, -1, -1)
    reward = rewards(reward_files)["clip"]
    score(reward, pixels, ["a cat", "a very long prompt about a dog", "x"])
    fresh = rewards(reward_files)["clip"]
    assert score(reward, pixels[:1], ["a cat"]) == score(fresh, pixels[:1], ["a cat"])


def test_a_folder_that_is_none_is_refused(reward_files: RewardFiles, tmp_path: Path) -> None:
    (tmp_path / "config.json").write_text("{}", encoding="utf-8")
    made = rewards(reward_files, clip={"path": str(tmp_path)}, pickscore={"path": str(tmp_path / "none")})
    with pytest.raises(UserError, match=r"reward\.clip\.path = .* has no model\.safetensors; give a folder with the f"):
        made["clip"].files()
    with pytest.raises(UserError, match=r"reward\.pickscore\.path = .* has no config\.json"):
        made["pickscore"].files()


def test_a_head_for_another_clip_is_refused(reward_files: RewardFiles, tmp_path: Path) -> None:
    path = make_aesthetic(tmp_path / "wide.pth", width=768)
    reward = rewards(reward_files, aesthetic={"path": str(path)})["aesthetic"]
    with pytest.raises(
        UserError, match=r"head of reward 'aesthetic' reads 768 numbers, but the features of its CLIP are 32"
    ):
        reward.load(torch.device("cpu"))


def test_several_train_together(make: Make, reward_files: RewardFiles, results: Path) -> None:
    # given two rewards with weights, as a user types them
    section = {"name": "hps:0.8,clip:0.2", **{name: reward_files.settings[name] for name in ("hps", "clip")}}
    outcome = run(make(reward=section, budget={"iterations": 1.0}), results)

    # then both are stored, and their weighted sum
    assert outcome.record.status == "done"
    for row in outcome.store.rows():
        assert row["proxy"] == pytest.approx(0.8 * row["reward/hps"] + 0.2 * row["reward/clip"])
    assert {f"reward/{name}" for name in ("hps/hps.pt", "clip/model.safetensors")} <= set(outcome.record.hashes)


def test_the_users_own_command(tiny_model: Path, tmp_path: Path, reward_files: RewardFiles) -> None:
    # given the small run's settings, and HPS named as the README does
    table = settings(tiny_model, write_prompts(tmp_path))
    for key in ("budget", "method", "reward"):
        del table[key]
    done = cli_here(
        "run", "--method", "tree", "--reward", "hps", "--set", f"reward.hps.path={reward_files.hps}",
        "--set", "method.branching=2", "--set", "method.window=2", "--budget", "iterations=2", "--quiet",
        *arguments(table),
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    assert '"status": "done"' in done.stdout
