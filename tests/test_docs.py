"""README, RULES and docs/: their links lead somewhere, their commands exist, and their words are the code's."""

from __future__ import annotations

import re
import shlex
from collections.abc import Iterator
from functools import cache
from pathlib import Path
from typing import get_args

import pytest
import typer
from running import ROOT
from typer.core import TyperGroup

from grpo_bench.analysis import claims, contrasts, summary
from grpo_bench.analysis.coverage import measured_coverage
from grpo_bench.cli import app

PAGES = sorted([*ROOT.glob("*.md"), *(ROOT / "docs").glob("*.md"), *(ROOT / "results").glob("*.md")])


def name(page: Path) -> str:
    return page.relative_to(ROOT).as_posix()


def text(page: str) -> str:
    return (ROOT / page).read_text(encoding="utf-8")


def code(page: Path) -> Iterator[str]:
    """Every code span, and every line of an indented or fenced block."""
    content = page.read_text(encoding="utf-8")
    for block in re.findall(r"^```\w*\n(.*?)^```$", content, re.DOTALL | re.MULTILINE):
        yield from block.splitlines()
    rest = re.sub(r"^```.*?^```$", "", content, flags=re.DOTALL | re.MULTILINE)
    for line in rest.splitlines():
        if line.startswith("    "):
            yield line.strip()
        else:
            yield from re.findall(r"`([^`]+)`", line)


def calls(page: Path) -> Iterator[list[str]]:
    """The words of every `grpo-bench ...`, without a comment or what it is piped into."""
    for line in code(page):
        first = line.partition("  #")[0].partition(" # ")[0].partition(" |")[0]
        if re.match(r"(\S*/|.venv\\Scripts\\)?grpo-bench \S", first):
            yield shlex.split(first.replace("\\", "/"))[1:]


@cache
def program() -> TyperGroup:
    """The command line, as typer builds it."""
    built = typer.main.get_command(app)
    assert isinstance(built, TyperGroup)
    return built


def called(words: list[str]) -> tuple[str, set[str]]:
    """The name of the command that is called, and its options; fails if there is none of that name."""
    command, said = program(), "grpo-bench"
    for word in words:
        if not isinstance(command, TyperGroup) or word.startswith("-"):
            break
        said += f" {word}"
        assert word in command.commands, f"{said} is no command"
        command = command.commands[word]
    return said, {flag for parameter in command.params for flag in (*parameter.opts, *parameter.secondary_opts)}


@pytest.mark.parametrize("page", PAGES, ids=name)
def test_links_lead_somewhere(page: Path) -> None:
    links = re.findall(r"\]\(([^)\s]+)\)", page.read_text(encoding="utf-8"))
    inside = [link.partition("#")[0] for link in links if "://" not in link and not link.startswith("#")]

    assert [link for link in inside if not (page.parent / link).exists()] == []


@pytest.mark.parametrize("page", PAGES, ids=name)
def test_commands_and_their_options_exist(page: Path) -> None:
    for words in calls(page):
        said, options = called(words)
        given = {word.partition("=")[0] for word in words if re.match(r"--?[a-z]", word)} - {"-h", "--help"}
        assert given <= options, f"{said} has no {sorted(given - options)}"


def test_readme_shows_every_command() -> None:
    shown = {words[0] for words in calls(ROOT / "README.md")}

    assert set(program().commands) - shown == set()


@pytest.mark.parametrize("page", PAGES, ids=name)
def test_make_targets_exist(page: Path) -> None:
    targets = set(re.findall(r"^([a-z]+):", text("Makefile"), re.MULTILINE))
    asked = {match[1] for line in code(page) if (match := re.match(r"make ([a-z]+)\b", line))}

    assert asked <= targets


def first_cells(section: str) -> list[set[str]]:
    """The words in the first column of each table of a section of RULES.md."""
    part = text("RULES.md").partition(f"\n## {section}")[2].partition("\n## ")[0]
    tables = re.findall(r"^\| (?:word|verdict) \| when \|\n\|---\|---\|\n((?:\|.*\n)+)", part, re.MULTILINE)
    return [
        {word for row in re.findall(r"^\| ([^|]+) \|", table, re.MULTILINE) for word in re.split(r"(?<!better), ", row)}
        for table in tables
    ]


def test_rules_have_the_words_that_are_printed() -> None:
    learned, verdicts = first_cells("6.")
    (judged,) = first_cells("8.")

    assert learned == set(get_args(summary.Learned))
    assert verdicts == set(get_args(contrasts.Verdict))
    assert judged == set(get_args(claims.Verdict))


def test_rules_state_the_measured_coverage() -> None:
    # given what was measured at five seeds, in whole per cent
    mean, paired = measured_coverage(5), measured_coverage(5, "paired")
    assert mean is not None and paired is not None

    # then the rules say so
    assert (
        f"over five seeds covers {mean.normal:.0f}% on normal data and {mean.skewed[0]:.0f} to {mean.skewed[1]:.0f}% "
        f"on skewed data; a paired difference {paired.normal:.0f}% and about {sum(paired.skewed) / 2:.0f}%."
    ) in " ".join(text("RULES.md").split())
