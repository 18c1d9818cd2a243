"""Environments of rewards: where they are made, when they count as made, and what refuses to be installed."""

from __future__ import annotations

import base64
import csv
import hashlib
import io
import json
import os
import zipfile
from pathlib import Path

import pytest
from filelock import FileLock
from running import cli_here, sentence

from grpo_bench.errors import UserError
from grpo_bench.isolated import environment as environments
from grpo_bench.isolated.environment import Environment, State, data_folder, home, install, interpreter, state
from grpo_bench.registry import REWARDS

ROOT = Path(__file__).parent.parent
OFFICIAL = ROOT / "rewards" / "official"


@pytest.fixture(autouse=True)
def data(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A data folder of the test's own."""
    folder = tmp_path / "data"
    monkeypatch.setenv("GRPO_BENCH_DATA", str(folder))
    return folder


@pytest.fixture
def environment(tmp_path: Path) -> Environment:
    """Requirements that nobody installs."""
    (tmp_path / "pins.txt").write_text("nothing==1.0 --hash=sha256:" + "0" * 64 + "\n", encoding="utf-8")
    (tmp_path / "scorer.py").write_text("def load(settings): ...\n", encoding="utf-8")
    return Environment(hashed=(tmp_path / "pins.txt",), script=tmp_path / "scorer.py")


def fake(name: str, environment: Environment, *, marked: bool = True) -> Path:
    """What an installation leaves, without the packages."""
    folder = home(name)
    (folder / "bin").mkdir(parents=True)
    (folder / "bin" / "python").touch()
    if marked:
        marker = {"requirements": environment.digest(), "packages": {"torch": "2.13.0"}}
        (folder / "complete.json").write_text(json.dumps(marker), encoding="utf-8")
    return folder


def test_the_data_folder_is_the_platforms(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    assert data_folder() == tmp_path / "data"

    monkeypatch.delenv("GRPO_BENCH_DATA")
    monkeypatch.setattr("sys.platform", "linux")
    monkeypatch.setenv("XDG_DATA_HOME", "/xdg")
    assert data_folder() == Path("/xdg/grpo-bench")

    monkeypatch.delenv("XDG_DATA_HOME")
    monkeypatch.setenv("HOME", "/home/ada")
    assert data_folder() == Path("/home/ada/.local/share/grpo-bench")

    monkeypatch.setattr("sys.platform", "darwin")
    assert data_folder() == Path("/home/ada/Library/Application Support/grpo-bench")


def test_an_environment_counts_only_when_its_marker_says_so(environment: Environment, tmp_path: Path) -> None:
    # given no folder, a folder without a marker (a killed installation), and a whole one
    assert state("a", environment) is State.MISSING
    fake("a", environment, marked=False)
    assert state("a", environment) is State.INCOMPLETE
    fake("b", environment)
    assert state("b", environment) is State.INSTALLED
    assert interpreter("b", environment) == home("b") / "bin" / "python"

    # when the pins change, as with a new version of grpo-bench, then it is outdated
    (tmp_path / "pins.txt").write_text("nothing==2.0\n", encoding="utf-8")
    assert state("b", environment) is State.OUTDATED

    # and one whose base interpreter was removed is not whole
    (home("b") / "bin" / "python").unlink()
    assert state("b", environment) is State.INCOMPLETE


def test_a_reward_without_its_environment_names_the_command(environment: Environment) -> None:
    with pytest.raises(UserError, match=r"is not installed .*make it with: grpo-bench rewards install hps"):
        interpreter("hps", environment)


def test_two_processes_do_not_make_one_environment(environment: Environment, data: Path) -> None:
    (data / "environments").mkdir(parents=True)
    with FileLock(data / "environments" / ".a.lock"), pytest.raises(UserError, match="by another process; wait for it"):
        install("a", environment, print)


@pytest.mark.parametrize(
    ("output", "reason"),
    [
        (
            "WARNING: x\nERROR: THESE PACKAGES DO NOT MATCH THE HASHES FROM THE REQUIREMENTS FILE. If you have ...\n"
            "    tqdm==4.70.1 from file:///x/tqdm-4.70.1-py3-none-any.whl (from -r pins.txt (line 1)):\n"
            "        Expected sha256 00\n             Got        c2\n",
            "the hash of tqdm==4.70.1 is not the pinned one",
        ),
        (
            "ERROR: Could not find a version\nERROR: No matching distribution found for x==1\n",
            "No matching distribution",
        ),
        ("Traceback\nModuleNotFoundError: No module named 'clip'\n", "ModuleNotFoundError: No module named 'clip'"),
        ("", "no reason was given"),
    ],
)
def test_of_a_programs_complaint_the_line_that_tells_is_kept(output: str, reason: str) -> None:
    assert environments._reason(output).startswith(reason)


def test_the_commands_show_and_remove(data: Path) -> None:
    # given one of the two built-in environments, as if installed
    hps = REWARDS.get("hps").environment  # type: ignore[attr-defined]
    folder = fake("hps", hps)

    # then status tells them apart
    lines = cli_here("rewards", "status").stdout.splitlines()
    assert [line.split(" (")[0].split(",")[0] for line in lines] == ["hps: installed", "image-reward: not installed"]
    told = json.loads(cli_here("rewards", "status", "hps", "--json").stdout)["hps"]
    assert told["packages"] == {"torch": "2.13.0"} and told["folder"] == str(folder)

    # and uninstall removes it, once
    assert cli_here("rewards", "uninstall", "hps").stdout == "hps: removed\n"
    assert not folder.exists()
    assert cli_here("rewards", "uninstall", "hps").stdout == "hps: was not installed\n"


def test_a_reward_that_has_no_environment_is_refused() -> None:
    assert "did you mean 'hps'?" in sentence(cli_here("rewards", "install", "hpsv"))
    assert "no reward with an environment of its own is named 'shapes'" in sentence(
        cli_here("rewards", "status", "shapes")
    )


@pytest.mark.parametrize("file", ["build.txt", "hps.txt", "image-reward.txt"])
def test_every_pin_has_its_hashes_and_no_file_names_a_registry(file: str) -> None:
    text = (OFFICIAL / file).read_text(encoding="utf-8")
    pins = [block for block in text.replace("\\\n", " ").splitlines() if block and not block.startswith("#")]

    assert pins and all("==" in pin and "--hash=sha256:" in pin for pin in pins)
    assert not [pin for pin in pins if pin.startswith(("torch==", "-"))]
    assert "://" not in text


def wheel(folder: Path, name: str, version: str, code: str) -> Path:
    """A wheel with one module."""
    info = f"{name}-{version}.dist-info"
    files = {
        f"{name}.py": code,
        f"{info}/METADATA": f"Metadata-Version: 2.1\nName: {name}\nVersion: {version}\n",
        f"{info}/WHEEL": "Wheel-Version: 1.0\nGenerator: test\nRoot-Is-Purelib: true\nTag: py3-none-any\n",
    }
    record = io.StringIO()
    for path, text in files.items():
        digest = base64.urlsafe_b64encode(hashlib.sha256(text.encode()).digest()).rstrip(b"=").decode()
        csv.writer(record).writerow([path, f"sha256={digest}", len(text)])
    path = folder / f"{name}-{version}-py3-none-any.whl"
    with zipfile.ZipFile(path, "w") as archive:
        for name_, text in {**files, f"{info}/RECORD": record.getvalue()}.items():
            archive.writestr(name_, text)
    return path


@pytest.mark.slow
def test_an_environment_is_made_whole_or_not_at_all(
    tmp_path: Path, data: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    # given a package in a folder, its hash, a scorer that needs it, and constraints that are not for this environment
    file = wheel(tmp_path, "cheese", "1.0", "FLAVOUR = 7\n")
    for key in [key for key in os.environ if key.startswith("PIP_")]:
        monkeypatch.delenv(key)
    monkeypatch.setenv("PIP_NO_INDEX", "1")
    monkeypatch.setenv("PIP_FIND_LINKS", str(tmp_path))
    monkeypatch.setenv("PIP_CONSTRAINT", "constraints-of-somebody-else.txt")
    pins, script = tmp_path / "pins.txt", tmp_path / "scorer.py"
    digest = hashlib.sha256(file.read_bytes()).hexdigest()
    script.write_text(
        "import cheese\nimport no_such_thing\ndef load(settings): return lambda i, p: [cheese.FLAVOUR] * len(p)\n",
        encoding="utf-8",
    )
    made = Environment(hashed=(pins,), script=script)
    steps: list[str] = []

    # when the hash is another, then it is refused, and nothing is left
    pins.write_text(f"cheese==1.0 --hash=sha256:{'0' * 64}\n", encoding="utf-8")
    with pytest.raises(UserError, match=r"the hash of cheese==1\.0 is not the pinned one"):
        install("cheesy", made, steps.append)
    assert state("cheesy", made) is State.MISSING

    # when the scorer cannot be imported, neither
    pins.write_text(f"cheese==1.0 --hash=sha256:{digest}\n", encoding="utf-8")
    with pytest.raises(UserError, match=r"the scorer cannot be imported .*No module named 'no_such_thing'"):
        install("cheesy", made, steps.append)
    assert state("cheesy", made) is State.MISSING

    # when all is right, it is installed, tells its packages, and stands from then on; a half one is made anew
    script.write_text(script.read_text(encoding="utf-8").replace("import no_such_thing\n", ""), encoding="utf-8")
    (home("cheesy") / "half").mkdir(parents=True)
    install("cheesy", made, steps.append)
    assert state("cheesy", made) is State.INSTALLED
    assert environments.packages("cheesy")["cheese"] == "1.0"
    assert not (home("cheesy") / "half").exists()
    steps.clear()
    install("cheesy", made, steps.append)
    assert steps == []
