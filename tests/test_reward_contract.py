"""What every reward promises, and how its weights are found: batches, one pass, declarations, files, and sentences."""

from __future__ import annotations

import dataclasses
import hashlib
import time
from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np
import pytest
import torch
from running import Make, cli_here, run, sentence

from grpo_bench.config import RewardSection
from grpo_bench.errors import UserError
from grpo_bench.evaluation.scoring import make_rewards, score, score_parts
from grpo_bench.registry import REWARDS
from grpo_bench.reward import Reward, RewardConfig, WeightsFile, human_size
from grpo_bench.rewarding.weights import find, find_folder, fingerprints, read_tensors

CONTENT = b"weights"
DIGEST = hashlib.sha256(CONTENT).hexdigest()
PUBLISHED = WeightsFile("somebody/model", "weights.pt", sha256=DIGEST, size=7)


class Mean(Reward[RewardConfig]):
    """The image's mean plus the prompt's length, and both as components; remembers the batches that it saw."""

    name = "mean"
    range = (0.0, float("inf"))
    weights = (PUBLISHED,)

    def __init__(self, batch: int = 64, path: Path | None = None) -> None:
        super().__init__(RewardConfig(batch=batch))
        self.seen: list[int] = []
        self._path = path

    def score(self, images_BCHW: torch.Tensor, prompts: Sequence[str]) -> torch.Tensor:
        return self.score_and_components(images_BCHW, prompts)[0]

    def score_and_components(
        self, images_BCHW: torch.Tensor, prompts: Sequence[str]
    ) -> tuple[torch.Tensor, Mapping[str, torch.Tensor]]:
        self.seen.append(len(prompts))
        mean_B, length_B = images_BCHW.mean((1, 2, 3)), torch.tensor([float(len(prompt)) for prompt in prompts])
        return mean_B + length_B, {"mean-image": mean_B, "mean-prompt": length_B}

    def files(self) -> tuple[Path, ...]:
        return () if self._path is None else (self._path,)


@pytest.fixture
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An empty cache of the hub."""
    folder = tmp_path / "hub"
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(folder))
    return folder


def publish(cache: Path, weights: WeightsFile, content: bytes = CONTENT) -> Path:
    """Put a file where the hub's client keeps it."""
    folder = cache / f"models--{weights.repo.replace('/', '--')}"
    path = folder / "snapshots" / ("0" * 40) / weights.file
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(content)
    (folder / "refs").mkdir(exist_ok=True)
    (folder / "refs" / "main").write_text("0" * 40)
    return path


@pytest.mark.parametrize(("batch", "seen"), [(64, [7]), (3, [3, 3, 1]), (7, [7]), (1, [1] * 7)])
def test_images_are_scored_in_batches_and_come_back_in_order(batch: int, seen: list[int]) -> None:
    images, prompts = torch.rand(7, 3, 4, 4, generator=torch.Generator().manual_seed(0)), ["x" * i for i in range(7)]
    reward = Mean(batch)
    np.testing.assert_allclose(score(reward, images, prompts), images.mean((1, 2, 3)) + torch.arange(7.0), rtol=1e-6)
    assert reward.seen == seen


def test_score_and_components_come_of_one_pass() -> None:
    reward = Mean(batch=2)
    parts = score_parts(reward, torch.ones(4, 3, 2, 2), ["", "a", "bb", "ccc"])
    assert {name: list(values) for name, values in parts.items()} == {
        "mean": [1, 2, 3, 4],
        "mean-image": [1, 1, 1, 1],
        "mean-prompt": [0, 1, 2, 3],
    }
    assert reward.seen == [2, 2]


def test_the_judge_of_shapes_looks_once(monkeypatch: pytest.MonkeyPatch) -> None:
    # given how often the pixels are read
    import grpo_bench_rewards.shapes as shapes

    looks, judged = [], shapes.judge
    monkeypatch.setattr(shapes, "judge", lambda *given: looks.append(1) or judged(*given))
    reward = make_rewards(["shapes"], RewardSection())["shapes"]
    images, prompts = torch.rand(3, 3, 32, 32, generator=torch.Generator().manual_seed(0)), ["a red circle"] * 3
    parts = score_parts(reward, images, prompts)
    assert len(looks) == 1
    np.testing.assert_array_equal(parts["shapes"], score(reward, images, prompts))
    np.testing.assert_allclose(parts["shapes"], (parts["shapes-correctness"] + parts["shapes-appeal"]) / 2, rtol=1e-6)


@pytest.mark.parametrize(("images", "prompts"), [(3, 2), (2, 3), (1, 2), (0, 1)])
def test_another_number_of_prompts_than_images_is_an_error(images: int, prompts: int) -> None:
    with pytest.raises(ValueError, match=f"{images} images need as many prompts, not {prompts}"):
        score(Mean(), torch.zeros(images, 3, 2, 2), ["a"] * prompts)


@pytest.mark.parametrize("name", REWARDS.names())
def test_every_reward_declares_what_it_is(name: str) -> None:
    kind = REWARDS.get(name)
    assert kind.range[0] < kind.range[1]
    assert kind.Config().batch >= 1
    if kind.weights:
        assert kind.licence and kind.resolution
        assert all("/" in weights.repo and weights.size > 0 for weights in kind.weights)
    facts = " ".join(kind.facts())
    assert "higher is better" in facts
    assert all(weights.file in facts and human_size(weights.size) in facts for weights in kind.weights)


