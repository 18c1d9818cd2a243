"""Prompt files as tables: CSV, TSV, JSON arrays and JSON lines, their column of prompts, and what is refused."""

from __future__ import annotations

import codecs
import json
from pathlib import Path

import pytest

from grpo_bench.errors import UserError
from grpo_bench.workloads.prompt_files import COLUMNS
from grpo_bench.workloads.prompts import read_prompts


def write(folder: Path, name: str, text: str) -> Path:
    path = folder / name
    path.write_bytes(text.encode())
    return path


def prompts(path: Path, column: str = "") -> tuple[str, ...]:
    """All prompts of a file in its order, whatever their split."""
    return tuple(prompt for split in read_prompts(path, column).values() for prompt in split)


def refusal(path: Path, column: str = "") -> str:
    """What reading `path` says; always one line that names the file."""
    with pytest.raises(UserError) as caught:
        read_prompts(path, column)
    said = str(caught.value)
    assert path.name in said and "\n" not in said
    return said


@pytest.mark.parametrize(
    ("name", "text", "found"),
    [
        ("parti.tsv", "Prompt\tCategory\na bear, brown\tAnimals\na tower\tArts\n", ("a bear, brown", "a tower")),
        ("draw.csv", 'Prompts,Category\nA red car.,Colors\n"A sign, with words",Text\n',
         ("A red car.", "A sign, with words")),
        ("coco.csv", "id,caption\n1,a cat\n2,a dog\n", ("a cat", "a dog")),
        ("one.csv", "prompt\na cat\na dog\n", ("a cat", "a dog")),
        ("quoted.csv", 'prompt,n\n"says ""hi""",1\n"two\nlines",2\n', ('says "hi"', "two\nlines")),
        ("blank.csv", "\n prompt , n\n\na cat, 1\n,\n a dog ,2\n\n", ("a cat", "a dog")),
        ("trailing.csv", "prompt,,\na cat,,\na dog,,\n", ("a cat", "a dog")),
        ("windows.csv", 'prompt,n\r\n"a, cat",1\r\na dog,2\r\n', ("a, cat", "a dog")),
        ("mac.tsv", "text\tn\ra cat\t1\ra dog\t2\r", ("a cat", "a dog")),
        ("anime.json", '[\n "a girl with a kite",\n "a fox knight"\n]\n', ("a girl with a kite", "a fox knight")),
        ("anime.txt", '["a girl",\n "a fox"]', ("a girl", "a fox")),
        ("objects.json", '[{"text": "a cat", "id": 1}, {"id": 2, "text": "a dog"}]', ("a cat", "a dog")),
        ("lines.json", '{"prompt": "a cat"}\n{"prompt": "a dog"}\n', ("a cat", "a dog")),
        ("geneval.jsonl", '{"tag": "one", "include": [1], "prompt": "a cat"}\n\n{"prompt": "a dog", "tag": "two"}',
         ("a cat", "a dog")),
        ("lines.ndjson", '{"caption": "a cat"}\n{"caption": "a dog"}', ("a cat", "a dog")),
    ],
)  # fmt: skip
def test_a_table_gives_its_column_of_prompts(tmp_path: Path, name: str, text: str, found: tuple[str, ...]) -> None:
    assert prompts(write(tmp_path, name, text)) == found


@pytest.mark.parametrize("column", COLUMNS)
@pytest.mark.parametrize("name", ["x.csv", "x.json", "x.jsonl"])
def test_every_usual_name_of_the_column(tmp_path: Path, name: str, column: str) -> None:
    rows = [{"n": "0", column: "a cat"}, {"n": "1", column: "a dog"}]
    lines = [",".join(rows[0]), *(",".join(row.values()) for row in rows)]
    text = {"x.csv": "\n".join(lines), "x.json": json.dumps(rows), "x.jsonl": "\n".join(map(json.dumps, rows))}[name]

    assert prompts(write(tmp_path, name, text)) == ("a cat", "a dog")


