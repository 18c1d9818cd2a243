"""What a policy cuts of prompts is said, and no prompt that it cannot tell from a held-out one is trained on."""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st
from running import arguments, cli_here, sentence, settings
from tiny import CPU, policy, tokenizer
from tinysd import make_sd, sd_policy

from grpo_bench.config import ModelSection
from grpo_bench.errors import UserError
from grpo_bench.policies.base import Policy
from grpo_bench.policies.sd import SDPolicy
from grpo_bench.policies.sd3 import SD3Policy
from grpo_bench.policies.texts import Reading, Tokenizer, read
from grpo_bench.training.prompts import log, told_apart
from grpo_bench.workloads.gaussian.policy import GaussianDenoiser, GaussianPolicy

LONG = "this picture of a "
"""Fills the tiny policies' 16 tokens, of which each letter is one."""


@pytest.fixture(scope="module")
def sd3(tiny_model: Path) -> SD3Policy:
    return policy(tiny_model)


@pytest.fixture(scope="module")
def sd(tmp_path_factory: pytest.TempPathFactory) -> SDPolicy:
    return sd_policy(make_sd(tmp_path_factory.mktemp("sd")))


@pytest.fixture
def said(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """The warnings, as they come."""
    lines: list[str] = []
    monkeypatch.setattr(log, "warning", lambda text, *values: lines.append(text % values))
    return lines


def gaussian() -> GaussianPolicy:
    settings = ModelSection.model_validate({"policy": "gaussian", "height": 8, "width": 8, "max_sequence_length": 0})
    return GaussianPolicy(GaussianDenoiser(), settings, CPU)


def splits(train: Sequence[str], held_out: Sequence[str]) -> dict[str, tuple[str, ...]]:
    return {"train": tuple(train), "heldout": tuple(held_out)}


@pytest.mark.parametrize(
    ("trained", "held_out"),
    [
        ("a red cat", "A Red Cat"),
        ("a red  cat", "a red cat"),
        ("a red\ncat", "a red cat"),
        ("red, cat", "red ,cat"),
        ("caf\u00e9", "cafe\u0301"),
        ("\u00c9T\u00c9", "\u00e9t\u00e9"),
        (f"{LONG}cat", f"{LONG}dog"),
        (f"{LONG}cat", f"{LONG}"),
        (
            "\u00e4\u00f6\u00fc\u00e4\u00f6\u00fc\u00e4\u00f6 cat",
            "\u00e4\u00f6\u00fc\u00e4\u00f6\u00fc\u00e4\u00f6 dog",
        ),
    ],
)
@pytest.mark.parametrize("family", ["sd", "sd3"])
def test_what_a_model_cannot_tell_from_a_held_out_prompt_is_not_trained_on(
    request: pytest.FixtureRequest, said: list[str], family: str, trained: str, held_out: str
) -> None:
    loaded = request.getfixturevalue(family)

    assert told_apart(loaded, splits(["a fox", trained, "an owl"], ["a bear", held_out])) == ("a fox", "an owl")
    assert (
        f"1 of 3 training prompts are dropped: the model cannot tell {trained!r} from the held-out {held_out!r}"
        in said[-1]
    )


@pytest.mark.parametrize(
    ("trained", "held_out"),
    [
        ("a red cat", "a red car"),
        ("cat, red", "cat red"),
        ("a \U0001f600", "a \U0001f603"),
        (f"{LONG[:10]}cat", f"{LONG[:10]}"),
    ],
)
def test_prompts_that_a_model_tells_apart_stay(sd3: SD3Policy, said: list[str], trained: str, held_out: str) -> None:
    assert told_apart(sd3, splits([trained], [held_out])) == (trained,)
    assert not [line for line in said if "dropped" in line]


@pytest.mark.parametrize("family", ["sd", "sd3"])
def test_cut_prompts_are_counted_once(request: pytest.FixtureRequest, said: list[str], family: str) -> None:
    # given prompts that are cut in every split, two full ones that just fit, and a policy with one or two tokenizers
    fits = ["x" * 14, "fourteen token"]
    cut = ["x" * 15, "fifteen  token" * 2, "\u00e4" * 10]
    given = splits([cut[0], fits[0], "a"], [cut[1], "b"]) | {"other": (cut[2], fits[1])}

    assert told_apart(request.getfixturevalue(family), given) == given["train"]
    assert said == ["3 of 7 prompts are cut to the 16 tokens that the model reads of them"]


@pytest.mark.parametrize("family", ["sd", "sd3"])
def test_nothing_left_to_train_on_is_refused(request: pytest.FixtureRequest, said: list[str], family: str) -> None:
    ends = ("cat", "dog", "bird", "fish")
    given = [LONG * 5 + end for end in ends]

    with pytest.raises(UserError, match=re.escape(r"both cut to 16 tokens")) as caught:
        told_apart(request.getfixturevalue(family), splits(given[:3], given[3:]))

    assert "cat" in str(caught.value) and "fish" in str(caught.value) and not said


def test_all_of_a_models_tokenizers_have_to_agree(sd3: SD3Policy, monkeypatch: pytest.MonkeyPatch) -> None:
    # given a third tokenizer that leaves more of a prompt, as T5 does in SD3
    clips, third = list(sd3._tokenizers()), Tokenizer(tokenizer(), 20)
    monkeypatch.setattr(sd3, "_tokenizers", lambda: [*clips, third])
    near, far = f"{LONG}cat", f"{LONG}{LONG}cat"

    assert told_apart(sd3, splits([near, far, "a"], [f"{LONG}dog", f"{LONG}{LONG}dog"])) == (near, "a")


@pytest.mark.parametrize(("negative", "told"), [("x" * 15, True), ("x" * 14, False), (None, False)])
def test_a_negative_prompt_that_is_cut_is_told(
    tiny_model: Path, said: list[str], negative: str | None, told: bool
) -> None:
    told_apart(policy(tiny_model, negative_prompt=negative), splits(["a"], ["b"]))

    assert said == ["model.negative_prompt is cut to the 16 tokens that the model reads of it"] * told


def test_cuts_are_told_for_each_length(sd3: SD3Policy, said: list[str], monkeypatch: pytest.MonkeyPatch) -> None:
    clips, third = list(sd3._tokenizers()), Tokenizer(tokenizer(), 20)
    monkeypatch.setattr(sd3, "_tokenizers", lambda: [*clips, third])

    told_apart(sd3, splits(["x" * 16, "x" * 30, "a"], ["b"]))

    assert [line.split(" tokens")[0] for line in said] == [
        "2 of 4 prompts are cut to the 16",
        "1 of 4 prompts are cut to the 20",
    ]


def test_a_policy_without_tokenizers_reads_all_of_every_prompt(said: list[str]) -> None:
    given = ["a" * 1000 + "b", "A cat", "a  cat"]

    assert told_apart(gaussian(), splits(given, ["a" * 1000, "a cat"])) == tuple(given)
    assert not said and list(gaussian().read(["x"])) == [Reading((b"x",), ())]


def test_padding_that_a_text_brings_along_is_no_difference() -> None:
    each = Tokenizer(tokenizer(), 16)

    plain, padded = read([each], ["a cat", "a cat<|endoftext|>"])

    assert plain == padded


@given(
    train=st.lists(st.text("aA ,\u00e4\u00c4\t\u2160i", min_size=1, max_size=18), min_size=1, max_size=8),
    held_out=st.lists(st.text("aA ,\u00e4\u00c4\t\u2160i", min_size=1, max_size=18), min_size=1, max_size=4),
)
def test_reading_only_suspects_finds_what_reading_everything_finds(
    sd: SDPolicy, train: list[str], held_out: list[str]
) -> None:
    held = {reading.tokens for reading in sd.read(held_out)}
    expected = [prompt for prompt, reading in zip(train, sd.read(train), strict=True) if reading.tokens not in held]

    if expected:
        assert told_apart(sd, splits(train, held_out)) == tuple(expected)
    else:
        with pytest.raises(UserError):
            told_apart(sd, splits(train, held_out))


def test_of_a_hundred_thousand_prompts_only_suspects_are_read(sd3: SD3Policy, monkeypatch: pytest.MonkeyPatch) -> None:
    # given many short prompts, three long ones, and one pair that differs in case
    many = [f"n {i}" for i in range(100_000)]
    given, seen = splits([*many, LONG * 2, "x" * 15, "A b"], ["a b", "c", "y" * 20]), []
    inner: Policy = sd3

    def spy(prompts: Sequence[str]) -> Iterator[Reading]:
        seen.extend(prompts)
        return read(inner._tokenizers(), prompts)

    monkeypatch.setattr(sd3, "read", spy)

    assert len(told_apart(sd3, given)) == 100_002
    assert sorted(seen) == sorted([LONG * 2, "x" * 15, "A b", "a b", "y" * 20])


def test_a_run_says_once_what_is_cut_and_dropped(tiny_model: Path, tmp_path: Path, results: Path) -> None:
    # given two training prompts that differ in case, one of them held out, and one that is too long
    path = tmp_path / "prompts.txt"
    path.write_text(f"a fox\nA Bear\n{LONG}cat\nan owl\na bear\n", encoding="utf-8")

    done = cli_here("run", *arguments(settings(tiny_model, path, budget={"iterations": 1.0})), "--quiet")

    cut, dropped = done.stderr.splitlines()
    assert cut == "1 of 5 prompts are cut to the 16 tokens that the model reads of them"
    assert dropped == "1 of 4 training prompts are dropped: the model cannot tell 'A Bear' from the held-out 'a bear'"
    log_text = (next(results.iterdir()) / "run.log").read_text(encoding="utf-8")
    assert done.returncode == 0 and log_text.count(cut) == log_text.count(dropped) == 1


def test_a_run_with_nothing_left_to_train_on_leaves_no_folder(tiny_model: Path, tmp_path: Path, results: Path) -> None:
    path = tmp_path / "prompts.txt"
    path.write_text("".join(f"{LONG}{name}\n" for name in ("cat", "dog", "owl")), encoding="utf-8")

    said = sentence(cli_here("run", *arguments(settings(tiny_model, path))))

    assert "no prompt is left to train on" in said and not list(results.glob("prompts-*"))
