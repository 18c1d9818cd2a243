"""The package as others get it: a wheel in an environment without the repository, and plugins that bring a method."""

from __future__ import annotations

import json
import os
import re
import shutil
import subprocess
import sys
import sysconfig
import tomllib
import zipfile
from dataclasses import dataclass
from importlib.metadata import entry_points
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
MEGABYTE = 1_000_000
SMALL = ("training.prompts=2", "evaluation.prompts=4")
TWO_ITERATIONS = ("--budget", "iterations=2", *(word for key in SMALL for word in ("--set", key)), "--quiet")


def variables() -> dict[str, str]:
    """This process's environment, without what points into the repository (make's constraints are a relative path)."""
    return {k: v for k, v in os.environ.items() if k not in {"PYTHONPATH", "PYTHONHOME", "PIP_CONSTRAINT"}}


@dataclass(frozen=True)
class Environment:
    """A virtual environment in which the wheel is installed, and a folder outside the repository to stand in."""

    scripts: Path
    outside: Path

    def call(self, program: str, *arguments: str) -> str:
        """What `program` prints; fails the test with everything it said when it fails."""
        done = subprocess.run(
            [self.scripts / program, *arguments],
            cwd=self.outside,
            env=variables(),
            capture_output=True,
            text=True,
            check=False,
        )
        assert done.returncode == 0, f"{program} {arguments} exited with {done.returncode}:\n{done.stdout}{done.stderr}"
        return done.stdout

    def install(self, *what: str) -> None:
        """Install without the network and without dependencies."""
        offline = ("--no-index", "--no-deps", "--no-build-isolation", "--force-reinstall")
        self.call("python", "-m", "pip", "install", "--quiet", *offline, *what)


def readme_method() -> str:
    """The plugin that the README shows."""
    return next(block for block in re.findall(r"```python\n(.*?)```", read("README.md"), re.DOTALL) if "late" in block)


def read(name: str) -> str:
    return (ROOT / name).read_text(encoding="utf-8")


