"""What the commands print: outcomes, lists and plans, complete, narrow, and safe to look at."""

from __future__ import annotations

import io
import json
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from rich.console import Console
from run_folder import point, stored

from grpo_bench.forest.builders import branching, chains
from grpo_bench.forest.sketch import Sketch
from grpo_bench.metering.ledger import PHASES, ROLES
from grpo_bench.registry import Entry
from grpo_bench.terminal.outcome import resume_command
from grpo_bench.terminal.tables import (
    comparison_json,
    outcome_json,
    plan_json,
    print_comparison,
    print_entries,
    print_outcome,
    print_plan,
    print_recipes,
)

HOSTILE = "[bold red]x[/bold red]\x1b]0;owned\x07\x1b[31m\x9b2J\r\n\u202etxt"
CONTROLS = {"\x1b", "\x07", "\x9b", "\r", "\u202e"}


def console(width: int = 90) -> Console:
    return Console(file=io.StringIO(), width=width, force_terminal=False, highlight=False)


def written(console: Console) -> str:
    assert isinstance(console.file, io.StringIO)
    return console.file.getvalue()


def sigmas(steps: int) -> np.ndarray:
    return np.linspace(1, 0, steps + 1)


def flat() -> Sketch:
    """Ten steps, 24 chains: 24 x 10 rollout evaluations, 24 x 9 trained edges, one parent each."""
    stochastic = np.arange(10) < 9
    stochastic[-1] = False
    return Sketch("flat", chains(sigmas(10), 24, stochastic))


def tree() -> Sketch:
    """Ten steps, three branchings of three from the start: 1 + 3 + 9 trained parents, 27 images."""
    return Sketch("tree", branching(sigmas(10), {0: 3, 1: 3, 2: 3}, np.arange(10) < 3))


def pruned() -> Sketch:
    """The tree, of which every parent at the last split keeps its first child: 3 + 9 + 9 edges, the same parents."""
    forest = tree().forest
    return Sketch("branch", forest, (forest.depth_N < 3) | (forest.child_index_N == 0))


def nft() -> Sketch:
    """24 ODE chains, each trained at 9 noise levels, with two frozen evaluations for every trained one."""
    return Sketch("nft", chains(sigmas(10), 24, np.zeros(10, dtype=bool)), frozen=2, draws=9)


def test_an_outcome_shows_scores_costs_times_and_files(tmp_path: Path) -> None:
    store = stored(tmp_path, [point(0, 0.4), point(2, 0.4512)])
    (store.folder / "curve.png").touch()
    out = console()
    print_outcome(store, out)
    lines = [line.split() for line in written(out).splitlines()]
    assert any(line[:3] == ["tree", "on", "shapes,"] and line[-4:] == ["done", "in", "4", "s"] for line in lines)
    assert any(line[:7] == ["gold", "=", "proxy", "(shapes)", "0.4000", "0.4512", "+0.0512"] for line in lines)
    assert any(line[:4] == ["diversity", "0.3000", "0.2800", "-0.0200"] for line in lines)
    together = " ".join(written(out).split())
    for part in ("rollout 2,000", "train 200", "budget nfe 2,600", "reward calls 54", "peak memory 1.25 GB"):
        assert part in together
    assert f"{store.folder}/curve.png" in together
    assert "grid.png" not in together
    assert "resume" not in together


def test_gold_and_proxy_are_apart_where_they_are_different_judges(tmp_path: Path) -> None:
    points = [
        point(0, 0.4, proxy=0.2, **{"reward/hps": 0.2}),
        point(1, 0.3, proxy=0.9, **{"reward/hps": 0.9}),
    ]
    store = stored(tmp_path, points, reward="hps", gold_is_proxy=False)
    out = console()
    print_outcome(store, out)
    together = " ".join(written(out).split())
    assert "gold (shapes) 0.4000 0.3000 -0.1000" in together
    assert "proxy (hps) 0.2000 0.9000 +0.7000" in together


@pytest.mark.parametrize("width", [60, 80, 90, 200])
def test_an_outcome_never_spreads_past_ninety_columns(tmp_path: Path, width: int) -> None:
    store = stored(tmp_path, [point(0, 0.4), point(10**9, 0.5)], reward="a:1," * 100)
    out = console(width)
    print_outcome(store, out)
    lines = [line for line in written(out).splitlines() if str(tmp_path) not in line]
    assert max(map(len, lines)) <= min(width, 90)


@pytest.mark.parametrize("width", [60, 80, 120])
def test_no_number_of_an_outcome_is_cut(tmp_path: Path, width: int) -> None:
    # given a long run: a million iterations of 27 images, on a device with much memory
    store = stored(tmp_path, [point(0, 0.4), point(10**6, 0.5, peak_memory_bytes=139.12e9)])
    out = console(width)
    print_outcome(store, out)
    together = " ".join(written(out).split())
    for part in ("rollout 1,000,000,000", "iterations 1,000,000", "reward calls 27,000,000", "peak memory 139.12 GB"):
        assert part in together, written(out)


