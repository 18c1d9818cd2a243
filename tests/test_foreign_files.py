"""Somebody else's files in a folder of results, and paths that are no run: named, left alone, in nobody's way."""

from __future__ import annotations

import json
import os
from collections.abc import Callable
from pathlib import Path

import pytest
from running import cli_here, sentence
from studies import write_study
from thrift import thrifty

from grpo_bench.analysis.study import studies
from grpo_bench.errors import UserError
from grpo_bench.store.run import RunStore
from grpo_bench.store.suite import read_suites

FOREIGN: dict[str, Callable[[Path], object]] = {
    "no JSON": lambda path: path.write_text("suite: mine\n", encoding="utf-8"),
    "another tool's": lambda path: path.write_text('{"tests": [1, 2]}', encoding="utf-8"),
    "a list": lambda path: path.write_text("[]", encoding="utf-8"),
    "a newer version's": lambda path: path.write_text('{"schema_version": 99, "suite": "x"}', encoding="utf-8"),
    "no text": lambda path: path.write_bytes(b"\xff\xfe\x00"),
    "empty": lambda path: path.write_bytes(b""),
    "a folder": Path.mkdir,
    "a pipe": os.mkfifo,
    "a dead link": lambda path: path.symlink_to("nowhere"),
}


@pytest.fixture
def results(tmp_path: Path) -> Path:
    """A suite of two methods and two seeds."""
    gold = {"flat": lambda s, n: 0.5 + 0.01 * s, "tree": lambda s, n: 0.5 + n / 640_000}
    return write_study(tmp_path / "results", gold, range(2), every=32_000, contrasts=("tree",))


@pytest.mark.timeout(120)
@pytest.mark.parametrize("kind", FOREIGN)
def test_a_foreign_suite_file_is_named_and_hides_nothing(results: Path, kind: str) -> None:
    before = studies(results)
    FOREIGN[kind](results / "other.suite.json")

    (study,) = studies(results)

    assert study.views[0].labels == before[0].views[0].labels == ("flat", "tree")
    assert study.suite == before[0].suite
    notes = [note for note in study.notes if "other.suite.json" in note]
    assert notes and not any("delete" in note for note in notes)
    with pytest.raises(UserError, match=r"other\.suite\.json"):
        read_suites(results)


@pytest.mark.timeout(240)
@pytest.mark.parametrize("command", thrifty(["pareto", "claims", "report", "bundle"], 1, 3))
def test_every_command_over_results_leaves_it_out(results: Path, command: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(results.parent)
    FOREIGN["another tool's"](results / "other.suite.json")

    done = cli_here(command, "results")

    assert done.returncode == 0, done.stderr
    pages = "".join(path.read_text(encoding="utf-8") for path in results.parent.rglob("*.html"))
    assert "other.suite.json" in done.stdout + done.stderr + pages


def test_a_foreign_suite_file_above_folders_of_results_hides_none_of_them(results: Path) -> None:
    FOREIGN["another tool's"](results.parent / "other.suite.json")

    assert [study.name for study in studies(results.parent)] == ["study"]


def strange(kind: str, folder: Path) -> Path:
    """A folder that is no run of ours."""
    if kind in ("/", "~"):
        return Path(kind).expanduser()
    (folder / kind).mkdir()
    (folder / kind / "thesis.tex").write_text("years of work", encoding="utf-8")
    if kind == "another program's":
        (folder / kind / "run.json").write_text(json.dumps({"run": "x", "status": "done"}), encoding="utf-8")
    if kind == "a newer version's":
        (folder / kind / "run.json").write_text(json.dumps({"schema_version": 99}), encoding="utf-8")
    if kind == "broken":
        (folder / kind / "run.json").write_text('{"schema_version": 1}', encoding="utf-8")
    return folder / kind


@pytest.mark.parametrize("kind", ["/", "~", "no run", "another program's", "a newer version's", "broken"])
@pytest.mark.parametrize(
    "command", [("run", "--resume"), ("score", "--reward", "shapes"), ("sample", "--prompt", "x")], ids=lambda c: c[0]
)
def test_a_path_that_is_no_run_is_named_and_never_to_be_deleted(
    tmp_path: Path, kind: str, command: tuple[str, ...]
) -> None:
    path = strange(kind, tmp_path)

    said = sentence(cli_here(*command, str(path)))

    assert str(path) in said
    assert "delete" not in said
    assert "remove" not in said
    assert "--again" not in said or kind == "broken"


@pytest.mark.parametrize("kind", ["no run.json", "no config.toml", "points of a folder", "scores of a folder"])
def test_no_sentence_about_a_damaged_run_advises_to_delete(results: Path, kind: str) -> None:
    store = RunStore(results / "study-flat-s0")
    if kind.startswith("no "):
        (store.folder / kind[3:]).unlink()
    else:
        path = store.folder / f"{kind.split()[0]}.parquet"
        path.unlink(missing_ok=True)
        path.mkdir()

    (study,) = studies(results)

    assert any("study-flat-s0" in note for note in study.notes)
    assert not any("delete" in note for note in study.notes)