@pytest.fixture(scope="module")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The wheel, built from a copy, because setuptools leaves its build folder beside the sources."""
    folder = tmp_path_factory.mktemp("wheel")
    junk = shutil.ignore_patterns(".*", "build", "results", "tests", "docs", "__pycache__", "*.egg-info", "venv")
    shutil.copytree(ROOT, folder / "source", ignore=junk)
    command = [sys.executable, "-m", "pip", "wheel", "--quiet", "--no-deps", "--no-build-isolation"]
    subprocess.run([*command, "--wheel-dir", folder, folder / "source"], check=True, cwd=folder, env=variables())
    return next(folder.glob("*.whl"))


@pytest.fixture(scope="module")
def environment(wheel: Path, tmp_path_factory: pytest.TempPathFactory) -> Environment:
    """A clean environment with the wheel. It borrows pip and the dependencies of the one that runs the tests, but not
    its editable grpo-bench: a folder that is named in a .pth file has its own .pth files ignored."""
    folder = tmp_path_factory.mktemp("environment")
    subprocess.run([sys.executable, "-m", "venv", "--without-pip", folder / "venv"], check=True)
    paths = sysconfig.get_paths(scheme="venv", vars={"base": str(folder / "venv"), "platbase": str(folder / "venv")})
    borrowed = sorted({sysconfig.get_paths()["purelib"], sysconfig.get_paths()["platlib"]})
    Path(paths["purelib"], "borrowed.pth").write_text("\n".join(borrowed) + "\n", encoding="utf-8")
    (folder / "outside").mkdir()
    environment = Environment(Path(paths["scripts"]), folder / "outside")
    environment.install(str(wheel))
    return environment


def test_every_package_folder_is_declared() -> None:
    # given the folders that are packages
    settings = tomllib.loads(read("pyproject.toml"))["tool"]["setuptools"]
    renamed = {folder: package for package, folder in settings["package-dir"].items()}
    inits = [path for top in ("grpo_bench", *renamed) for path in ROOT.glob(f"{top}/**/__init__.py")]
    parts = [path.parent.relative_to(ROOT).parts for path in inits]

    # then setuptools is told of each by the name that it is installed under
    assert sorted(".".join([renamed.get(top, top), *rest]) for top, *rest in parts) == sorted(settings["packages"])


@pytest.mark.parametrize("kind", ["methods", "rewards", "workloads", "policies"])
def test_every_built_in_loads(kind: str) -> None:
    points = [point for point in entry_points(group=f"grpo_bench.{kind}") if point.value.startswith("grpo_bench")]

    assert points
    assert {point.name: getattr(point.load(), "name", "") for point in points} == {
        point.name: point.name for point in points
    }


def test_readme_and_makefile_select_the_same_tests() -> None:
    selection = re.search(r"^FAST\s*:=\s*(.+)$", read("Makefile"), re.MULTILINE)

    assert selection is not None
    assert f'-m "{selection[1]}"' in read("README.md")


@pytest.mark.slow
def test_wheel_holds_all_that_a_run_needs(wheel: Path) -> None:
    with zipfile.ZipFile(wheel) as archive:
        names = set(archive.namelist())
        model = sum(entry.file_size for entry in archive.infolist() if "/shapes/model/" in entry.filename)

    # given every data file of the repository
    installed_as = {"grpo_bench": "grpo_bench", "suites": "grpo_bench_suites"}
    data = [
        f"{package}/{path.relative_to(ROOT / top).as_posix()}"
        for top, package in installed_as.items()
        for path in (ROOT / top).rglob("*")
        if path.is_file() and path.suffix not in {".py", ".pyc"}
    ]

    # then the wheel has it, the types' markers and the licence; the model is no larger than promised
    assert any(name.endswith(".toml") for name in data)
    assert [name for name in data if name not in names] == []
    assert {f"grpo_bench{suffix}/py.typed" for suffix in ("", "_methods", "_rewards")} <= names
    assert {name.rsplit("/", 1)[1] for name in names if "/licenses/" in name} == {"LICENSE", "NOTICE"}
    assert 0 < model <= 12 * MEGABYTE


@pytest.mark.slow
@pytest.mark.timeout(600)
def test_wheel_runs_outside_the_repository(environment: Environment) -> None:
    # given an installation that cannot see the repository
    where = environment.call("python", "-c", "import grpo_bench; print(grpo_bench.__file__)")
    assert str(ROOT) not in where

    # when its methods are listed and one is run
    listed = environment.call("grpo-bench", "list", "methods")
    result = json.loads(environment.call("grpo-bench", "run", "--method", "flat", *TWO_ITERATIONS))

    # then the built-in ones are there, and the run is whole
    assert {"flat", "mix", "tree"} <= set(listed.split())
    assert result["status"] == "done"
    assert result["nfe"]["rollout"] > 0 and result["nfe"]["train"] > 0


@pytest.mark.slow
@pytest.mark.timeout(600)
def test_third_party_package_brings_a_method(environment: Environment, tmp_path: Path) -> None:
    # given somebody's package with the README's method in it, registered by an entry point
    (tmp_path / "later.py").write_text(readme_method().replace('name = "late"', 'name = "later"'), encoding="utf-8")
    (tmp_path / "pyproject.toml").write_text(
        """
[build-system]
requires = ["setuptools"]
build-backend = "setuptools.build_meta"
[project]
name = "somebodys-methods"
version = "4.2"
[project.entry-points."grpo_bench.methods"]
later = "later:Late"
[tool.setuptools]
py-modules = ["later"]
""",
        encoding="utf-8",
    )

    # when it is installed
    environment.install(str(tmp_path))

    # then it is listed with its origin, and runs
    listed = environment.call("grpo-bench", "list", "methods")
    row = next(line for line in listed.splitlines() if "later" in line.split())
    assert "somebodys-methods" in row
    result = json.loads(environment.call("grpo-bench", "run", "--method", "later", *TWO_ITERATIONS))
    assert result["status"] == "done"


@pytest.mark.slow
@pytest.mark.timeout(600)
def test_plugin_file_brings_a_method(environment: Environment, tmp_path: Path) -> None:
    # given the README's method in a file
    plugin = tmp_path / "late.py"
    plugin.write_text(readme_method(), encoding="utf-8")

    # when it is named on the command line
    listed = environment.call("grpo-bench", "list", "methods", "--plugin", str(plugin))
    plan = environment.call("grpo-bench", "plan", "late", "--plugin", str(plugin), "--steps", "10", "--json")
    result = json.loads(
        environment.call("grpo-bench", "run", "--plugin", str(plugin), "--method", "late", *TWO_ITERATIONS)
    )

    # then it is listed, planned and run: 12 chains, of which steps 5 to 8 are trained, each from a node of its own
    assert "late" in listed.split()
    cost = json.loads(plan)
    assert (cost["images"], cost["trained_edges"], cost["train_nfe"]) == (12, 48, 48)
    assert result["status"] == "done"