@pytest.mark.parametrize("mark", [codecs.BOM_UTF8, codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE])
def test_a_byte_order_mark_is_no_part_of_the_header(tmp_path: Path, mark: bytes) -> None:
    codec = {codecs.BOM_UTF8: "utf-8", codecs.BOM_UTF16_LE: "utf-16-le", codecs.BOM_UTF16_BE: "utf-16-be"}[mark]
    path = tmp_path / "x.csv"
    path.write_bytes(mark + "prompt,n\r\nein Bär,1\r\n红色,2\r\n".encode(codec))

    assert prompts(path) == ("ein Bär", "红色")


@pytest.mark.parametrize(
    ("name", "text"),
    [
        ("x.csv", "words,prompt\na cat,no\na dog,no\n"),
        ("x.tsv", "words\tn\na cat\t1\na dog\t2\n"),
        ("x.json", '[{"words": "a cat"}, {"words": "a dog"}]'),
        ("x.jsonl", '{"words": "a cat"}\n{"words": "a dog"}'),
    ],
)
def test_another_column_can_be_chosen(tmp_path: Path, name: str, text: str) -> None:
    assert prompts(write(tmp_path, name, text), "words") == ("a cat", "a dog")


@pytest.mark.parametrize(
    ("name", "text"),
    [
        ("x.csv", "split,prompt\ntrain,a\nheldout,b\ntrain,c\ntest,d\n"),
        ("x.tsv", "prompt\tsplit\na\ttrain\nb\theldout\nc\ttrain\nd\ttest\n"),
        ("x.json", '[{"prompt": "a", "split": "train"}, {"prompt": "b", "split": "heldout"},'
                   ' {"prompt": "c", "split": "train"}, {"prompt": "d", "split": "test"}]'),
    ],
)  # fmt: skip
def test_a_table_may_name_splits(tmp_path: Path, name: str, text: str) -> None:
    assert read_prompts(write(tmp_path, name, text)) == {"train": ("a", "c"), "heldout": ("b",), "test": ("d",)}


def test_repeats_in_a_table_are_kept_once(tmp_path: Path) -> None:
    path = write(tmp_path, "x.csv", "prompt,n\na cat,1\na cat,2\na dog,3\n")

    assert read_prompts(path) == {"train": ("a cat",), "heldout": ("a dog",)}


@pytest.mark.parametrize(
    ("name", "text", "seen"),
    [
        ("x.csv", "a bear,Animals\na tower,Arts\n", "'a bear', 'Animals'"),
        ("x.csv", "a bear\na tower\n", "'a bear'"),
        ("x.csv", '["a bear",\n"a tower"]\n', "'[\"a bear\"'"),
        ("x.tsv", "prompts\tCategory\na bear\tAnimals\n", "'prompts', 'Category'"),
        ("x.jsonl", '{"promt": "a bear"}\n', "'promt'"),
        ("x.json", '[{"name": "a bear", "id": 1}]', "'name', 'id'"),
        ("x.json", '{"train": ["a bear"], "heldout": ["a tower"]}', "'train', 'heldout'"),
    ],
)
def test_a_table_without_a_column_of_prompts_shows_its_columns(tmp_path: Path, name: str, text: str, seen: str) -> None:
    said = refusal(write(tmp_path, name, text))

    assert "has no column named prompt, Prompt, Prompts, text or caption" in said
    assert seen in said and "prompts.column" in said


@pytest.mark.parametrize(
    ("name", "text"),
    [
        ("x.csv", "prompt,text\na,b\nc,d\n"),
        ("x.jsonl", '{"caption": "a", "text": "b"}\n{"caption": "c", "text": "d"}'),
    ],
)
def test_two_columns_that_may_be_the_prompts(tmp_path: Path, name: str, text: str) -> None:
    assert "several may be the prompts" in refusal(write(tmp_path, name, text))


