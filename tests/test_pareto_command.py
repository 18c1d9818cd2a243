"""`grpo-bench pareto`: what it prints, what it refuses, and what it leaves behind."""

from __future__ import annotations

import json
import tomllib
from concurrent.futures.process import BrokenProcessPool
from pathlib import Path

import pytest
from studies import Spend, write_study
from typer.testing import CliRunner, Result

from grpo_bench.analysis.axes import AXES
from grpo_bench.cli import app
from grpo_bench.commands.pareto import Cost
from grpo_bench.errors import UserError
from grpo_bench.store.suite import References


def flat(seed: int, nfe: float) -> float:
    return 0.5 + (0.10 + 0.010 * seed) * nfe / 64_000


def tree(seed: int, nfe: float) -> float:
    return 0.5 + (0.20 + 0.011 * seed + 0.003 * (seed % 2)) * nfe / 64_000


def call(*arguments: str) -> Result:
    return CliRunner().invoke(app, ["pareto", *arguments], catch_exceptions=False)


@pytest.mark.usefixtures("undrawn")
def test_the_verdict_comes_first_and_then_what_qualifies_it(tmp_path: Path) -> None:
    write_study(
        tmp_path, {"flat": flat, "tree": tree, "mix": flat}, range(6), contrasts=("tree",), bases=(0.50, 0.51),
        status={("mix", 2): ("diverged", "gold became NaN at iteration 9")}, missing=[("mix", 5)],
        spend={"tree": Spend(reward_calls=100)},
    )  # fmt: skip
    said = call(str(tmp_path)).stdout
    lines = said.splitlines()
    assert lines[0] == "study: A study"
    assert lines[3].startswith("Better than flat in gold at the full budget: tree (+0.104, Holm's p <0.001).")
    assert lines[4].startswith("Frontier from 3,200 to 64,000 nfe: tree, ahead in 4 of 4 common seeds at its end, ")
    # tree makes three times the reward calls, so that flat is ahead on that axis: a win on one axis is told as such
    assert "over reward-calls: flat (ahead in 4 of 4 seeds at the cut)" in lines[5]
    row = next(line for line in lines if line.startswith(" tree") and "[+" in line)
    assert row.split()[1] == "better"  # beside the label, where a narrow terminal does not fold it away
    assert "0.031 (0.031)" in row  # the permutation p, at its floor of 2 / 2^6
    assert "Noise floor: 2 evaluations of the untrained base lie up to 0.0100 apart" in said
    assert "the view is cut at 64,000, the least that any of its 16 runs spent" in said
    assert "nominal 95%, measured about 95% on normal data" in said
    assert "mix seed 2 diverged: gold became NaN at iteration 9 (study-mix-s2)" in said
    assert "Not yet run: 1 cell of the suite: mix seed 5." in said
    assert "exploratory" in said


@pytest.mark.usefixtures("undrawn")
def test_below_five_seeds_nothing_is_better(tmp_path: Path) -> None:
    write_study(tmp_path, {"flat": flat, "tree": tree}, range(4), contrasts=("tree",))
    said = call(str(tmp_path)).stdout
    assert "better" not in said.lower() and "Too few seeds to compare with flat" in said


@pytest.mark.usefixtures("undrawn")
def test_a_gain_within_the_noise_floor_is_not_called_one(tmp_path: Path) -> None:
    write_study(tmp_path, {"flat": lambda seed, nfe: 0.5 + 0.01 * nfe / 64_000}, range(5), bases=(0.50, 0.52))
    said = call(str(tmp_path)).stdout
    assert "within the noise floor" in said


@pytest.mark.usefixtures("undrawn")
def test_over_another_cost_the_tables_change(tmp_path: Path) -> None:
    write_study(tmp_path, {"flat": flat, "tree": tree}, spend={"tree": Spend(reward_calls=320)}, timed=False)
    said = call(str(tmp_path), "--cost", "reward-calls").stdout
    # 64 iterations of 32 calls: tree has by then made 6.4 of its own, and a tenth of its gain
    assert "cut at 2,048" in said and "to 2,048 reward-calls: flat" in said
    assert "none had its device to itself" in call(str(tmp_path), "--cost", "seconds").stdout
    assert " shared " in said


