"""Prompt files as plain text and JSON lines: what people save, and what each fault in one is called."""

from __future__ import annotations

from pathlib import Path

import pytest

from grpo_bench.errors import UserError
from grpo_bench.workloads.prompt_files import PromptFile
from grpo_bench.workloads.prompts import read_prompts


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "prompts.txt"


def refusal(path: Path) -> str:
    """What reading `path` says; always one line that names the file."""
    with pytest.raises(UserError) as caught:
        read_prompts(path)
    said = str(caught.value)
    assert path.name in said and "\n" not in said
    return said


def test_the_last_tenth_is_held_out(path: Path) -> None:
    path.write_text("".join(f"prompt {i}\n" for i in range(25)), encoding="utf-8")

    splits = read_prompts(path)

    assert splits["train"] == tuple(f"prompt {i}" for i in range(23))
    assert splits["heldout"] == ("prompt 23", "prompt 24")


def test_a_few_prompts_still_hold_one_out(path: Path) -> None:
    path.write_text("a\nb\n", encoding="utf-8")

    assert read_prompts(path) == {"train": ("a",), "heldout": ("b",)}


@pytest.mark.parametrize(
    "data",
    [
        b"\xef\xbb\xbfa cat\na dog\n",
        b"a cat\r\na dog\r\n",
        b"\xef\xbb\xbfa cat\r\na dog",
        b"\n  a cat \n\n\t\na dog\n\n",
        b"a cat\na cat\na dog\na dog\n",
        b"a cat\ra dog\r",
        "a cat\r\na dog\r\n".encode("utf-16"),
        "\ufeffa cat\na dog\n".encode("utf-16-be"),
        "a cat\na dog\n".encode("utf-32"),
    ],
    ids=[
        "byte order mark",
        "Windows lines",
        "both, no last newline",
        "blank lines and spaces",
        "repeats",
        "old Mac lines",
        "UTF-16 with its mark",
        "UTF-16, big end first",
        "UTF-32 with its mark",
    ],
)
def test_the_same_two_prompts_however_saved(path: Path, data: bytes) -> None:
    path.write_bytes(data)

    assert read_prompts(path) == {"train": ("a cat",), "heldout": ("a dog",)}


def test_repeats_do_not_reach_the_held_out_split(path: Path) -> None:
    # given a file whose last tenth repeats earlier prompts
    path.write_text("\n".join([f"p{i}" for i in range(9)] + ["p0"] * 3), encoding="utf-8")

    splits = read_prompts(path)

    assert not set(splits["train"]) & set(splits["heldout"])
    assert len(splits["train"]) + len(splits["heldout"]) == 9


def test_jsonl_with_splits(path: Path) -> None:
    path.write_text(
        '{"prompt": "a", "split": "train"}\n{"split": "heldout", "prompt": "b"}\n'
        '{"prompt": " c ", "split": "train"}\n{"prompt": "d", "split": "combinations"}\n',
        encoding="utf-8",
    )

    assert read_prompts(path) == {"train": ("a", "c"), "heldout": ("b",), "combinations": ("d",)}


def test_jsonl_without_splits_holds_out_the_last_tenth(path: Path) -> None:
    path.write_text("".join(f'{{"prompt": "p{i}"}}\n' for i in range(10)), encoding="utf-8")

    assert read_prompts(path)["heldout"] == ("p9",)


def test_prompts_are_kept_as_they_are(path: Path) -> None:
    # given other scripts, a terminal escape, markup, and a line separator that only some editors take for a newline
    odd = ["ein Fuchs über dem Bach", "红色的圆", "\x1b[31mred\x1b[0m", "[bold]x[/bold]", "a\u2028b", "a\x0cb", "👩‍🚀"]
    path.write_text("\n".join(odd), encoding="utf-8")

    splits = read_prompts(path)

    assert splits["train"] + splits["heldout"] == tuple(odd)


def test_json_may_hold_a_line_separator(path: Path) -> None:
    path.write_text('{"prompt": "a\u2028b"}\n{"prompt": "c"}\n', encoding="utf-8")

    assert read_prompts(path)["train"] == ("a\u2028b",)


def test_missing_file(path: Path) -> None:
    assert "No such file" in refusal(path)


def test_a_folder_is_no_file(tmp_path: Path) -> None:
    assert "cannot be read" in refusal(tmp_path)


