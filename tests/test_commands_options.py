"""What the analysis' commands do with their options: each is given once, and seen in what comes out."""

from __future__ import annotations

import json
import tomllib
from contextlib import nullcontext
from pathlib import Path

import pytest
import tomli_w
from running import cli_here, sentence
from small_suite import small_suite
from studies import write_study

from grpo_bench.bundles.verify import verify_bundle
from grpo_bench.cli import app
from grpo_bench.commands.pareto import _formats
from grpo_bench.store.points import encode
from grpo_bench.store.record import RunRecord
from grpo_bench.store.run import RunStore
from grpo_bench.sweeping.cells import suite_cells, suite_record
from grpo_bench.sweeping.suite import parse_suite
from grpo_bench.sweeping.sweep import announce

CLAIM = {
    "id": "mine", "metric": "gold", "method": "tree", "baseline": "flat", "relation": "greater", "value": 0.0,
    "protocol": "controlled", "tier": "tiny", "text": "Tree is ahead", "source": "nobody",
}  # fmt: skip


def flat(seed: int, nfe: float) -> float:
    return 0.123456789 + 0.1 * nfe / 64_000


def said(capsys: pytest.CaptureFixture[str], *arguments: object) -> str:
    app([str(one) for one in arguments], standalone_mode=False)
    return capsys.readouterr().out


@pytest.fixture
def undrawn(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("grpo_bench.commands.pareto._draw", lambda *_: [])
    monkeypatch.setattr("grpo_bench.commands.pareto._processes", nullcontext)


def test_claims_of_ones_own_are_judged_in_place_of_the_shipped(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    write_study(tmp_path / "runs", {"flat": flat, "tree": lambda s, n: 2 * flat(s, n) + 0.001 * s})
    (tmp_path / "mine.toml").write_text(tomli_w.dumps({"claim": [CLAIM]}), encoding="utf-8")

    found = json.loads(said(capsys, "claims", tmp_path / "runs", "--file", tmp_path / "mine.toml", "--json"))

    assert [(one["id"], one["words"]) for one in found] == [("mine", "reproduced")]


def test_a_bundle_is_called_like_its_folder_and_lies_where_one_is(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    write_study(tmp_path / "of-tuesday", {"flat": flat}, range(1))
    (tmp_path / "here").mkdir()
    monkeypatch.chdir(tmp_path / "here")

    said(capsys, "bundle", tmp_path / "of-tuesday", "--images", "none")

    assert verify_bundle(tmp_path / "here" / "of-tuesday.zip").problems == ()


def test_runs_are_looked_for_where_the_environment_says_unless_told_otherwise(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ("one", "two"):
        write_study(tmp_path / name, {"flat": flat, "tree": flat}, range(1), name=name)
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("GRPO_BENCH_RESULTS", str(tmp_path / "one"))

    assert "one-tree-s0" in said(capsys, "compare", "one-flat-s0", "one-tree-s0")
    assert "two-tree-s0" in said(capsys, "compare", "two-flat-s0", "two-tree-s0", "--results", tmp_path / "two")


@pytest.mark.usefixtures("undrawn")
def test_plots_go_where_they_are_asked_for(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    write_study(tmp_path, {"flat": flat}, range(1))

    assert f"plots: {tmp_path / 'plots'}" in said(capsys, "pareto", tmp_path).replace("\n", "")
    assert f"plots: {tmp_path / 'else'}" in said(capsys, "pareto", tmp_path, "--out", tmp_path / "else").replace(
        "\n", ""
    )


@pytest.mark.parametrize(
    ("asked", "formats"),
    [("png", ("png",)), ("pdf", ("pdf",)), ("png, PDF,png", ("pdf", "png"))],
)
def test_plots_are_drawn_in_the_formats_that_were_asked_for(asked: str, formats: tuple[str, ...]) -> None:
    assert _formats(asked) == formats


def test_references_have_six_digits_and_are_of_the_controlled_runs(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    write_study(tmp_path, {"flat": flat}, range(1), suite=False, name="ours")
    write_study(tmp_path, {"flat": lambda s, n: 0.9}, range(1), suite=False, name="paper", protocol="paper")

    text = said(capsys, "pareto", tmp_path, "--references")

    assert "base = 0.123457\n" in text
    assert list(tomllib.loads(text)["references"]) == ["shapes/shapes-pref"]


@pytest.mark.parametrize("option", ["partition", "=gpu", ""])
def test_an_option_without_key_or_value_is_one_sentence(option: str) -> None:
    told = sentence(cli_here("sweep", "shapes", "--executor", "slurm", "--option", option))

    assert told == f"--option takes KEY=VALUE, such as partition=gpu, not {option!r}"


SUITE = small_suite(contrasts="[]")


def test_a_finished_suite_is_shown_and_nothing_is_written(tmp_path: Path) -> None:
    suite, results = tmp_path / "suite.toml", tmp_path / "results"
    suite.write_text(SUITE, encoding="utf-8")
    cells = suite_cells(parse_suite(SUITE))
    for cell in cells:
        record = RunRecord(
            run=cell.run, status="done", method=cell.record.method, reward="gaussian", workload="gaussian", seed=0,
            tier="analytic", rules_version=1, numerics_version=1, device="cpu",
        )  # fmt: skip
        store = RunStore.create(results, cell.run, cell.config.to_toml(), record)
        (store.folder / "points.parquet").write_bytes(encode([{"iteration": 0, "nfe": 4000, "gold": 0.5}]))
    announce(results, suite_record(parse_suite(SUITE), cells))
    before = {path: path.stat().st_mtime_ns for path in sorted(results.rglob("*"))}

    done = cli_here("sweep", str(suite), "--results", str(results))

    assert done.returncode == 0, done.stderr
    assert f"results: {results}" in done.stdout
    assert {path: path.stat().st_mtime_ns for path in sorted(results.rglob("*"))} == before
