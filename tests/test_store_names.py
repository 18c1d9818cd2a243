"""Names and prompts are untrusted text: a name is checked, a text cannot steer a terminal."""

from __future__ import annotations

import unicodedata

import pytest
from hypothesis import given
from hypothesis import strategies as st

from grpo_bench.errors import UserError
from grpo_bench.store.names import check_name, clean_text


@pytest.mark.parametrize("name", ["a", "0", "tree-b3_w2.1", "a" * 64])
def test_a_valid_name_is_returned_as_it_is(name: str) -> None:
    assert check_name(name) == name


@pytest.mark.parametrize(
    "name",
    ["", "a" * 65, "A", "-a", ".a", "..", "a/b", "a\\b", "a\n", "a\0", "\x1b[31mred", "ä", "a b", "../../etc/passwd"],
)
def test_a_hostile_name_is_refused_in_one_clean_line(name: str) -> None:
    with pytest.raises(UserError, match=r"run .* is not a valid name") as error:
        check_name(name, "run")
    assert str(error.value).isprintable()


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        ("a red circle", "a red circle"),
        ("\x1b[31mred\x1b[0m", "red"),
        ("\x9b2Jcleared", "cleared"),
        ("\x1b]0;title\x07shown", "shown"),
        ("\x1b]8;;http://evil\x1b\\link\x1b]8;;\x1b\\", "link"),
        ("\x1bPdevice\x1b\\after", "after"),
        ("\x1bcreset", "reset"),
        ("two\nlines\r\nand\ttab", "two lines and tab"),
        ("bell\x07 and \x00 null", "bell\ufffd and \ufffd null"),
        ("right\u202eto left", "right\ufffdto left"),
        ("lone \ud800 surrogate", "lone \ufffd surrogate"),
        ("\x1b[31", "\ufffd[31"),
        ("family 👨\u200d👩", "family 👨\u200d👩"),
        ("[bold]markup stays[/bold]", "[bold]markup stays[/bold]"),
    ],
)
def test_text_loses_what_steers_a_terminal_and_keeps_the_rest(text: str, shown: str) -> None:
    assert clean_text(text) == shown


def test_long_text_is_cut() -> None:
    assert clean_text("a" * 50, limit=10) == "aaaaaaaaa…"


@given(st.text(alphabet=st.characters() | st.sampled_from("\x1b[];\x07\x9b\x9c\\31mPX^_ ")))
def test_no_text_whatever_keeps_a_control_character(text: str) -> None:
    cleaned = clean_text(text)
    assert not [c for c in cleaned if unicodedata.category(c) in {"Cc", "Cs", "Zl", "Zp"}], repr(cleaned)
    assert clean_text(cleaned) == cleaned
    cleaned.encode("utf-8")