@pytest.mark.usefixtures("undrawn")
def test_without_a_finished_run_there_is_one_sentence(tmp_path: Path) -> None:
    write_study(tmp_path, {"flat": flat}, range(2), status={("flat", seed): ("diverged", "NaN") for seed in range(2)})
    said = call(str(tmp_path)).stdout
    assert "No run of study is finished, so there is nothing to compare yet." in said
    assert "flat seed 1 diverged: NaN" in said and "hypervolume" not in said


@pytest.mark.usefixtures("undrawn")
def test_json_holds_every_figure_and_no_nan(tmp_path: Path) -> None:
    write_study(tmp_path, {"flat": flat, "tree": tree}, contrasts=("tree",), missing=[("tree", 4)])
    (study,) = json.loads(call(str(tmp_path), "--json").stdout, parse_constant=pytest.fail)
    assert study["study"] == "study" and study["missing"] == [{"label": "tree", "seed": 4, "run": "study-tree-s4"}]
    (view,) = study["views"]
    assert view["methods"][1]["gold"]["mean"] == pytest.approx(0.5 + 0.20 + 0.011 * 1.5 + 0.0015)
    assert view["contrasts"][0]["verdict"] == "too few seeds"


def test_references_are_a_table_that_a_suite_takes(tmp_path: Path) -> None:
    write_study(tmp_path, {"flat": flat, "tree": tree}, range(5))
    table = tomllib.loads(call(str(tmp_path), "--references").stdout)
    measured = References.model_validate(table["references"]["shapes/shapes-pref"])
    assert measured.base == 0.5 and measured.best == 1.0
    assert measured.costs == {
        "nfe": 64_000, "rollout-nfe": 25_600, "reward-calls": 2048, "updates": 128, "seconds": 128,
    }  # fmt: skip
    assert measured.targets == pytest.approx({"25": 0.53, "50": 0.56, "90": 0.608})  # the median seed gains 0.12


@pytest.mark.usefixtures("undrawn")
def test_what_is_misspelt_or_empty_is_one_sentence(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"--format takes pdf and png, not 'pmg'"):
        call(str(tmp_path), "--format", "pmg")
    with pytest.raises(UserError, match="holds no runs"):
        call(str(tmp_path))
    for name in ("one", "two"):
        write_study(tmp_path / name, {"flat": flat}, range(1), name=name)
    with pytest.raises(UserError, match=r"is one run; give the folder that it lies in"):
        call(str(tmp_path / "one" / "one-flat-s0"))
    with pytest.raises(UserError, match=r"several studies here have runs of shapes/shapes-pref"):
        call(str(tmp_path), "--references")


@pytest.mark.usefixtures("undrawn")
def test_a_killed_drawing_process_is_one_sentence(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def die(*_: object) -> list[str]:
        raise BrokenProcessPool

    write_study(tmp_path, {"flat": flat}, range(1))
    monkeypatch.setattr("grpo_bench.commands.pareto._draw", die)
    with pytest.raises(UserError, match="a process that draws was killed"):
        call(str(tmp_path))


def test_the_costs_are_the_axes() -> None:
    assert tuple(cost.value for cost in Cost) == AXES


@pytest.mark.slow
def test_plots_and_forests_are_drawn_beside_the_runs(tmp_path: Path) -> None:
    write_study(tmp_path, {"flat": flat, "a-plugin": tree}, range(1), suite=False, timed=False)
    said = call(str(tmp_path), "--format", "png").stdout
    (folder,) = (tmp_path / "plots" / tmp_path.name).iterdir()
    names = {path.name for path in folder.iterdir()}
    assert {"pareto-nfe.png", "curves-updates.png", "phases.png", "gap.png", "forests.png", "data.json"} <= names
    assert not any("seconds" in name or name.endswith(".pdf") for name in names)
    where = f"{folder.parent.name}/{folder.name}"
    assert f"not drawn: {where}: no run was timed, so nothing is drawn over seconds" in said
    assert "the forest of a-plugin" in said and "no method is named 'a-plugin'" in said
    # a second call finds the same runs: the plots' folder is none
    assert "is not a whole run" not in call(str(tmp_path), "--format", "png").stdout