@pytest.mark.parametrize(
    ("name", "text", "place"),
    [
        ("x.csv", "prompt,n\na cat, with a hat,1\na dog,2\n", "line 2 of"),
        ("x.csv", "prompt\na cat\na dog, too\n", "line 3 of"),
        ("x.csv", "prompt,n\na cat,1\na dog\n", "line 3 of"),
        ("x.csv", 'prompt,n\n"a" cat,1\na dog,2\n', "line 2 of"),
        ("x.csv", 'prompt,n\n"never closed,1\na dog,2\n', "of prompt file"),
        ("x.csv", "prompt,n\na cat,1\n ,2\n", "line 3 of"),
        ("x.tsv", "prompt\tn\na cat\t1\ta\na dog\t2\n", "line 2 of"),
        ("x.json", '["a cat", 5]', "item 2 of"),
        ("x.json", '["a cat", " "]', "item 2 of"),
        ("x.json", '[{"prompt": "a cat"}, "a dog"]', "item 2 of"),
        ("x.json", '[{"prompt": "a cat"}, {"text": "a dog"}]', "item 2 of"),
        ("x.json", '["half a pair \\ud800", "a"]', "item 1 of"),
        ("x.jsonl", "a bare line\n", "line 1 of"),
        ("x.jsonl", '{"prompt": "a"}\na bare line\n', "line 2 of"),
        ("x.jsonl", '"a cat"\n"a dog"\n', "line 1 of"),
        ("x.jsonl", '[{"prompt": "a"},\n{"prompt": "b"}]\n', "line 1 of"),
        ("x.json", '{\n "prompt": "a"\n}', "line 1 of"),
        ("x.json", '{"prompt": ["a", "b"]}', "line 1 of"),
    ],
)
def test_a_broken_row_is_named_by_its_place(tmp_path: Path, name: str, text: str, place: str) -> None:
    assert place in refusal(write(tmp_path, name, text))


@pytest.mark.parametrize(
    ("text", "what"),
    [
        ("a cat\na dog\n", "is no JSON array"),
        ('["a cat", "a dog"', "is no JSON array"),
        ('"a cat"', "is no JSON array"),
        ("[" * 50_000, "nested too deeply"),
        ('[{"prompt": "a", "prompt": "b"}]', "a key is given twice"),
        ("[]", "holds no prompt"),
    ],
    ids=["plain", "cut", "text", "deep", "key twice", "empty"],
)
def test_json_that_is_no_array(tmp_path: Path, text: str, what: str) -> None:
    assert what in refusal(write(tmp_path, "x.json", text))


@pytest.mark.parametrize(
    ("name", "text"),
    [
        ("x.csv", "prompt,Split\na,train\nb,heldout\n"),
        ("x.csv", "prompt,splits\na,train\nb,heldout\n"),
        ("x.jsonl", '{"prompt": "a"}\n{"prompt": "b", "spilt": "heldout"}\n'),
    ],
)
def test_a_mistyped_split_is_not_passed_over(tmp_path: Path, name: str, text: str) -> None:
    assert "name it 'split'" in refusal(write(tmp_path, name, text))


@pytest.mark.parametrize(
    ("name", "text", "separator"),
    [
        ("x.csv", "prompt;n\na cat;1\n", "';'"),
        ("x.csv", "prompt\tn\na cat\t1\n", "'\\t'"),
        ("x.tsv", "prompt,n\na cat,1\n", "','"),
    ],
)
def test_another_separator_than_the_suffix_says(tmp_path: Path, name: str, text: str, separator: str) -> None:
    assert f"not by {separator}" in refusal(write(tmp_path, name, text))


def test_two_columns_of_one_name(tmp_path: Path) -> None:
    assert "several columns named 'prompt'" in refusal(write(tmp_path, "x.csv", "prompt,prompt\na,b\nc,d\n"))


@pytest.mark.parametrize(
    ("name", "text"),
    [
        ("x.txt", "a cat\na dog\n"),
        ("x.csv", "prompt\na\nb\n"),
        ("x.json", '["a", "b"]'),
        ("x.jsonl", '{"prompt": "a"}'),
    ],
)
def test_a_column_that_is_not_there(tmp_path: Path, name: str, text: str) -> None:
    assert "'words'" in refusal(write(tmp_path, name, text), "words")
