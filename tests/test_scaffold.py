"""`grpo-bench new`: what it writes is small, clean and works as it is; what it refuses; nothing is overwritten."""

from __future__ import annotations

import errno
import json
import os
import shlex
import subprocess
import sys
import tomllib
from collections.abc import Iterator
from pathlib import Path

import pytest
from fresh import loaded_by
from running import ROOT, cli, cli_here, environment, sentence

from grpo_bench.errors import UserError
from grpo_bench.registry import METHODS, load_plugin
from grpo_bench.scaffold.writer import new_method
from grpo_bench.store import atomic

LONG = "a" + "b" * 31
BAD = ["", "Late", "2late", "-late", "late-", "la--te", "late_noise", "../late", LONG + "b", "é"]


@pytest.fixture
def registered() -> Iterator[None]:
    """Takes back what a test registers."""
    before = dict(METHODS._plugins)
    yield
    METHODS._plugins.clear()
    METHODS._plugins.update(before)


def command(name: str, folder: Path) -> list[str]:
    return ["new", "method", name, "--output", str(folder)]


def said_commands(text: str) -> dict[str, list[str]]:
    """The commands that `new` offers, by what they are for, as a shell would split them."""
    lines = [line for line in text.splitlines() if " it   " in line or line.startswith("check it")]
    return {line.split()[0]: shlex.split(line)[2:] for line in lines}


@pytest.mark.parametrize("name", ["late", "late-noise", LONG, "grpo2"])
def test_it_writes_a_plugin_of_at_most_40_lines_and_its_test(name: str, tmp_path: Path) -> None:
    scaffold = new_method(name, tmp_path)

    module = name.replace("-", "_")
    assert sorted(item.name for item in tmp_path.iterdir()) == sorted([f"{module}.py", f"test_{module}.py"])
    lines = scaffold.plugin.read_text(encoding="utf-8").splitlines()
    assert len(lines) <= 40 and max(map(len, lines)) <= 120
    assert f'    name = "{name}"' in lines and "$" not in "".join(lines)


def test_what_it_says_can_be_copied(tmp_path: Path) -> None:
    # given a folder whose name needs quoting
    folder = tmp_path / "my methods"
    done = cli_here(*command("late-noise", folder))

    # then it names the file in a command of each kind
    assert (done.returncode, done.stderr) == (0, "")
    commands, plugin = said_commands(done.stdout), str(folder / "late_noise.py")
    assert commands["run"][:5] == ["grpo-bench", "run", "--method", "late-noise", "--plugin"]
    assert commands["check"] == ["grpo-bench", "check", "late-noise", "--plugin", plugin, "--fast"]
    assert commands["test"] == ["pytest", str(folder / "test_late_noise.py")]
    assert commands["run"][5] == plugin and commands["run"][6] == "--budget"
    # and the last lines are the entry point of the class that the file defines
    stanza = tomllib.loads(done.stdout[done.stdout.index("[project") :])
    assert stanza["project"]["entry-points"]["grpo_bench.methods"] == {"late-noise": "late_noise:LateNoise"}
    assert "class LateNoise(" in Path(plugin).read_text(encoding="utf-8")
    # and the drawing works as it was said
    drawn = cli_here(*commands["draw"][1:])
    assert drawn.returncode == 0 and "late-noise" in drawn.stdout


def test_it_registers_and_plans(tmp_path: Path) -> None:
    plugin = str(new_method("late-noise", tmp_path).plugin)

    listed = cli_here("list", "methods", "--plugin", plugin)
    plan = cli_here("plan", "late-noise", "--plugin", plugin, "--steps", "10", "--json", "--set", "method.group=6")

    assert "late-noise" in listed.stdout and "Noisy steps" in listed.stdout
    # 6 images, 3 noisy steps: 18 edges from one shared parent and two parents an image
    cost = json.loads(plan.stdout)
    assert (cost["images"], cost["trained_edges"], cost["train_nfe"]) == (6, 18, 13)


def test_it_fits_schedules_with_fewer_steps_than_it_has_noisy_ones(tmp_path: Path) -> None:
    plugin = str(new_method("late", tmp_path).plugin)

    plan = cli_here("plan", "late", "--plugin", plugin, "--steps", "2", "--json")

    assert json.loads(plan.stdout)["trained_edges"] == 12


@pytest.mark.parametrize("name", BAD)
def test_a_bad_name_is_refused(name: str, tmp_path: Path) -> None:
    said = sentence(cli_here("new", "method", "--output", str(tmp_path), "--", name))

    assert "at most 32 of a-z" in said and repr(name) in said
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize(
    ("name", "reason"),
    [
        *[(name, "is installed already") for name in ("flat", "branch-mix")],
        *[(name, "would hide Python's") for name in ("numpy", "json", "class", "lambda", "grpo-bench-methods")],
        *[(name, "would hide grpo-bench's") for name in ("forest", "method", "edge-batch", "field")],
    ],
)
def test_a_name_that_hides_something_is_refused(name: str, reason: str, tmp_path: Path) -> None:
    said = sentence(cli_here(*command(name, tmp_path)))

    assert reason in said
    assert not list(tmp_path.iterdir())


def test_a_plugins_name_is_taken(tmp_path: Path, registered: None) -> None:
    load_plugin(str(new_method("late", tmp_path / "mine").plugin))

    with pytest.raises(UserError, match="'late' is installed already"):
        new_method("late", tmp_path / "other")


