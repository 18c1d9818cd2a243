"""Clips: latents of five axes, rewards of whole clips or of some frames, and what a run stores and shows of them.

`Tall` is the analytic workload's policy with its twelve numbers laid out as two frames: what it draws is the picture's
upper and lower half, one after the other. So a run of clips has known results: those of the run of pictures.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path

import numpy as np
import pytest
import torch
from golden_runs import golden_config
from running import Watcher, reproducible, run, same_images, same_points
from safetensors.torch import load_file
from torch import Tensor

from grpo_bench.analysis.panels import panels
from grpo_bench.config import RunConfig, build
from grpo_bench.errors import UserError
from grpo_bench.evaluation.compare import compare
from grpo_bench.evaluation.diversity import features, tripwires
from grpo_bench.evaluation.evaluator import to_bytes, to_images
from grpo_bench.evaluation.rescore import rescore, score_section
from grpo_bench.evaluation.scoring import Scoring, score
from grpo_bench.forest.schedule import Grid
from grpo_bench.media import as_shown, evenly
from grpo_bench.registry import POLICIES, REWARDS
from grpo_bench.reward import Reward, RewardConfig
from grpo_bench.store.images import load_images, save_images, stored_fps
from grpo_bench.store.run import RunStore, point_name
from grpo_bench.training.prepare import identify
from grpo_bench.training.run import stored_config
from grpo_bench.training.session import load_policy, open_session
from grpo_bench.workloads.gaussian.policy import GaussianPolicy

CPU = torch.device("cpu")
FRAMES, SIDE = 6, 8


class Tall(GaussianPolicy):
    """Latents (3, 2, 2, 1): a channel's upper row is the first frame, its lower row the second, each held thrice."""

    name = "tall"
    media = "clips"
    fps = 12.0

    @property
    def latent_shape(self) -> tuple[int, ...]:
        return 3, 2, 2, 1

    @torch.no_grad()
    def decode(self, latent_BZ: Tensor) -> Tensor:
        row_B3F2 = latent_BZ[..., 0]
        still_BF3HW = super().decode(row_B3F2.movedim(2, 1).flatten(0, 1)[..., None].expand(-1, -1, -1, 2))
        clip_BF3HW: Tensor = still_BF3HW.unflatten(0, (len(latent_BZ), 2)).repeat_interleave(FRAMES // 2, dim=1)
        return clip_BF3HW


class Whole(Reward[RewardConfig]):
    """The analytic workload's judge, of the picture whose halves a clip's frames are."""

    name = "whole"
    takes = "clips"
    range = REWARDS.get("gaussian").range

    def score(self, clips_BFCHW: Tensor, prompts: Sequence[str]) -> Tensor:
        upper_B3H, lower_B3H = clips_BFCHW[:, 0, :, :, 0], clips_BFCHW[:, FRAMES // 2, :, :, 0]
        row_B32H = torch.stack([upper_B3H, lower_B3H], 2)
        blocks_B322 = row_B32H[..., :: SIDE // 2]
        pictures = blocks_B322.repeat_interleave(SIDE // 2, 2).repeat_interleave(SIDE // 2, 3)
        return REWARDS.get("gaussian")(RewardConfig()).score(pictures, prompts)


class Rate(Reward[RewardConfig]):
    """How many seconds a clip is long."""

    name = "rate"
    takes = "clips"
    range = (0.0, 10.0)

    def score(self, clips_BFCHW: Tensor, prompts: Sequence[str]) -> Tensor:
        return torch.full((len(prompts),), clips_BFCHW.shape[1] / self.fps)


class Red(Reward[RewardConfig]):
    """How red pictures are, and how bright."""

    name = "red"
    range = (0.0, 1.0)

    def score(self, images_BCHW: Tensor, prompts: Sequence[str]) -> Tensor:
        assert images_BCHW.ndim == 4 and len(images_BCHW) == len(prompts) <= self.config.batch
        return images_BCHW[:, 0].mean((1, 2))

    def components(self, images_BCHW: Tensor, prompts: Sequence[str]) -> dict[str, Tensor]:
        return {"red-light": images_BCHW.mean((1, 2, 3))}


@pytest.fixture(autouse=True)
def registered(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """All can be chosen by name."""
    monkeypatch.setattr(POLICIES, "_plugins", {})
    monkeypatch.setattr(REWARDS, "_plugins", {})
    POLICIES.add("tall", lambda: Tall, origin=__file__)
    for kind in (Whole, Rate, Red):
        REWARDS.add(kind.name, lambda kind=kind: kind, origin=__file__)  # type: ignore[misc]
    yield


def config(method: str, scratch: Path, *, policy: str = "tall", reward: str = "whole", **over: object) -> RunConfig:
    golden = golden_config(f"gaussian/{method}", scratch).model_dump(exclude_none=True)
    chosen = {"model": {"policy": policy}, "reward": {"name": reward}, "seed": 3}
    return build([("golden", golden), ("chosen", chosen), ("over", over)])


def weights(store: RunStore) -> dict[str, Tensor]:
    checkpoint = store.checkpoints.latest()
    assert checkpoint is not None
    return load_file(next(checkpoint.path.glob("denoiser/*.safetensors")))


@pytest.fixture(scope="module")
def clips() -> Tensor:
    """(5, 6, 3, 8, 8), every frame another."""
    return torch.rand(5, FRAMES, 3, SIDE, SIDE, generator=torch.Generator().manual_seed(0))


# -- a run ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("method", ["flat", "tree", "branch-mix", "nft"])
def test_latents_of_five_axes_learn_what_their_numbers_as_pictures_do(method: str, tmp_path: Path) -> None:
    tall = run(config(method, tmp_path), tmp_path / "clips").store
    flat = run(config(method, tmp_path, policy="gaussian", reward="gaussian"), tmp_path / "pictures").store

    counted = ["nfe", "rollout_nfe", "train_nfe", "eval_nfe", "images", "decodes", "reward_calls", "updates"]
    assert reproducible(tall)[counted].equals(reproducible(flat)[counted])
    assert reproducible(tall)["proxy"].equals(reproducible(flat)["proxy"])
    mine, theirs = weights(tall), weights(flat)
    assert all(torch.equal(mine[name], theirs[name]) for name in theirs) and mine["bias"].any()


def test_a_resumed_run_of_clips_is_the_uninterrupted_one(tmp_path: Path) -> None:
    wanted = config("tree", tmp_path)
    whole = run(wanted, tmp_path / "whole").store
    run(wanted, tmp_path / "parts", Watcher(stop_after=1))
    again = run(wanted, tmp_path / "parts").store

    same_points(whole, again)
    same_images(whole, again)


def test_a_run_stores_every_frame_and_its_rate(tmp_path: Path) -> None:
    store = run(config("flat", tmp_path), tmp_path / "runs").store
    stored = store.load_images(point_name(0))

    assert stored.shape == (4, FRAMES, SIDE, SIDE, 3) and stored_fps(store.images / point_name(0)) == 12.0
    assert (stored[:, 0] == stored[:, 2]).all() and (stored[:, 0] != stored[:, 3]).any()
    reward = Whole(RewardConfig())
    prompts = [prompt for prompt in store.load_prompts() for _ in range(2)]
    said = float(score(reward, to_images(stored, CPU), prompts).mean())
    assert said == pytest.approx(reproducible(store)["reward/whole"][0], abs=1e-12)


def test_pages_show_frames_of_a_clip_side_by_side(tmp_path: Path) -> None:
    store = run(config("flat", tmp_path), tmp_path / "runs").store
    stored, (first, *_) = store.load_images(point_name(0)), panels(store.folder)

    assert first.images_PIHWC.shape == (2, 2, SIDE, 4 * SIDE, 3)
    for place, frame in enumerate((0, 2, 3, 5)):
        columns = slice(place * SIDE, (place + 1) * SIDE)
        np.testing.assert_array_equal(first.images_PIHWC[1, 0, :, columns], stored[2, frame])
    wanted = stored_config(store)
    policy = load_policy(wanted, CPU)
    base, trained = compare(store, wanted, policy, tuple(store.load_prompts()), images=2, seed=0)
    np.testing.assert_array_equal(base, first.images_PIHWC)
    assert trained.shape == base.shape and (trained != base).any()


# -- rewards -------------------------------------------------------------------------------------------------------


def test_a_reward_of_pictures_sees_some_frames_and_their_mean_counts(clips: Tensor) -> None:
    frames_B = clips[:, [0, 2, 3, 5]]
    judged = Red(RewardConfig()).judge(clips, ["a"] * 5, components=True)

    torch.testing.assert_close(judged["red"], frames_B[:, :, 0].mean((1, 2, 3)))
    torch.testing.assert_close(judged["red-light"], frames_B.mean((1, 2, 3, 4)))
    torch.testing.assert_close(Red(RewardConfig(frames=1)).judge(clips, ["a"] * 5)["red"], clips[:, 3, 0].mean((1, 2)))
    every = Red(RewardConfig(frames=100)).judge(clips, ["a"] * 5)["red"]
    torch.testing.assert_close(every, clips[:, :, 0].mean((1, 2, 3)))


@pytest.mark.parametrize("batch", [1, 4, 9, 64])
def test_a_batch_counts_the_frames_that_a_reward_is_shown(batch: int, clips: Tensor) -> None:
    """`Red` asserts that it gets no more images than `batch`, but of one clip, which is never cut."""
    reward = Red(RewardConfig(batch=max(batch, 4)))
    scoring = Scoring({"red": reward}, ["a"] * 5)
    for chunk in clips.split(2):
        scoring.add(chunk)

    np.testing.assert_allclose(scoring.done()["red"], clips[:, [0, 2, 3, 5], 0].mean((1, 2, 3)), rtol=1e-6)


def test_scores_of_clips_keep_their_gradient(clips: Tensor) -> None:
    wanted = clips.clone().requires_grad_()
    Red(RewardConfig()).score_media(wanted, ["a"] * 5).sum().backward()

    assert wanted.grad is not None
    assert wanted.grad[:, [0, 2, 3, 5], 0].gt(0).all() and not wanted.grad[:, [1, 4]].any()


def test_stored_clips_are_scored_later_as_the_run_would_have(tmp_path: Path) -> None:
    during = run(config("flat", tmp_path, reward="whole:0.5,rate:0.25,red:0.25"), tmp_path / "during").store
    wanted = config("flat", tmp_path)
    later = run(wanted, tmp_path / "later").store
    names, section = score_section("rate,red", {})
    rescore(later, wanted, names, section, CPU)

    rows = later.held_out([0])
    assert rows[0]["heldout/rate"] == FRAMES / 12.0 == reproducible(during)["reward/rate"][0]
    assert rows[0]["heldout/red"] == pytest.approx(reproducible(during)["reward/red"][0], abs=1e-6)


# -- what does not fit ---------------------------------------------------------------------------------------------


def test_a_reward_of_clips_is_refused_to_a_model_of_pictures(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="'whole' takes clips, and policy 'gaussian' draws pictures"):
        identify(config("flat", tmp_path, policy="gaussian"))
    wanted = config("flat", tmp_path, policy="gaussian", reward="gaussian")
    store = run(wanted, tmp_path / "runs").store
    with pytest.raises(UserError, match=f"'rate' takes clips, and {store.folder.name} holds pictures"):
        rescore(store, wanted, *score_section("rate", {}), CPU)
    with pytest.raises(UserError, match="'rate' takes clips"):
        Rate(RewardConfig()).judge(torch.zeros(1, 3, 8, 8), ["a"])


@pytest.mark.parametrize(("policy", "reward"), [("gaussian", "red"), ("tall", "whole")])
def test_frames_that_nobody_picks_are_not_counted(policy: str, reward: str, tmp_path: Path) -> None:
    with pytest.raises(UserError, match=f"reward.{reward}.frames = 2"):
        identify(
            build(
                [
                    ("all", config("flat", tmp_path, policy=policy, reward=reward).model_dump(exclude_none=True)),
                    ("frames", {"reward": {reward: {"frames": 2}}}),
                ]
            )
        )


def test_damaged_clips_are_refused(tmp_path: Path) -> None:
    path = save_images(tmp_path, "000000", np.zeros((3, FRAMES, 4, 4, 3), np.uint8), 2, 8.0)
    index = path / "index.json"
    for old, new in (('"frames": 6', '"frames": 5'), ('"frames": 6', '"frames": "no"'), ('"count": 18', '"count": 17')):
        whole = index.read_text()
        index.write_text(whole.replace(old, new))
        with pytest.raises(UserError, match="damaged"):
            load_images(path)
        index.write_text(whole)
    assert load_images(path).shape == (3, FRAMES, 4, 4, 3)


class Rateless(Tall):
    """Clips at no rate."""

    name = "rateless"
    fps = 0.0


def test_clips_without_a_rate_are_refused(tmp_path: Path) -> None:
    POLICIES.add("rateless", lambda: Rateless, origin=__file__)
    with pytest.raises(UserError, match=r"'rateless' says that it draws clips at fps = 0, and decodes to shape \(4, 6"):
        run(config("flat", tmp_path, policy="rateless"), tmp_path / "runs")


class Coarse(Tall):
    """A policy whose grid has a step less than it was asked for."""

    name = "coarse"

    def grid(self, steps: int) -> Grid:
        return super().grid(steps - 1)


def test_a_grid_of_another_number_of_steps_is_refused(tmp_path: Path) -> None:
    POLICIES.add("coarse", lambda: Coarse, origin=__file__)
    with pytest.raises(UserError, match="'coarse' gave a grid of 6 points for 6 steps, which have 7"):
        open_session(identify(config("flat", tmp_path, policy="coarse")))


# -- helpers -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("frames", "count", "places"),
    [(9, 4, [1, 3, 5, 7]), (6, 4, [0, 2, 3, 5]), (81, 1, [40]), (2, 4, [0, 1]), (5, 5, [0, 1, 2, 3, 4])],
)
def test_frames_are_spread_evenly(frames: int, count: int, places: list[int]) -> None:
    assert evenly(frames, count) == places


def test_clips_survive_being_rounded_stored_and_shown(clips: Tensor, tmp_path: Path) -> None:
    pixels = to_bytes(clips)
    path = save_images(tmp_path, "000000", pixels, 2, 8.0)

    np.testing.assert_array_equal(load_images(path), pixels)
    np.testing.assert_array_equal(to_bytes(to_images(pixels, CPU)), pixels)
    np.testing.assert_array_equal(as_shown(pixels[:, 0]), pixels[:, 0])
    torch.testing.assert_close(to_images(pixels, CPU), clips, rtol=0, atol=0.5 / 255 + 1e-6)


def test_still_clips_differ_as_their_picture_does(clips: Tensor) -> None:
    pictures = to_bytes(clips[:, 0])
    still = np.repeat(pictures[:, None], FRAMES, axis=1)

    assert tripwires(still) == pytest.approx(tripwires(pictures))
    np.testing.assert_array_equal(features(still), np.tile(features(pictures), FRAMES))
