"""Environments of rewards: virtual environments in the user's data folder, filled from files that pin every hash.

An environment counts as made only when its marker, written last, says for which requirements it was made.
"""

from __future__ import annotations

import hashlib
import json
import os
import subprocess
import sys
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from enum import StrEnum
from pathlib import Path

from grpo_bench.errors import UserError
from grpo_bench.isolated import worker
from grpo_bench.isolated.process import environment_variables
from grpo_bench.store.atomic import exclusively, remove_folder, write_text

_MARKER = "complete.json"


@dataclass(frozen=True)
class Environment:
    """What a reward's own environment holds.

    `hashed`: requirement files in which everything has its hash, installed in this order and without dependencies.
    `unhashed`: requirements pinned by version alone, installed last; what they need beyond `hashed` comes with them.
    `script`: the scorer; that it can be imported is the last thing tried before an environment counts as made.
    """

    hashed: tuple[Path, ...]
    script: Path
    unhashed: tuple[str, ...] = ()

    def digest(self) -> str:
        """sha256 of everything that says what is installed."""
        parts = [path.read_bytes() for path in self.hashed] + [line.encode() for line in self.unhashed]
        return hashlib.sha256(b"\0".join(parts)).hexdigest()


class State(StrEnum):
    """How an environment stands."""

    INSTALLED = "installed"
    MISSING = "not installed"
    INCOMPLETE = "incomplete"
    OUTDATED = "outdated"


def data_folder() -> Path:
    """$GRPO_BENCH_DATA, else grpo-bench's folder among the user's data as the platform has it."""
    given = os.environ.get("GRPO_BENCH_DATA")
    if given:
        return Path(given).expanduser()
    if sys.platform == "darwin":
        base = Path.home() / "Library" / "Application Support"
    elif sys.platform == "win32":
        base = Path(os.environ.get("LOCALAPPDATA") or Path.home() / "AppData" / "Local")
    else:
        base = Path(os.environ.get("XDG_DATA_HOME") or Path.home() / ".local" / "share")
    return base / "grpo-bench"


def home(name: str) -> Path:
    """The folder of the environment of reward `name`."""
    return data_folder() / "environments" / name


def python_of(folder: Path) -> Path:
    """The environment's interpreter."""
    return folder / "bin" / "python"


