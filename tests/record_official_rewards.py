"""Records what the official packages say of tiny checkpoints, for the native backends to be held against.

    grpo-bench rewards install hps && grpo-bench rewards install image-reward
    python tests/record_official_rewards.py

Writes tests/fixtures/rewards/official.json. Checkpoints and images come from seeds (reward_checkpoints.py), so that the
file holds numbers only. The packages read RGB images of 8 bits here, as the worker hands them on: a grey or transparent
image is converted before, as a decoder's output would be (ImageReward itself would resize a transparent one first).
"""

from __future__ import annotations

import argparse
import json
import os
import tempfile
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch
from PIL import Image
from reward_checkpoints import PROMPTS, RewardFiles, images

from grpo_bench.config import validated
from grpo_bench.isolated.environment import Environment, packages
from grpo_bench.registry import REWARDS
from grpo_bench.reward import Reward, RewardConfig

FIXTURE = Path(__file__).parent / "fixtures" / "rewards" / "official.json"
TELLING = ("hpsv2x", "image-reward", "torch", "torchvision", "transformers", "timm", "numpy", "pillow", "ftfy")
NOTE = (
    "CPU, fp32. hpsv2x resizes tensors with torchvision's default, which is antialias=True since 0.17: its scores "
    "depend on that. The packages were called for one image and one prompt at a time."
)


def make(name: str, backend: str, files: RewardFiles) -> Reward[RewardConfig]:
    """The reward of this name with the tiny checkpoint of `files`."""
    kind = REWARDS.get(name)
    return kind(validated(kind.Config, {**files.settings[name], "backend": backend}, f"reward.{name}"))


def batch(image: Image.Image, count: int) -> torch.Tensor:
    """The image `count` times, (count, 3, H, W) in [0, 1]."""
    pixels_HWC = torch.from_numpy(np.array(image)).float() / 255
    return pixels_HWC.permute(2, 0, 1).expand(count, -1, -1, -1)


def scores(reward: Reward[RewardConfig]) -> dict[str, dict[str, float]]:
    """The score of every image, by name, with every prompt, by name; all prompts of an image are one batch."""
    prompts = list(PROMPTS.values())
    table = {}
    for name, image in images().items():
        values = reward.judge(batch(image, len(prompts)), prompts)[reward.name].tolist()
        table[name] = dict(zip(PROMPTS, values, strict=True))
    return table


def versions(name: str) -> dict[str, str]:
    """Of what decides a score, in the environment of the reward."""
    environment = getattr(REWARDS.get(name), "environment", None)
    assert isinstance(environment, Environment)
    return {package: version for package, version in packages(name).items() if package in TELLING}


def record(names: Sequence[str] = ("hps", "image-reward")) -> dict[str, object]:
    """The fixture's content; needs the environments of these rewards."""
    os.environ["HF_HUB_OFFLINE"] = "1"
    with tempfile.TemporaryDirectory() as folder:
        files = RewardFiles(Path(folder))
        recorded = {
            name: {"packages": versions(name), "scores": scores(make(name, "official", files))} for name in names
        }
    return {"note": NOTE, **recorded}


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description="Record the official packages' scores of tiny checkpoints.")
    parser.add_argument("--output", type=Path, default=FIXTURE)
    output: Path = parser.parse_args().output
    output.parent.mkdir(parents=True, exist_ok=True)
    output.write_text(json.dumps(record(), indent=1) + "\n", encoding="utf-8")
