"""The command line: what each command prints where, with which exit code, and what it loads for it."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest
import tomli_w
from PIL import Image
from running import ROOT, Make, Watcher, cli, cli_here, environment, run, settings, write_prompts

from grpo_bench import __version__
from grpo_bench.store.run import RunStore, run_names

BUILT_IN = {
    "methods": {"flat", "mix", "tree"},
    "rewards": {"shapes", "shapes-correctness", "shapes-appeal", "jpeg-compressibility", "jpeg-incompressibility"},
    "workloads": {"shapes", "prompts"},
    "recipes": {"flow-grpo", "dancegrpo"},
}
CALLS = {"plan": ["plan", "tree", "--json"], "help": ["--help"], "list": ["list", "methods"], "run": ["run", "--help"]}
REWARD = """
from grpo_bench import Reward


class Fades(Reward):
    '''Brightness, and after the first evaluation {value}.'''

    name = "fades"
    range = (0.0, 1.0)
    calls = 0

    def score(self, images_BCHW, prompts):
        self.calls += 1
        score = images_BCHW.mean(dim=(1, 2, 3))
        {then}
        return score
"""


@pytest.fixture
def base(tiny_model: Path, tmp_path: Path) -> list[str]:
    """`run` with a config file of the small run."""
    table = settings(tiny_model, write_prompts(tmp_path))
    (tmp_path / "base.toml").write_text(tomli_w.dumps(table), encoding="utf-8")
    return ["run", "--config", str(tmp_path / "base.toml")]


@pytest.mark.parametrize("args", CALLS.values(), ids=CALLS.keys())
def test_what_runs_no_model_loads_nothing_heavy(args: list[str], tmp_path: Path) -> None:
    # given a fresh interpreter that says at its exit what it has loaded
    code = (
        "import atexit, json, sys\n"
        "names = lambda: sorted({name.partition('.')[0] for name in sys.modules})\n"
        "atexit.register(lambda: print(json.dumps(names()), file=sys.stderr))\n"
        f"sys.argv = {['grpo-bench', *args]!r}\n"
        "from grpo_bench.cli import main\nmain()"
    )
    done = subprocess.run(
        [sys.executable, "-c", code], cwd=tmp_path, env=environment(), capture_output=True, text=True, timeout=50,
        check=True,
    )  # fmt: skip

    loaded = set(json.loads(done.stderr.splitlines()[-1]))
    heavy = {"torch", "diffusers", "transformers", "pandas", "pyarrow", "matplotlib", "scipy"}
    assert not loaded & heavy
    assert done.stdout


def test_version() -> None:
    done = cli_here("--version")

    assert (done.returncode, done.stdout, done.stderr) == (0, f"grpo-bench {__version__}\n", "")


def test_help_names_every_command() -> None:
    done = cli_here("--help")

    assert done.returncode == 0 and done.stderr == ""
    assert all(f" {name} " in done.stdout for name in ("run", "list", "plan", "sample", "pretrain"))


@pytest.mark.parametrize("kind", BUILT_IN)
def test_list_has_the_built_ins_with_their_origin(kind: str) -> None:
    done = cli_here("list", kind)

    assert done.returncode == 0 and done.stderr == ""
    first_words = {line.split()[0] for line in done.stdout.splitlines() if line.strip()}
    assert BUILT_IN[kind] <= first_words
    assert "arXiv" in done.stdout or kind == "workloads"


def test_list_shows_a_plugin_and_its_file(tmp_path: Path) -> None:
    (tmp_path / "mine.py").write_text(REWARD.format(value="on", then="pass"), encoding="utf-8")

    done = cli_here("list", "rewards", "-v", "--plugin", str(tmp_path / "mine.py"))

    unwrapped = "".join(done.stdout.split())  # the folder's name may be longer than a line
    assert "fades" in unwrapped and "mine.py" in unwrapped


COSTS = ("nodes", "trained_edges", "rollout_nfe", "train_nfe", "images")


@pytest.mark.parametrize(
    ("args", "costs"),
    [
        # T = 10, b = 3, w = 3 from step 0: 1 + 3 + 9 + 27 x 7 parents, 1 + 3 + 9 trained
        (["tree", "--set", "method.window_start=0"], (229, 39, 202, 13, 27)),
        # 24 chains of 10 evaluations, 9 of their steps trained, 11 nodes each
        (["flat"], (264, 216, 240, 216, 24)),
        (["flat", "--set", "method.shared_noise=true"], (241, 216, 217, 193, 24)),
        # T = 4: 2 chains of 4 evaluations
        (["flat", "--steps", "4", "--set", "method.group=2"], (10, 6, 8, 6, 2)),
    ],
)  # fmt: skip
def test_plan_prints_exact_costs_a_prompt_as_one_json_line(args: list[str], costs: tuple[int, ...]) -> None:
    steps = [] if "--steps" in args else ["--steps", "10"]
    done = cli_here("plan", *args, *steps, "--json")

    assert (done.returncode, done.stderr) == (0, "")
    assert done.stdout.count("\n") == 1 and json.loads(done.stdout) == dict(zip(COSTS, costs, strict=True))


def test_plan_draws_beside_its_baseline(tmp_path: Path) -> None:
    done = cli_here("plan", "tree", "--steps", "6", "--png", str(tmp_path / "tree.png"))

    assert done.returncode == 0 and "flat" in done.stdout and str(tmp_path / "tree.png") in done.stdout
    with Image.open(tmp_path / "tree.png") as picture:
        assert min(picture.size) > 100


def test_methods_are_put_side_by_side(tmp_path: Path) -> None:
    names = ["flat", "tree", "branch", "tempflow"]
    done = cli_here("plan", "--compare", *names, "--steps", "10", "--png", str(tmp_path / "all.png"))

    # then there is a line a method, with methods.md's counts: tempflow 1116 + 3 x 36 = 1224, flat 240 + 3 x 216 = 888
    assert (done.returncode, done.stderr) == (0, "")
    lines = [line.split() for line in done.stdout.splitlines()]
    assert [line[0] for line in lines if line and line[0] in names] == names
    assert ["branch", "99", "83", "98", "16", "348", "0.39"] in lines
    assert ["tempflow", "1,116", "36", "216", "216", "1,224", "1.38"] in lines
    with Image.open(tmp_path / "all.png") as picture:
        assert picture.width == 1400


def test_a_setting_of_one_compared_method_names_it() -> None:
    done = cli_here("plan", "--compare", "flat", "branch", "--set", "branch.prune_width=parent-top1", "--steps", "20",
                    "--set", "method.std=global", "--json")  # fmt: skip

    # then branch keeps methods.md's 130 edges and 115 evaluations, whatever the rewards, and flat keeps all
    flat, branch = json.loads(done.stdout)
    assert (branch["trained_edges"], branch["kept_edges"], branch["kept_train_nfe"]) == (202, 130, 115)
    assert "kept_edges" not in flat and branch["ratio"] == branch["nfe"] / flat["nfe"]


def test_a_plan_says_what_training_on_the_forward_process_costs() -> None:
    done = cli_here("plan", "nft", "--steps", "10")

    assert any(line.split()[:6] == ["forward", "draws", "a", "leaf", "9", "0"] for line in done.stdout.splitlines())


@pytest.mark.parametrize(
    ("args", "said"),
    [
        (["flat", "tree"], "--compare"),
        (["--compare", "flat"], "name another"),
        (["--compare", "flat", "tere"], "did you mean 'tree'"),
        (["--compare", "flat", "tree", "--recipe", "dancegrpo"], "'dancegrpo'"),
        (["--compare", "flat", "tree", "--set", "method.window=2"], "--set tree.window=VALUE"),
        (["--compare", "flat", "tree", "--set", "tree.windw=2"], "window"),
        (["--compare", "flat", "tree", "--set", "mix.window=2"], "mix"),
    ],
)
def test_a_comparison_that_would_mislead_is_refused(args: list[str], said: str) -> None:
    done = cli_here("plan", *args)

    assert (done.returncode, done.stdout) == (2, "")
    assert len(done.stderr.splitlines()) == 1 and said in done.stderr


def test_a_picture_with_json_leaves_stdout_one_line(tmp_path: Path) -> None:
    done = cli_here("plan", "tree", "--json", "--png", str(tmp_path / "tree.png"))

    assert done.stdout.count("\n") == 1 and (tmp_path / "tree.png").exists()


def test_quiet_run_prints_one_json_line(base: list[str], results: Path) -> None:
    done = cli_here(*base, "--quiet")

    assert (done.returncode, done.stderr) == (0, "")
    assert done.stdout.count("\n") == 1
    said = json.loads(done.stdout)
    assert set(said) == {"run", "status", "fresh", "gold", "proxy", "nfe", "seconds"}
    assert run_names(results) == [said["run"]] and said["status"] == "done"
    rows = RunStore(results / said["run"]).rows()
    assert said["gold"] == {"base": rows[0]["gold"], "final": rows[-1]["gold"]}
    assert said["proxy"] == {"base": rows[0]["proxy"], "final": rows[-1]["proxy"]}
    # 3 iterations x 2 prompts x (8 rollout, 6 train); 2 evaluations x (8 images' steps + 8 distances)
    assert {role: said["nfe"][role] for role in ("rollout", "train", "reference", "eval")} == {
        "rollout": 48, "train": 36, "reference": 0, "eval": 32,
    }  # fmt: skip
    assert {"plan", "rollout", "decode", "reward", "credit", "train", "eval", "io", "setup"} <= set(said["seconds"])


@pytest.mark.slow
def test_run_ends_with_a_table_the_folder_and_the_pictures(base: list[str], results: Path) -> None:
    done = cli_here(*base)

    (name,) = run_names(results)
    assert done.returncode == 0
    assert all(
        word in done.stdout for word in ("base", "final", "diversity", "rollout", "updates", "peak memory", name)
    )
    for picture in ("curve.png", "grid.png"):
        assert picture in done.stdout
        with Image.open(results / name / picture) as image:
            assert min(image.size) > 30

    # progress goes to stderr, never to stdout
    assert "iteration 3" in done.stderr and "iteration 3" not in done.stdout and "\x1b" not in done.stdout + done.stderr


def test_verbose_logs_to_stderr_and_the_log_is_kept_anyway(base: list[str], results: Path) -> None:
    done = cli_here(*base, "-v", "--quiet")

    assert "first ratio off by" in done.stderr and done.stdout.count("\n") == 1
    assert "first ratio off by" in (results / run_names(results)[0] / "run.log").read_text(encoding="utf-8")


def test_a_finished_run_is_shown_again(base: list[str], results: Path) -> None:
    first, second = cli_here(*base, "--quiet"), cli_here(*base, "--quiet")
    shown = cli_here(*base)

    assert json.loads(first.stdout) | {"fresh": False} == json.loads(second.stdout)
    assert "--again" in shown.stdout and "iteration" not in shown.stderr
    again = cli_here(*base, "--quiet", "--again")
    assert json.loads(again.stdout)["seconds"] != json.loads(first.stdout)["seconds"]


@pytest.mark.slow
def test_the_stored_config_runs_the_same_run(base: list[str], results: Path, tmp_path: Path) -> None:
    # given a run, and its config.toml as somebody else's my.toml
    first = json.loads(cli_here(*base, "--quiet", "--set", "training.learning_rate=3e-4", "--seed", "7").stdout)
    (tmp_path / "my.toml").write_bytes((results / first["run"] / "config.toml").read_bytes())

    second = cli_here("run", "--config", str(tmp_path / "my.toml"), "--results", str(tmp_path / "other"), "--quiet")

    assert json.loads(second.stdout)["run"] == first["run"]
    assert json.loads(second.stdout)["gold"] == first["gold"]


@pytest.mark.slow
def test_a_recipes_stored_config_runs_the_same_run(base: list[str], results: Path, tmp_path: Path) -> None:
    done = cli_here(*base, "--recipe", "dancegrpo", "--set", "method.group=2", "--budget", "iterations=1", "--quiet")
    first = json.loads(done.stdout)
    stored = results / first["run"] / "config.toml"
    assert tomllib.loads(stored.read_text(encoding="utf-8"))["recipe"] == "dancegrpo"

    again = json.loads(cli_here("run", "--config", str(stored), "--quiet").stdout)
    assert again == first | {"fresh": False}


@pytest.mark.slow
def test_results_go_where_they_are_sent(
    base: list[str], results: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    # given nothing said: ./results/runs; the environment wins over that, the flag over both
    here = tmp_path / "here"
    here.mkdir()
    monkeypatch.chdir(here)
    cli_here(*base, "--quiet")
    cli_here(*base, "--quiet", "--results", "elsewhere")
    monkeypatch.delenv("GRPO_BENCH_RESULTS")
    cli_here(*base, "--quiet")

    names = [run_names(folder) for folder in (results, here / "elsewhere", here / "results" / "runs")]
    assert len(names[0]) == 1 and names[0] == names[1] == names[2]


@pytest.mark.slow
def test_sample_draws_base_and_trained_side_by_side(base: list[str], results: Path, tmp_path: Path) -> None:
    name = json.loads(cli_here(*base, "--quiet").stdout)["run"]

    done = cli_here("sample", name, "--prompt", "a shape", "--prompt", "\x1b[2J[bold]evil", "--images", "3")

    assert done.returncode == 0, done.stderr
    path = results / name / "sample.png"
    assert str(path) in done.stdout and "\x1b" not in done.stdout
    with Image.open(path) as picture:
        assert picture.width >= 3 * 32 and picture.height >= 2 * 2 * 32
    elsewhere = cli_here("sample", str(results / name), "--prompt", "a", "--out", str(tmp_path / "mine.png"))
    assert elsewhere.returncode == 0 and (tmp_path / "mine.png").exists()

    # a finished run is not told to finish, whatever has become of its weights
    shutil.rmtree(results / name / "checkpoint")
    lost = cli_here("sample", name, "--prompt", "a")
    assert lost.returncode != 0 and "--again" in lost.stderr and "--resume" not in lost.stderr


def test_a_diverged_run_exits_with_3_and_shows_its_reason(base: list[str], tmp_path: Path) -> None:
    (tmp_path / "mine.py").write_text(
        REWARD.format(value="NaN", then="score[self.calls > 1 :] = float('nan') if self.calls > 1 else score"),
        encoding="utf-8",
    )
    flags = ["--plugin", str(tmp_path / "mine.py"), "--reward", "fades"]

    quiet, shown = cli_here(*base, *flags, "--quiet"), cli_here(*base, *flags)

    assert (quiet.returncode, shown.returncode) == (3, 3)
    said = json.loads(quiet.stdout)
    assert (said["status"], said["gold"]["final"]) == ("diverged", said["gold"]["base"])
    assert said["reason"].startswith("reward 'fades' gave nan") and "\n" not in said["reason"]
    assert "diverged" in shown.stdout and "reward 'fades' gave nan" in shown.stdout


def test_out_of_memory_exits_with_1(base: list[str], tmp_path: Path) -> None:
    (tmp_path / "mine.py").write_text(REWARD.format(value="no memory", then="raise MemoryError"), encoding="utf-8")

    done = cli_here(*base, "--plugin", str(tmp_path / "mine.py"), "--reward", "fades", "--quiet")

    assert done.returncode == 1 and json.loads(done.stdout)["reason"].startswith("out of memory")


def test_resume_goes_on_with_a_run_by_name_or_folder(make: Make, base: list[str], results: Path) -> None:
    for by_folder in (False, True):
        stopped = run(make(seed=int(by_folder)), results, Watcher(stop_after=1))
        done = cli_here("run", "--resume", str(stopped.store.folder) if by_folder else stopped.record.run, "--quiet")
        assert done.returncode == 0, done.stderr
        assert json.loads(done.stdout)["run"] == stopped.record.run and stopped.store.record.status == "done"


def test_a_tensorboard_log_is_written_when_asked_for(base: list[str], results: Path) -> None:
    pytest.importorskip("tensorboard")

    done = cli_here(*base, "--quiet", "--log", "tensorboard")

    assert done.returncode == 0, done.stderr
    assert list((results / run_names(results)[0] / "tensorboard").glob("events*"))


def test_prompts_that_would_steer_a_terminal_do_not(base: list[str], results: Path, tmp_path: Path) -> None:
    # given hostile prompts on either side of the split
    (tmp_path / "prompts.txt").write_text("\x1b[31mred\x07\n[bold]x[/bold]\n\x9b2J\u202egone\n", encoding="utf-8")

    done = cli_here(*base, "-v")

    assert done.returncode == 0, done.stderr
    assert not {"\x1b", "\x07", "\x9b", "\u202e"} & set(done.stdout + done.stderr)


@pytest.mark.slow
@pytest.mark.timeout(240)
@pytest.mark.parametrize("inside", [True, False], ids=["in the repository", "elsewhere"])
def test_it_works_wherever_one_stands(base: list[str], results: Path, tmp_path: Path, inside: bool) -> None:
    done = cli(*base, "--quiet", cwd=ROOT if inside else tmp_path)

    assert (done.returncode, done.stderr) == (0, "")
    assert run_names(results) == [json.loads(done.stdout)["run"]]