def test_list_shows_what_rewards_declare() -> None:
    said = " ".join(cli_here("list", "rewards", "-v").stdout.split())
    for fact in ("range -1 to 1, higher is better", "sees 224 pixels a side, 77 tokens", "Apache-2.0, commercial use"):
        assert fact in said
    assert "range -1 to 1" not in cli_here("list", "rewards").stdout


@pytest.mark.parametrize(("size", "said"), [(1_972_490_005, "1.97 GB"), (3_714_759, "3.7 MB"), (4519, "4.5 kB")])
def test_sizes_are_said_for_people(size: int, said: str) -> None:
    assert human_size(size) == said


def test_a_given_file_is_taken_and_a_missing_one_named(tmp_path: Path) -> None:
    path = tmp_path / "weights.pt"
    path.write_bytes(b"others")
    assert find(PUBLISHED, "mean", given=str(path)) == path
    with pytest.raises(UserError, match=r"reward\.mean\.path = '.*none' is not a file; give the path of weights.pt"):
        find(PUBLISHED, "mean", given=str(tmp_path / "none"))


def test_a_file_in_the_hubs_cache_is_taken_if_it_is_the_published_one(cache: Path) -> None:
    path = publish(cache, PUBLISHED)
    assert find(PUBLISHED, "mean") == path
    assert find_folder((PUBLISHED,), "mean") == path.parent
    path.write_bytes(b"damaged")
    with pytest.raises(UserError, match=r"is not the published weights\.pt \(its sha256 differs\); fetch it anew"):
        find(PUBLISHED, "mean")


def test_a_file_that_the_cache_holds_under_a_repositorys_old_name_is_taken(cache: Path) -> None:
    path = publish(cache, WeightsFile("model", PUBLISHED.file))
    assert find(dataclasses.replace(PUBLISHED, aliases=("model",)), "mean") == path
    with pytest.raises(UserError, match=r"needs weights\.pt of somebody/model \(0\.0 kB\), which is not in"):
        find(PUBLISHED, "mean")


def test_weights_are_recorded_as_published_or_unverified(tmp_path: Path) -> None:
    path = tmp_path / "mine.pt"
    path.write_bytes(CONTENT)
    assert fingerprints(Mean(path=path)) == {"mine.pt": DIGEST}
    path.write_bytes(b"others")
    assert fingerprints(Mean(path=path)) == {"mine.pt": f"unverified:{hashlib.sha256(b'others').hexdigest()}"}
    assert fingerprints(Mean()) == {}


def test_nothing_is_unpickled_and_a_broken_file_is_named(tmp_path: Path) -> None:
    for content in ({"a": Path("x")}, {"state_dict": {}}, [1, 2]):
        torch.save(content, tmp_path / "odd.pt")
        with pytest.raises(UserError, match=r"odd\.pt (cannot be read as weights|holds no tensors by name)"):
            read_tensors(tmp_path / "odd.pt")
    for name in ("broken.pt", "broken.safetensors"):
        (tmp_path / name).write_bytes(b"no weights at all")
        with pytest.raises(UserError, match=rf"{name} cannot be read as weights \(.*\); fetch it anew"):
            read_tensors(tmp_path / name)


@pytest.mark.parametrize(
    ("reward", "file", "size", "value"),
    [
        ("hps", "HPS_v2.1_compressed.pt", "1.97 GB", "path=FILE"),
        ("image-reward", "ImageReward.pt", "1.79 GB", "path=FILE"),
        ("pickscore", "model.safetensors", "3.94 GB", "path=FOLDER"),
        ("aesthetic", r"sac\+logos\+ava1-l14-linearMSE.pth", "3.7 MB", "path=FILE"),
    ],
)
def test_weights_that_cannot_be_had_are_one_sentence_and_no_folder(
    make: Make, results: Path, cache: Path, reward: str, file: str, size: str, value: str
) -> None:
    # given no network and an empty cache, then the sentence names the file, its size, where to put it, and what works
    said = (
        rf"reward '{reward}' needs {file} of .*/.* \({size}\), which is not in the hub's cache \({cache}\).*; fetch it "
        rf"with `hf download .*{file} --local-dir FOLDER` .*--set reward\.{reward}\.{value}; "
        r"rewards that work offline: .*shapes"
    )
    with pytest.raises(UserError, match=said):
        run(make(reward={"name": reward}), results)
    assert not results.exists()


def test_the_command_says_so_at_once(tmp_path: Path, cache: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    # given a machine whose network is down, which nobody told the hub's client
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", False)
    monkeypatch.setattr("huggingface_hub.constants.ENDPOINT", "http://127.0.0.1:9")
    started = time.perf_counter()
    done = cli_here("run", "--method", "tree", "--reward", "hps", "--budget", "iterations=2")
    assert "HPS_v2.1_compressed.pt of xswu/HPSv2 (1.97 GB)" in sentence(done)
    assert time.perf_counter() - started < 10  # the client's own retries would take 23 s
    assert not list(tmp_path.iterdir())