@pytest.mark.parametrize("status", ["interrupted", "diverged", "failed", "running"])
def test_an_unfinished_run_says_why_and_how_to_go_on(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, status: str
) -> None:
    monkeypatch.setenv("GRPO_BENCH_RESULTS", str(tmp_path))
    reason = "" if status == "running" else "the reason of it"
    store = stored(tmp_path, [point(0, 0.4)], status=status, reason=reason)  # type: ignore[arg-type]
    out = console()
    print_outcome(store, out)
    together = " ".join(written(out).split())
    assert f"{status}: {reason or 'it is still running'}" in together
    # a diverged run would diverge again, so that there is nothing to resume
    way_on = "the same settings lead to the same end" if status == "diverged" else "--resume shapes-tree-s0-0123456789"
    assert way_on in together


def test_the_resume_command_names_a_folder_elsewhere_as_a_shell_reads_it(tmp_path: Path) -> None:
    store = stored(tmp_path / "my runs", [], status="interrupted")
    out = console()
    print_outcome(store, out)
    assert f"grpo-bench run --resume '{store.folder}'" in written(out)
    assert "before the first measurement" in written(out)


def test_the_resume_command_brings_the_plugins_of_the_run(tmp_path: Path) -> None:
    store = stored(tmp_path, [], status="interrupted")
    store.save_record(store.record.model_copy(update={"command": ("grpo-bench", "run", "--plugin", "my late.py")}))

    assert resume_command(store).endswith(" --plugin 'my late.py'")


def test_an_outcome_for_scripts_has_these_keys_and_no_others(tmp_path: Path) -> None:
    store = stored(tmp_path, [point(0, 0.4), point(2, 0.5)])
    outcome = json.loads(json.dumps(outcome_json(store, fresh=True)))
    assert list(outcome) == ["run", "status", "fresh", "gold", "proxy", "nfe", "seconds"]
    assert outcome["gold"] == outcome["proxy"] == {"base": 0.4, "final": 0.5}
    assert set(outcome["nfe"]) == set(ROLES)
    assert set(outcome["seconds"]) == set(PHASES)
    assert (outcome["nfe"]["rollout"], outcome["seconds"]["rollout"]) == (2000, 4.0)


def test_an_outcome_without_points_has_no_numbers_but_a_reason(tmp_path: Path) -> None:
    outcome = outcome_json(stored(tmp_path, [], status="diverged", reason=HOSTILE), fresh=False)
    assert outcome["gold"] == {"base": None, "final": None}
    assert outcome["reason"] == "[bold red]x[/bold red] \ufffdtxt"
    assert set(outcome["nfe"].values()) == {0}


def test_a_score_that_is_no_number_is_no_number_in_json(tmp_path: Path) -> None:
    store = stored(tmp_path, [point(0, 0.4), point(1, float("nan"))])
    assert json.dumps(outcome_json(store, fresh=True), allow_nan=False)
    assert outcome_json(store, fresh=True)["gold"] == {"base": 0.4, "final": None}


def test_hostile_text_is_shown_as_letters(tmp_path: Path) -> None:
    store = stored(tmp_path, [point(0, 0.4)], status="failed", reason=HOSTILE, reward="hps", gold_is_proxy=False)
    out = console(200)
    print_outcome(store, out)
    print_entries("methods", [Entry(HOSTILE, HOSTILE, HOSTILE, HOSTILE, HOSTILE, None)], verbose=True, console=out)
    print_entries("methods", [Entry("a", "", "", "b", "", HOSTILE)], verbose=False, console=out)
    print_recipes({HOSTILE: {"about": {"summary": HOSTILE, "paper": HOSTILE, "follows": HOSTILE}}}, out)
    named, other = Sketch(HOSTILE, tree().forest), Sketch(HOSTILE + "2", nft().forest)
    print_plan(named, other, console=out)
    print_comparison([named, other], console=out)
    assert not CONTROLS & set(written(out))
    assert "[bold red]x[/bold" in written(out)


def test_a_broken_plugin_is_listed_with_its_reason_and_hides_no_other() -> None:
    error = "ModuleNotFoundError: No module named 'flash_attn'; " + "and so on " * 20
    entries = [
        Entry("branch", "Branches.", "2509.06040", "grpo-bench", "1.2", None),
        Entry("broken", "", "", "my-plugin", "3.4", error),
    ]
    short, long = console(), console()
    print_entries("methods", entries, verbose=False, console=short)
    print_entries("methods", entries, verbose=True, console=long)
    together = " ".join(written(short).split())
    assert "branch Branches. arXiv 2509.06040 grpo-bench" in together
    assert "cannot be loaded" in together
    assert "flash_attn" in together
    assert "and so on and so on" not in together
    assert "1.2" not in together
    assert written(long).count("and so on") >= 15
    assert "grpo-bench 1.2" in written(long)
    assert max(map(len, (written(short) + written(long)).splitlines())) <= 90


