"""The tiny model of `shapes`: made again bit for bit, a real diffusers folder, and shipped as its card says."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch

from grpo_bench.errors import UserError
from grpo_bench.workloads.pretraining.folder import load, weights_sha256
from grpo_bench.workloads.pretraining.making import Card, pretrain
from grpo_bench.workloads.pretraining.parts import MAX_TOKENS, SHIFT, make_tokenizer
from grpo_bench.workloads.shapes.pretrain import DESIGN
from grpo_bench.workloads.shapes.scenes import SPLITS, WORDS, prompts
from grpo_bench.workloads.shapes.workload import MODEL


@pytest.fixture(scope="module", autouse=True)
def few_prompts() -> Iterator[None]:
    """Base scores over 4 held-out prompts: over all of them they take most of the time."""

    def fewer(split: str) -> tuple[str, ...]:
        return prompts(split)[:4] if split == "heldout" else prompts(split)

    with pytest.MonkeyPatch.context() as patched:
        patched.setattr("grpo_bench.workloads.shapes.pretrain.prompts", fewer)
        yield


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Card]:
    folder = tmp_path_factory.mktemp("pretrain") / "model"
    return folder, pretrain(DESIGN, folder, steps=2)


def card() -> dict[str, float | str]:
    read: dict[str, float | str] = json.loads((MODEL / "card.json").read_text(encoding="utf-8"))
    return read


def test_every_word_of_the_grammar_is_one_token() -> None:
    tokenizer = make_tokenizer(WORDS)
    for word in WORDS:
        assert tokenizer.tokenize(word) == [word + "</w>"]
    longest = max(len(tokenizer(text).input_ids) for split in SPLITS for text in prompts(split))
    assert longest == 10 <= MAX_TOKENS  # begin, "a red circle left of a blue square", end


def test_a_word_outside_the_grammar_becomes_known_tokens() -> None:
    tokenizer = make_tokenizer(WORDS)
    ids = tokenizer("a zebra, ärger").input_ids
    assert all(0 <= index < len(tokenizer) for index in ids)
    assert tokenizer.decode(ids, skip_special_tokens=True).replace(" ", "") == "azebra,ärger"


@pytest.mark.slow
def test_the_same_seed_makes_the_same_weights(made: tuple[Path, Card], tmp_path: Path) -> None:
    folder, first = made
    state = torch.random.get_rng_state()
    again = pretrain(DESIGN, tmp_path / "model", steps=2)
    assert again == first
    assert weights_sha256(folder) == first["sha256"]
    assert torch.equal(torch.random.get_rng_state(), state)  # nobody else's random numbers are disturbed


@pytest.mark.slow
def test_progress_counts_both_phases_to_their_end(tmp_path: Path) -> None:
    seen: list[tuple[str, int, int]] = []
    pretrain(DESIGN, tmp_path / "model", steps=1, vae_steps=2, progress=lambda *report: seen.append(report))
    assert seen == [("autoencoder", 1, 2), ("autoencoder", 2, 2), ("transformer", 1, 1)]


@pytest.mark.slow
def test_a_finished_folder_is_whole_and_nothing_lies_beside_it(made: tuple[Path, Card]) -> None:
    folder, result = made
    assert [path.name for path in folder.parent.iterdir()] == [folder.name]
    assert json.loads((folder / "card.json").read_text(encoding="utf-8")) == result
    assert str(result["sha256"]) in (folder / "README.md").read_text(encoding="utf-8")


def test_an_existing_folder_is_never_overwritten(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="remove it or name another"):
        pretrain(DESIGN, tmp_path, steps=1)


def test_no_steps_are_refused(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="at least one step"):
        pretrain(DESIGN, tmp_path / "model", steps=0)


@pytest.mark.slow
def test_a_few_steps_of_the_autoencoder_learn_something(tmp_path: Path, made: tuple[Path, Card]) -> None:
    result = pretrain(DESIGN, tmp_path / "model", steps=1, vae_steps=12)
    assert result["vae_steps"] == 12
    assert float(result["vae_mse"]) < 0.8 * float(made[1]["vae_mse"])


def test_the_shipped_model_is_small() -> None:
    files = [path for path in MODEL.rglob("*") if path.is_file()]
    assert sum(path.stat().st_size for path in files) <= 12e6


def test_the_shipped_weights_are_those_of_the_card() -> None:
    assert weights_sha256(MODEL) == card()["sha256"]
    assert str(card()["sha256"]) in (MODEL / "README.md").read_text(encoding="utf-8")


def test_the_shipped_model_s_base_scores_leave_room() -> None:
    assert 0.5 <= float(card()["correctness"]) <= 0.85
    assert 0.3 <= float(card()["appeal"]) <= 0.6
    assert float(card()["shapes"]) == pytest.approx(
        (float(card()["correctness"]) + float(card()["appeal"])) / 2, abs=1e-3
    )


def test_the_shipped_model_draws_pictures_through_diffusers_own_call() -> None:
    pipe = load(MODEL)
    pipe.set_progress_bar_config(disable=True)
    assert next(pipe.transformer.parameters()).dtype == torch.float32
    assert pipe.scheduler.config.shift == SHIFT
    images = pipe(
        "a red circle",
        num_inference_steps=10,
        height=32,
        width=32,
        max_sequence_length=0,
        guidance_scale=1.0,
        output_type="np",
        generator=torch.Generator().manual_seed(0),
    ).images
    assert images.shape == (1, 32, 32, 3)
    assert images.std() > 0.02  # not one flat colour
