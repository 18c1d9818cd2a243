"""The learned proxy of `shapes`: pairs labelled by how they were drawn, a file made again bit for bit, and how good."""

from __future__ import annotations

import hashlib
import json
import subprocess
import sys
from dataclasses import asdict
from pathlib import Path

import numpy as np
import pytest
import torch

from grpo_bench.errors import UserError
from grpo_bench.workloads.shapes import preference_pairs
from grpo_bench.workloads.shapes.geometry import Floats
from grpo_bench.workloads.shapes.preference import MODEL, TOKENIZER, WEIGHTS, PreferenceResult, checkpoint, pretrain
from grpo_bench.workloads.shapes.preference_fitting import ANSWERS, preference_loss, scene_answers
from grpo_bench.workloads.shapes.preference_pairs import CONTENT, LOOKS, SCENES, Pairs, draw_pairs, spoilt_scenes
from grpo_bench.workloads.shapes.scenes import Scene, Thing, caption, prompts, split_of

RED, BLUE = Thing("red", "circle"), Thing("blue", "square")


def as_it_is(picture: Floats, noise: Floats) -> Floats:
    """An autoencoder without fault."""
    return picture


@pytest.fixture(scope="module")
def pairs() -> Pairs:
    return draw_pairs(1024, "train", np.random.default_rng(0), as_it_is)


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, PreferenceResult]:
    folder = tmp_path_factory.mktemp("pretrain") / "model"
    return folder, pretrain(folder, steps=2)


def card() -> dict[str, object]:
    read: dict[str, object] = json.loads((MODEL / "card.json").read_text(encoding="utf-8"))
    return read


@pytest.mark.slow
def test_pairs_never_meet_the_gold_judge() -> None:
    # in a process of its own: whatever else the tests import, these modules load no judge
    code = (
        "import sys, grpo_bench.workloads.shapes.preference as p; from pathlib import Path; import tempfile\n"
        "p.pretrain(Path(tempfile.mkdtemp()) / 'model', steps=1)\n"
        "raise SystemExit(any('judge' in name for name in sys.modules if name.startswith('grpo_bench')))"
    )
    assert subprocess.run([sys.executable, "-c", code], check=False, timeout=60).returncode == 0


def test_a_scene_is_spoilt_in_one_respect() -> None:
    spoilt = spoilt_scenes(Scene(RED, "left of", BLUE))

    assert set(spoilt["missing"]) == {Scene(BLUE)}  # "a red circle" is held out
    assert {scene.relation for scene in spoilt["relation"]} == {"right of", "above", "below"}
    assert all((scene.first, scene.second) == (RED, BLUE) for scene in spoilt["relation"])
    for scene in spoilt["colour"]:
        changed = [(old, new) for old, new in zip((RED, BLUE), scene.things, strict=True) if old != new]
        assert len(changed) == 1 and changed[0][0].shape == changed[0][1].shape
    for scene in spoilt["shape"]:
        changed = [(old, new) for old, new in zip((RED, BLUE), scene.things, strict=True) if old != new]
        assert len(changed) == 1 and changed[0][0].colour == changed[0][1].colour
    assert not spoilt["extra"]
    assert all(scene.first == RED and scene.second for scene in spoilt_scenes(Scene(RED))["extra"])


def test_no_spoilt_scene_shows_the_same_picture_or_a_withheld_pair() -> None:
    for scene in SCENES:
        for kind, others in spoilt_scenes(scene).items():
            assert kind in CONTENT
            assert all(other.canonical != scene.canonical for other in others)
            assert all(split_of(other) in ("train", split_of(scene)) for other in others)
            assert all(split_of(other) != "combinations" for other in others)


def test_pairs_are_of_every_kind_and_of_their_split_alone(pairs: Pairs) -> None:
    assert set(pairs.kind) == {*CONTENT, *LOOKS}
    assert np.isin(pairs.kind, CONTENT).mean() == pytest.approx(0.6, abs=0.05)  # 3.3 standard errors
    asked = [SCENES[index] for index in pairs.asked]
    assert {caption(scene) for scene in asked} <= set(prompts("train"))
    alone = [scene.second is None for scene in asked]
    assert np.mean(alone) == pytest.approx(0.2, abs=0.04)


def test_the_better_picture_is_the_caption_s_and_the_spoilt_one_is_made_from_it(pairs: Pairs) -> None:
    better, worse = pairs.better.float() / 255, pairs.worse.float() / 255
    faded = torch.from_numpy(pairs.kind == "pale")
    assert torch.all(worse[faded].var((1, 2, 3)) < better[faded].var((1, 2, 3)))
    blurred = torch.from_numpy(pairs.kind == "blur")
    steps = [picture.diff(dim=3).square().sum((1, 2, 3)) for picture in (better[blurred], worse[blurred])]
    assert torch.all(steps[1] < steps[0])
    flawless = torch.from_numpy(pairs.kind == "plain")
    assert torch.all((better[flawless] == 1).float().mean((1, 2, 3)) > 0.3)  # large, on white
    smeared = torch.from_numpy(pairs.kind == "smear")
    assert torch.equal(better[smeared], worse[smeared])  # the autoencoder of this test ignores its noise
    assert all((better[torch.from_numpy(pairs.kind == kind)] != worse[torch.from_numpy(pairs.kind == kind)]).any()
               for kind in (*CONTENT, "noise"))  # fmt: skip


