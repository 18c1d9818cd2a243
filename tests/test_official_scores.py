"""The native rewards give the official packages' scores: those that record_official_rewards.py recorded."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING

import pytest
from record_official_rewards import FIXTURE, make, scores
from reward_checkpoints import PROMPTS, images

if TYPE_CHECKING:
    from reward_checkpoints import RewardFiles

RECORDED = json.loads(FIXTURE.read_text(encoding="utf-8"))


@pytest.mark.parametrize("name", ["hps", "image-reward"])
def test_native_scores_are_the_recorded_official_ones(name: str, reward_files: RewardFiles) -> None:
    # given what the package said of every image (square, wide, tall, tiny, grey, transparent) with every prompt (long,
    # unicode, empty ...)
    official = RECORDED[name]["scores"]
    assert set(official) == set(images()) and all(set(row) == set(PROMPTS) for row in official.values())

    # when the native backend scores the same checkpoint
    native = scores(make(name, "native", reward_files))

    # then they agree: absolutely for a cosine, relatively where scores are larger than 1; to 1e-6 on the processor they
    # were recorded on, to 1.5e-6 on another maker's, whose kernels round otherwise
    assert native.keys() == official.keys()
    for image, row in official.items():
        assert native[image] == pytest.approx(row, rel=3e-6, abs=3e-6), image


@pytest.mark.parametrize("name", ["hps", "image-reward"])
def test_the_recorded_scores_tell_images_and_prompts_apart(name: str) -> None:
    # given the recorded table, of which agreement would mean nothing if all of it were one number
    rows = [list(row.values()) for row in RECORDED[name]["scores"].values()]

    # then every image and every prompt changes the score by far more than 1e-6
    assert all(max(row) - min(row) > 1e-2 for row in rows)
    assert all(max(column) - min(column) > 1e-2 for column in zip(*rows, strict=True))