def test_an_empty_list_says_so() -> None:
    out = console()
    print_entries("rewards", [], verbose=False, console=out)
    print_recipes({}, out)
    assert written(out) == "no rewards are installed\nno recipes are installed\n"


def test_a_recipe_shows_what_it_follows_even_without_a_paper() -> None:
    out = console()
    print_recipes({"mine": {"about": {"summary": "Own settings", "follows": "nothing"}}, "bare": {}}, out)
    assert "mine" in written(out)
    assert "Own settings" in written(out)
    assert "bare" in written(out)


def test_a_plan_shows_the_published_costs_beside_the_baselines() -> None:
    out = console()
    print_plan(tree(), flat(), console=out)
    lines = [" ".join(line.split()) for line in written(out).splitlines()]
    # Hand counts of the issue: tree 202/13/39/27, flat 240/216/216/24.
    assert "rollout evaluations 202 240 0.84" in lines
    assert "training evaluations 13 216 0.06" in lines
    assert "trained edges 39 216 0.18" in lines
    assert "images 27 24 1.12" in lines
    assert "nfe (rollout + 3 x train) 241 888 0.27" in lines
    assert any("━" in line and "◆" in line for line in lines)


def test_a_plan_of_the_baseline_itself_has_one_column() -> None:
    out = console()
    print_plan(flat(), flat(), console=out)
    assert " ratio" not in written(out)
    assert "rollout evaluations 240" in " ".join(written(out).split())


def test_a_plan_for_scripts_has_the_costs_per_prompt() -> None:
    assert plan_json(tree()) == {
        "nodes": 229,
        "trained_edges": 39,
        "rollout_nfe": 202,
        "train_nfe": 13,
        "images": 27,
    }


def test_a_plan_shows_what_pruning_keeps_and_what_a_reference_costs() -> None:
    out = console()
    print_plan(pruned(), flat(), console=out)
    print_plan(nft(), flat(), console=out)
    lines = [" ".join(line.split()) for line in written(out).splitlines()]
    assert "trained edges, pruned 21 216 0.10" in lines
    # the first child's siblings share its parent's evaluation, so that pruning saves none here
    assert "training evaluations, pruned 13 216 0.06" in lines
    assert "reference evaluations 432 0 –" in lines
    assert "forward draws a leaf 9 0 –" in lines
    # 240 + 2 x 216 + 3 x 216
    assert "nfe (rollout + reference + 3 x train) 1,320 888 1.49" in lines
    assert plan_json(pruned())["kept_edges"] == 21
    assert plan_json(pruned())["kept_train_nfe"] == 13
    assert (plan_json(nft())["reference_nfe"], plan_json(nft())["forward_draws"]) == (432, 9)


@pytest.mark.parametrize("width", [80, 120])
def test_methods_side_by_side_fit_the_terminal(width: int) -> None:
    out = console(width)
    print_comparison([flat(), tree(), pruned(), nft()], console=out)
    assert max(map(len, written(out).splitlines())) <= width
    lines = [" ".join(line.split()) for line in written(out).splitlines()]
    # rollout, reference and train NFE, trained edges, images, nfe, relative to flat
    assert "flat 240 0 216 216 24 888 1.00" in lines
    assert "tree 202 0 13 39 27 241 0.27" in lines
    assert lines[lines.index("branch 202 0 13 39 27 241 0.27") + 1] == "pruned 202 0 13 21 27 241 0.27"
    assert "nft 240 432 216 0 24 1,320 1.49" in lines
    assert "nft: 9 forward draws a leaf" in lines


def test_a_reference_has_a_column_only_where_one_is_evaluated() -> None:
    out = console()
    print_comparison([flat(), tree()], console=out)
    assert "reference" not in written(out)
    assert "pruned" not in written(out)
    assert "tree 202 13 39 27 241 0.27" in [" ".join(line.split()) for line in written(out).splitlines()]


def test_methods_side_by_side_for_scripts() -> None:
    first, second = comparison_json([flat(), pruned()])
    assert (first["method"], first["nfe"], first["ratio"]) == ("flat", 888, 1.0)
    assert second == plan_json(pruned()) | {"method": "branch", "nfe": 241, "ratio": 241 / 888}


def test_the_tables_start_without_torch() -> None:
    code = "import sys, grpo_bench.terminal.tables, grpo_bench.terminal.display, grpo_bench.analysis.pictures as p;"
    code += (
        "import grpo_bench.analysis.grid; sys.exit(bool({'torch', 'pandas', 'matplotlib', 'PIL'} & set(sys.modules)))"
    )
    assert subprocess.run([sys.executable, "-c", code], cwd=Path(__file__).parents[1], check=False).returncode == 0