def test_a_name_no_system_can_hold() -> None:
    with pytest.raises(UserError, match="cannot be read"):
        read_prompts(Path("a\0b.txt"))


@pytest.mark.parametrize("text", ["", "\n \n\t\n", "\ufeff", "\u200b\n \u2060\n"])
def test_empty_file(path: Path, text: str) -> None:
    path.write_text(text, encoding="utf-8")

    assert "is empty; write one prompt a line" in refusal(path)


@pytest.mark.parametrize("data", [b"caf\xe9\n", "a caf\xe9\n".encode("cp1252"), b"\x89PNG\r\n\x1a\n\x00\xff"])
def test_not_utf8(path: Path, data: bytes) -> None:
    path.write_bytes(data)

    assert "is not UTF-8 (byte" in refusal(path)


def test_utf16_that_ends_within_a_letter(path: Path) -> None:
    path.write_bytes("a cat\na dog\n".encode("utf-16")[:-1])

    assert "is not UTF-16 (byte" in refusal(path)


@pytest.mark.parametrize("data", ["a\nb\n".encode("utf-16-le"), b"a cat\na\0dog\n", b"\0"])
def test_a_nul_byte_is_no_text(path: Path, data: bytes) -> None:
    path.write_bytes(data)

    assert "NUL byte" in refusal(path)


@pytest.mark.parametrize("text", ["only one\n", "only one\nonly one\n"])
def test_one_prompt_cannot_be_both_trained_and_held_out(path: Path, text: str) -> None:
    path.write_text(text, encoding="utf-8")

    assert "leaves the split 'train' empty" in refusal(path)


@pytest.mark.parametrize("split", ["train", "heldout", "test"])
def test_one_split_only(path: Path, split: str) -> None:
    path.write_text(f'{{"prompt": "a", "split": "{split}"}}\n', encoding="utf-8")

    assert "empty; give at least one train and one heldout prompt" in refusal(path)


def test_a_prompt_in_both_splits(path: Path) -> None:
    path.write_text('{"prompt": "a", "split": "train"}\n{"prompt": "a", "split": "heldout"}\n', encoding="utf-8")

    assert "'a' to train and heldout alike" in refusal(path)


def test_a_split_for_some_only(path: Path) -> None:
    path.write_text('{"prompt": "a", "split": "train"}\n{"prompt": "b", "split": " "}\n', encoding="utf-8")

    assert "give it to all or to none" in refusal(path)


@pytest.mark.parametrize(
    "line",
    [
        '{"prompt": "a"',
        "{a cat} on a mat",
        '{"promt": "a"}',
        '{"prompt": 5}',
        '{"prompt": "  "}',
        '{"prompt": "a", "prompt": "b"}',
        '["a"]',
        "a plain line",
        '{"prompt": "a", "split": 1}',
        '{"prompt": "half a pair \\ud800"}',
        '{"prompt": "a", "split": "\\udfff"}',
        '{"a":' * 50_000,
    ],
    ids=[
        "cut",
        "no JSON",
        "typo",
        "number",
        "blank",
        "twice",
        "array",
        "plain",
        "split",
        "surrogate",
        "surrogate split",
        "deep",
    ],
)
def test_a_broken_line_is_named_by_its_number(path: Path, line: str) -> None:
    # given a broken line after a blank one: lines are counted as an editor counts them
    path.write_text(f'{{"prompt": "a"}}\n\n{line}\n', encoding="utf-8")

    assert "line 3 of" in refusal(path)


@pytest.mark.parametrize(
    "text",
    [
        "a bear, brown,\tbig\na tower, tall\ttoo\na fox, red",
        "(red:1.2) bear\n[bold]x[/bold]\n[a cat:a dog:0.5]",
        "[1girl, solo] by a lake\n- a dash\n# a hash",
        'a sign that says "no, thanks"\n"Hello" on a wall\nthe text, in caption',
        "a prompt, please\na caption\nprompt",
    ],
)
def test_commas_tabs_brackets_and_quotes_are_text_in_plain_text(path: Path, text: str) -> None:
    path.write_text(text, encoding="utf-8")

    splits = read_prompts(path)

    assert splits["train"] + splits["heldout"] == tuple(text.split("\n"))


