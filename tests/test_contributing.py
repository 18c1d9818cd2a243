"""CONTRIBUTING.md does what it says: its walkthrough is done in an empty folder, block by block, as a reader would.

Every fenced block takes part: `sh` is run, `python` is what a file then holds, `diff` changes the one file that it
fits, `toml` is a file that its first line names. Indented blocks (of this repository itself) take no part.
"""

from __future__ import annotations

import dataclasses
import os
import re
import subprocess
import sys
import sysconfig
from dataclasses import dataclass
from importlib.metadata import entry_points
from pathlib import Path

import pytest
from running import ROOT

import grpo_bench

TEXT = (ROOT / "CONTRIBUTING.md").read_text(encoding="utf-8")
# guarded as pip writes them: processes that draw plots import the program that started them
PROGRAMS = {
    "grpo-bench": "from grpo_bench.cli import main\nif __name__ == '__main__':\n    main()",
    "pytest": "import pytest; raise SystemExit(pytest.main())",
}


@dataclass(frozen=True)
class Block:
    """A fenced block: its language and its text."""

    kind: str
    text: str


BLOCKS = [Block(*found) for found in re.findall(r"^```(\w*)\n(.*?)^```$", TEXT, re.DOTALL | re.MULTILINE)]


@dataclass(frozen=True)
class Desk:
    """An empty folder to stand in, and an environment of its own, into which the reader's package can be installed."""

    folder: Path
    scripts: Path

    def run(self, command: str) -> None:
        """Run a line as a shell does; fails the test with all that it said when it fails."""
        kept = {key: value for key, value in os.environ.items() if not key.startswith(("PYTHON", "PIP_", "GRPO_"))}
        # pip needs neither the network nor another setuptools for a package of one file
        pip = {"PIP_NO_INDEX": "1", "PIP_NO_BUILD_ISOLATION": "0", "PIP_DISABLE_PIP_VERSION_CHECK": "1"}
        path = os.pathsep.join([str(self.scripts), kept["PATH"]])
        done = subprocess.run(
            ["sh", "-c", command], cwd=self.folder, env={**kept, **pip, "PATH": path, "NO_COLOR": "1"},
            capture_output=True, text=True, check=False,
        )  # fmt: skip
        assert done.returncode == 0, f"{command}\nexited with {done.returncode}:\n{done.stdout}{done.stderr}"

    def holds(self, text: str) -> bool:
        """Whether a file of the folder is that text."""
        return any(path.read_text(encoding="utf-8") == text for path in self.folder.glob("*.py"))

    def change(self, diff: str) -> None:
        """Replace the lines with ' ' and '-' by those with ' ' and '+', in the one file that has them."""
        lines = diff.splitlines(keepends=True)
        before, after = ("".join(line[1:] for line in lines if line[0] in kept) for kept in (" -", " +"))
        (path,) = [path for path in self.folder.glob("*.py") if before in path.read_text(encoding="utf-8")]
        text = path.read_text(encoding="utf-8")
        assert text.count(before) == 1, diff
        path.write_text(text.replace(before, after), encoding="utf-8")


@pytest.fixture
def desk(tmp_path: Path) -> Desk:
    """The environment borrows all that is installed in this one, editable packages too, and leaves it as it is."""
    venv, folder = tmp_path / "venv", tmp_path / "empty"
    folder.mkdir()
    subprocess.run([sys.executable, "-m", "venv", "--without-pip", venv], check=True)
    paths = sysconfig.get_paths(scheme="venv", vars={"base": str(venv), "platbase": str(venv)})
    borrowed = sorted({sysconfig.get_paths()["purelib"], sysconfig.get_paths()["platlib"]})
    lines = [f"import site; site.addsitedir({path!r})\n" for path in borrowed]
    Path(paths["purelib"], "borrowed.pth").write_text("".join(lines), encoding="utf-8")
    scripts = Path(paths["scripts"])
    for name, code in PROGRAMS.items():
        (scripts / name).write_text(f"#!{scripts / 'python'}\n{code}\n", encoding="utf-8")
        (scripts / name).chmod(0o755)
    (scripts / "pip").write_text(f'#!/bin/sh\nexec "{scripts / "python"}" -m pip "$@"\n', encoding="utf-8")
    (scripts / "pip").chmod(0o755)
    return Desk(folder, scripts)


def test_every_fenced_block_takes_part() -> None:
    assert {block.kind for block in BLOCKS} == {"sh", "python", "diff", "toml"}
    assert TEXT.count("```") == 2 * len(BLOCKS)


def test_every_command_is_one_of_a_line_each() -> None:
    # a test runs each line by itself, so none may depend on a variable or a folder of the line before
    lines = [line for block in BLOCKS if block.kind == "sh" for line in block.text.splitlines()]

    assert {line.split()[0] for line in lines} == {"grpo-bench", "pytest", "pip"}
    assert not [line for line in lines if line.endswith("\\") or "#" in line]


def test_the_contract_names_every_part_of_a_method_and_nothing_else() -> None:
    # given what the text about the contract calls by name, such as `credit(rollout)` or `schedule.train_last`
    contract = TEXT[TEXT.index("## The contract of a method") : TEXT.index("## A method of this repository")]
    called = {name.split(".")[-1] for name in re.findall(r"`([a-z_.]+)(?:\([a-z, ]*\))?`", contract)}

    # then all of it is public, and no part of a method is left out
    records = (grpo_bench.Rollout, grpo_bench.Credit, grpo_bench.Forest, grpo_bench.Schedule)
    fields = {field.name for record in records for field in dataclasses.fields(record)}
    kinds = (grpo_bench.Method, grpo_bench.ForwardMethod)
    method = {name for kind in kinds for name in vars(kind) if not name.startswith("_")}
    assert called <= fields | method | {
        *grpo_bench.MethodConfig.model_fields,
        *grpo_bench.__all__,
        "rng",
        "combined",
        "clip",
    }
    assert method - called <= {"name", "paper", "Config"}


@pytest.mark.slow
@pytest.mark.timeout(900)
def test_the_walkthrough_works(desk: Desk) -> None:
    for block in BLOCKS:
        if block.kind == "sh":
            for line in block.text.splitlines():
                desk.run(line)
        elif block.kind == "diff":
            desk.change(block.text)
        elif block.kind == "toml":
            name = block.text.partition("\n")[0].removeprefix("# ")
            (desk.folder / name).write_text(block.text, encoding="utf-8")
        else:
            assert desk.holds(block.text), f"no file is as CONTRIBUTING.md shows it:\n{block.text}"

    # then the pictures are there, two methods ran on two seeds each, and only the reader's environment has the package
    results = desk.folder / "results"
    assert (desk.folder / "scattered.png").stat().st_size > 10_000
    assert len(list((results / "runs").iterdir())) == 1
    assert len(list((results / "first-look").glob("*/points.parquet"))) == 4
    assert list((results / "first-look" / "plots").rglob("pareto-nfe.png"))
    assert (desk.folder / "first-look.html").stat().st_size > 1_000_000
    assert "scattered" not in {point.name for point in entry_points(group="grpo_bench.methods")}