def test_only_smeared_pictures_are_decoded_with_noise() -> None:
    seen: list[Floats] = []

    def watched(picture: Floats, noise: Floats) -> Floats:
        seen.append(noise)
        return picture

    pairs = draw_pairs(512, "heldout", np.random.default_rng(1), watched)
    better, worse = seen
    assert not better.any()
    assert (worse > 0).sum() == (pairs.kind == "smear").sum()
    assert worse.max() <= 1.0


def test_the_same_generator_draws_the_same_pairs() -> None:
    first, again = (draw_pairs(64, "train", np.random.default_rng(7), as_it_is) for _ in range(2))
    assert torch.equal(first.better, again.better) and torch.equal(first.worse, again.worse)
    assert list(first.kind) == list(again.kind)


def test_the_loss_is_hps_s_plus_half_of_clip_s() -> None:
    # two captions with orthogonal embeddings and perfect better pictures; the worse ones only spoilt, at cosine 0
    text, scenes = torch.eye(2, 3), torch.tensor([[0] * 5, [1] * 5]).repeat(2, 1)
    image = torch.cat([text, torch.tensor([[0.0, 0.0, 1.0]]).expand(2, 3)])
    loss = preference_loss(text.repeat(2, 1), image, scenes, torch.tensor(2.0))
    pair = np.log1p(np.exp(-2.0))  # -log softmax((2, 0)) at the first
    by_text = np.log1p(2 * np.exp(-2.0))  # against the other's better and worse picture; its own worse one is no rival
    by_image = np.log1p(np.exp(-2.0) + np.exp(-2.0))  # the other's caption stands there twice
    assert loss.item() == pytest.approx(pair + 0.5 * (by_text + by_image) / 2, rel=1e-6)


def test_a_picture_of_another_scene_has_a_caption_of_its_own() -> None:
    text = torch.eye(4)  # two asked scenes, and two others that the worse pictures show
    scenes = torch.arange(4)[:, None].expand(4, 5)
    loss = preference_loss(text, text, scenes, torch.tensor(1.0))
    contrast = np.log(np.e + 3) - 1  # each of four captions among four pictures
    assert loss.item() == pytest.approx(np.log1p(np.exp(-1.0)) + 0.5 * contrast, rel=1e-6)


def test_a_scene_s_answers_are_those_of_its_picture() -> None:
    answers = scene_answers()
    mirrored = [SCENES.index(Scene(RED, "below", BLUE)), SCENES.index(Scene(BLUE, "above", RED))]
    assert (
        answers[mirrored].tolist() == [[4, 1, 2, 1, 1]] * 2
    )  # blue square above red circle: one picture, two captions
    assert answers[SCENES.index(Scene(RED))].tolist() == [0, 0, 0, 0, 0]
    pictures = {tuple(row) for row in answers.tolist()}
    assert len(pictures) == len({scene.canonical for scene in SCENES})
    assert (answers.max(0).values + 1).tolist() == list(ANSWERS)


def test_a_few_steps_write_the_published_layout(made: tuple[Path, PreferenceResult]) -> None:
    folder, result = made
    read = torch.load(folder / WEIGHTS, weights_only=True)
    assert set(read) == {"state_dict"}
    state = read["state_dict"]
    assert all(value.dtype == torch.float16 and value.is_contiguous() for value in state.values())
    assert {"logit_scale", "text_projection", "positional_embedding", "token_embedding.weight", "visual.proj"} < set(
        state
    )
    width = state["visual.conv1.weight"].shape[0]
    assert state["visual.transformer.resblocks.0.attn.in_proj_weight"].shape == (3 * width, width)
    assert state["visual.proj"].shape[0] == width
    assert state["text_projection"].shape == (state["ln_final.weight"].shape[0], state["visual.proj"].shape[1])
    assert json.loads((folder / "card.json").read_text(encoding="utf-8")) == asdict(result)
    assert result.sha256 in (folder / "README.md").read_text(encoding="utf-8")
    assert (folder / TOKENIZER / "tokenizer.json").exists()
    assert [path.name for path in folder.parent.iterdir()] == [folder.name]


@pytest.mark.slow
def test_the_same_seed_makes_the_same_file(made: tuple[Path, PreferenceResult], tmp_path: Path) -> None:
    folder, first = made
    state = torch.random.get_rng_state()
    again = pretrain(tmp_path / "another-name", steps=2)
    assert again == first
    assert (tmp_path / "another-name" / WEIGHTS).read_bytes() == (folder / WEIGHTS).read_bytes()
    assert torch.equal(torch.random.get_rng_state(), state)  # nobody else's random numbers are disturbed
    assert pretrain(tmp_path / "other-seed", steps=2, seed=1).sha256 != first.sha256


def test_a_file_s_bytes_do_not_depend_on_where_it_lies() -> None:
    state = {"a": torch.arange(3.0)}
    assert checkpoint(state) == checkpoint({"a": torch.arange(3.0)})


def test_existing_folders_and_no_steps_are_refused(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="remove it or name another"):
        pretrain(tmp_path, steps=1)
    with pytest.raises(UserError, match="at least one step"):
        pretrain(tmp_path / "model", steps=0)


def test_the_shipped_file_is_that_of_the_card_and_small() -> None:
    data = (MODEL / WEIGHTS).read_bytes()
    assert hashlib.sha256(data).hexdigest() == card()["sha256"]
    assert str(card()["sha256"]) in (MODEL / "README.md").read_text(encoding="utf-8")
    assert sum(path.stat().st_size for path in MODEL.rglob("*") if path.is_file()) <= 8e6
    assert preference_pairs.__name__ in (MODEL / "README.md").read_text(encoding="utf-8")