@pytest.mark.parametrize(
    "text",
    [
        "prompt,category\na bear,Animals\na fox,Animals\n",
        "Prompt\tCategory\na bear\tAnimals\na fox\tAnimals\n",
        "id;caption\n1;a bear\n2;a fox\n",
        '"text","id"\n"a bear","1"\n"a fox","2"\n',
        "Prompts\na bear\na fox\n",
    ],
)
def test_plain_text_that_begins_as_a_table_is_refused(path: Path, text: str) -> None:
    path.write_text(text, encoding="utf-8")

    assert "like a table's header" in refusal(path)


@pytest.mark.parametrize(
    "text", ["[\n 'a bear',\n 'a fox'\n]", "['a bear',\n'a fox']", '["a bear",\n "a fox"', "[\na\n]"]
)
def test_what_begins_as_an_array_and_is_none_is_refused(path: Path, text: str) -> None:
    path.write_text(text, encoding="utf-8")

    said = refusal(path)

    assert "is no JSON array" in said and repr(text.split("\n")[0]) in said


@pytest.mark.parametrize(
    ("text", "shown"), [("[\n 1,\n 2\n]", "1"), ("[true, 2]", "true"), ("[[]]", "[]"), ("[null]", "null")]
)
def test_an_array_of_other_things_is_refused(path: Path, text: str, shown: str) -> None:
    """What stands there is shown as the file has it."""
    path.write_text(text, encoding="utf-8")

    said = refusal(path)

    assert "item 1 of" in said and repr(shown) in said


@pytest.mark.parametrize("odd", ["null", "3", '{"prompt": "a fox"}'])
def test_of_an_array_of_texts_the_item_that_is_none_is_named(path: Path, odd: str) -> None:
    path.write_text(f'["a bear", {odd}, "a cat"]', encoding="utf-8")

    said = refusal(path)

    assert "item 2 of" in said and repr(odd) in said


@pytest.mark.parametrize("unseen", ["\ufeff", "\u200b", "\u2060", " \ufeff \u200b"])
@pytest.mark.parametrize(
    ("name", "form"),
    [("p.txt", "a bear\n{0}a fox{0}\n{0}\n"), ("p.csv", "{0}prompt{0}\n{0}a bear\na fox{0}\n"),
     ("p.jsonl", '{{"prompt": "a bear{0}"}}\n{0}{{"prompt": "{0}a fox"}}\n')],
)  # fmt: skip
def test_what_nobody_sees_around_a_prompt_is_no_part_of_it(tmp_path: Path, unseen: str, name: str, form: str) -> None:
    """Files that were joined have a byte order mark in the middle; a web page leaves zero-width spaces."""
    path = tmp_path / name
    path.write_text(form.format(unseen), encoding="utf-8")

    assert [row.prompt for row in PromptFile(path).rows()] == ["a bear", "a fox"]


def test_a_joiner_inside_a_prompt_stays(path: Path) -> None:
    path.write_text("a \U0001f469\u200d\U0001f680 on the moon\n", encoding="utf-8")

    assert [row.prompt for row in PromptFile(path).rows()] == ["a \U0001f469\u200d\U0001f680 on the moon"]


@pytest.mark.parametrize("line", ['{"prompt": "a fox"}', "{red|blue} fox", " {"])
def test_a_line_of_json_in_plain_text_is_refused(path: Path, line: str) -> None:
    path.write_text(f"a bear\n{line}\n", encoding="utf-8")

    assert "line 2 of" in refusal(path)


def test_quotes_around_every_line_are_not_taken_into_the_prompts(path: Path) -> None:
    path.write_text('"a bear, brown",\n"a fox"\n', encoding="utf-8")

    assert "every line in quotes" in refusal(path)


@pytest.mark.parametrize("name", ["prompts.yaml", "prompts.csv.gz", "prompts.parquet", "prompts.xlsx"])
def test_a_suffix_that_no_prompt_file_has_is_refused(tmp_path: Path, name: str) -> None:
    (tmp_path / name).write_text("- a bear\n- a fox\n", encoding="utf-8")

    assert repr((tmp_path / name).suffix) in refusal(tmp_path / name)


@pytest.mark.parametrize("name", ["prompts", "prompts.TXT", "prompts.text"])
def test_plain_text_may_be_named_so(tmp_path: Path, name: str) -> None:
    (tmp_path / name).write_text("a bear\na fox\n", encoding="utf-8")

    assert read_prompts(tmp_path / name) == {"train": ("a bear",), "heldout": ("a fox",)}