@pytest.mark.parametrize("existing", ["late.py", "test_late.py"])
@pytest.mark.parametrize("kind", ["file", "folder", "dangling link"])
def test_nothing_is_overwritten(existing: str, kind: str, tmp_path: Path) -> None:
    # given something of that name, be it a link to nowhere
    taken = tmp_path / existing
    if kind == "file":
        taken.write_text("mine\n", encoding="utf-8")
    elif kind == "folder":
        taken.mkdir()
    else:
        taken.symlink_to(tmp_path / "nowhere")

    said = sentence(cli_here(*command("late", tmp_path)))

    assert str(taken) in said and "is not overwritten" in said
    assert [item.name for item in tmp_path.iterdir()] == [existing]
    assert kind != "file" or taken.read_text(encoding="utf-8") == "mine\n"


@pytest.mark.parametrize("below", ["file", "file/deeper"])
def test_a_folder_that_cannot_be_made_is_refused(below: str, tmp_path: Path) -> None:
    (tmp_path / "file").write_text("", encoding="utf-8")

    said = sentence(cli_here(*command("late", tmp_path / below)))

    assert str(tmp_path / below) in said and "--output" in said


def test_a_full_disk_leaves_neither_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    # given a disk that is full when the test is written, after the plugin
    flush, calls = os.fsync, []

    def full(handle: int) -> None:
        calls.append(handle)
        if len(calls) > 2:  # the plugin, and the folder that holds its name
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        flush(handle)

    monkeypatch.setattr(atomic.os, "fsync", full)

    with pytest.raises(UserError, match=r"test_late\.py: no space is left"):
        new_method("late", tmp_path)
    assert not list(tmp_path.iterdir())


def rules(*left_out: str) -> list[str]:
    """The repository's own ruff rules as flags, without those that start with `left_out`."""
    lint = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["tool"]["ruff"]["lint"]
    return [
        "--select",
        ",".join(rule for rule in lint["select"] if not rule.startswith(left_out)),
        "--ignore",
        ",".join(lint["ignore"]),
    ]


@pytest.mark.parametrize("name", ["g", "late-noise", LONG])
def test_what_it_writes_is_clean(name: str, tmp_path: Path) -> None:
    # given somebody's folder, where grpo-bench is one dependency among others
    scaffold = new_method(name, tmp_path)
    ruff = [sys.executable, "-m", "ruff"]
    plain = ["--isolated", "--no-cache", "--line-length", "120", "--target-version", "py311"]

    # a plugin's plan and credit are documented once, on the base class; tests are named for what they say
    for args in (
        ["check", *plain, *rules("D102"), str(scaffold.plugin)],
        ["check", *plain, *rules("D"), str(scaffold.test)],
        ["format", "--check", "--diff", *plain, str(tmp_path)],
    ):
        done = subprocess.run([*ruff, *args], cwd=tmp_path, capture_output=True, text=True, check=False)
        assert done.returncode == 0, done.stdout + done.stderr


@pytest.mark.slow
@pytest.mark.timeout(300)
def test_what_it_writes_is_typed(tmp_path: Path) -> None:
    new_method("late-noise", tmp_path)
    mypy = [sys.executable, "-m", "mypy", "--strict", "--follow-imports=silent", "--cache-dir", str(tmp_path / "cache")]

    done = subprocess.run(
        [*mypy, "late_noise.py", "test_late_noise.py"], cwd=tmp_path, env=environment(MYPYPATH=str(ROOT)),
        capture_output=True, text=True, check=False,
    )  # fmt: skip

    assert done.returncode == 0, done.stdout + done.stderr


@pytest.mark.slow
@pytest.mark.timeout(300)
def test_untouched_its_test_passes(tmp_path: Path) -> None:
    # given files that are made in one folder and tested from another
    made = cli(*command("late-noise", tmp_path / "mine"), cwd=tmp_path)
    assert made.returncode == 0, made.stderr

    (tmp_path / "elsewhere").mkdir()
    done = subprocess.run(
        [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", str(tmp_path / "mine" / "test_late_noise.py")],
        cwd=tmp_path / "elsewhere", env=environment(), capture_output=True, text=True, check=False,
    )  # fmt: skip

    assert done.returncode == 0, done.stdout + done.stderr
    assert "3 passed" in done.stdout


@pytest.mark.slow
def test_its_checks_notice_a_flipped_sign(tmp_path: Path) -> None:
    # given the change that CONTRIBUTING.md suggests trying
    flipped = "replace(credit, advantage_NP=-credit.advantage_NP"
    assert f"`{flipped})`" in (ROOT / "CONTRIBUTING.md").read_text(encoding="utf-8")
    plugin = new_method("late", tmp_path).plugin
    plugin.write_text(plugin.read_text(encoding="utf-8").replace("replace(credit", flipped), encoding="utf-8")

    done = cli_here("check", "late", "--plugin", str(plugin), "--fast")

    assert done.returncode == 1 and "credit: raising the reward of leaf" in " ".join(done.stdout.split())


def test_new_loads_nothing_heavy(tmp_path: Path) -> None:
    code = "from pathlib import Path\nfrom grpo_bench.scaffold.writer import new_method\nnew_method('late', Path())"

    assert not {"torch", "pandas", "matplotlib", "scipy"} & loaded_by(code, cwd=tmp_path)