def state(name: str, environment: Environment) -> State:
    """How the environment of reward `name` stands."""
    folder = home(name)
    if not folder.exists():
        return State.MISSING
    try:
        marker = json.loads((folder / _MARKER).read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return State.INCOMPLETE
    if not python_of(folder).exists():  # its base interpreter was removed
        return State.INCOMPLETE
    return State.INSTALLED if marker.get("requirements") == environment.digest() else State.OUTDATED


def packages(name: str) -> dict[str, str]:
    """Versions of what the environment of reward `name` holds; empty where it is not installed."""
    try:
        found = json.loads((home(name) / _MARKER).read_text(encoding="utf-8"))["packages"]
    except (OSError, ValueError, KeyError):
        return {}
    return {str(package): str(version) for package, version in found.items()}


def describe(name: str, environment: Environment) -> dict[str, object]:
    """State, folder, size in bytes and packages of the environment of reward `name`, as JSON can write it."""
    folder = home(name)
    files = [Path(parent) / file for parent, _, names in os.walk(folder) for file in names]
    return {
        "state": str(state(name, environment)),
        "folder": str(folder),
        "bytes": sum(file.lstat().st_size for file in files),
        "packages": packages(name),
    }


def interpreter(name: str, environment: Environment | None) -> Path:
    """The interpreter of the environment of reward `name`.

    Raises:
        UserError: it is not installed; the sentence has the command.
    """
    if environment is None:
        raise UserError(
            f"reward {name!r} needs an interpreter that has its packages; give it with --set reward.{name}.python=FILE"
        )
    found = state(name, environment)
    if found is not State.INSTALLED:
        raise UserError(
            f"the environment of reward {name!r} is {found} ({home(name)}); "
            f"make it with: grpo-bench rewards install {name}"
        )
    return python_of(home(name))


def install(name: str, environment: Environment, say: Callable[[str], None]) -> Path:
    """Make the environment of reward `name`, unless it stands; `say` hears of every step. Returns its folder.

    Raises:
        UserError: a hash does not match, the registry cannot be reached, the disk is full; nothing is left then.
    """
    folder = home(name)
    with _lock(folder):
        if state(name, environment) is State.INSTALLED:
            return folder
        if folder.exists():
            remove_folder(folder)
        try:
            _fill(folder, environment, say)
        except BaseException:
            if folder.exists():
                remove_folder(folder)
            raise
    return folder


def uninstall(name: str) -> bool:
    """Remove the environment of reward `name`; False where there is none."""
    folder = home(name)
    if not folder.exists():
        return False
    with _lock(folder):
        remove_folder(folder)
    return True


def _fill(folder: Path, environment: Environment, say: Callable[[str], None]) -> None:
    say("making a virtual environment")
    _call([sys.executable, "-m", "venv", str(folder)], "the virtual environment could not be made")
    python = str(python_of(folder))
    pip = [python, "-m", "pip", "--disable-pip-version-check", "--no-input", "install", "--quiet"]
    for file in environment.hashed:
        say(f"installing what {file.name} pins")
        exact = ["--require-hashes", "--no-deps", "--no-build-isolation", "--use-pep517", "-r", str(file)]
        _call([*pip, *exact], f"{file.name} could not be installed")
    if environment.unhashed:
        say(f"installing {' '.join(environment.unhashed)}")
        _call([*pip, *environment.unhashed], f"{' '.join(environment.unhashed)} could not be installed")
    say("trying to import the scorer")
    _call([python, worker.__file__, str(environment.script)], "the scorer cannot be imported from what was installed")
    listed = _call([python, "-m", "pip", "list", "--format", "json"], "the packages could not be listed")
    versions = {item["name"].lower(): item["version"] for item in json.loads(listed)}
    marker = {"requirements": environment.digest(), "packages": versions}
    write_text(folder / _MARKER, json.dumps(marker, indent=1, sort_keys=True) + "\n", "the environment's marker")


def _call(command: Sequence[str], failed: str) -> str:
    """The command's standard output.

    Raises:
        UserError: it fails; the sentence says `failed` and what the program gave as its reason.
    """
    # Constraints, targets and the like are this environment's; where packages come from, and how, stays as configured.
    kept = ("PIP_INDEX_URL", "PIP_EXTRA_INDEX_URL", "PIP_FIND_LINKS", "PIP_NO_INDEX", "PIP_CERT", "PIP_CLIENT_CERT",
            "PIP_PROXY", "PIP_TRUSTED_HOST", "PIP_DEFAULT_TIMEOUT", "PIP_TIMEOUT", "PIP_RETRIES", "PIP_CONFIG_FILE",
            "PIP_CACHE_DIR", "PIP_NO_CACHE_DIR")  # fmt: skip
    variables = {k: v for k, v in environment_variables().items() if not k.startswith("PIP_") or k in kept}
    try:
        done = subprocess.run(command, env=variables, capture_output=True, text=True, errors="replace", check=False)
    except OSError as error:
        raise UserError(f"{failed}: {error.strerror} ({command[0]})") from error
    if done.returncode != 0:
        raise UserError(f"{failed}, and nothing was left behind: {_reason(done.stdout + done.stderr)}")
    return done.stdout


def _reason(output: str) -> str:
    """The one line in a program's complaint that says what is wrong."""
    lines = [line.strip() for line in output.splitlines() if line.strip()]
    if "DO NOT MATCH THE HASHES" in output:
        named = next((line for line in lines if line.endswith(":") and "==" in line), "a package")
        return (
            f"the hash of {named.split(' from ')[0].rstrip(':')} is not the pinned one, "
            "so what the registry sent is not what was tested, and was refused"
        )
    errors = [line.removeprefix("ERROR: ") for line in lines if line.startswith("ERROR: ")]
    return (errors or lines or ["no reason was given"])[-1][:500]


@contextmanager
def _lock(folder: Path) -> Iterator[None]:
    """One process at a time makes or removes an environment."""
    lock, refused = folder.parent / f".{folder.name}.lock", f"{folder} is being made or removed by another process"
    with exclusively(lock, "a reward's environment", folder, f"{refused}; wait for it"):
        yield
