"""Settings that must be in place before anything is imported, and isolation of every test from the user's results."""

from __future__ import annotations

import os
import sys
from contextlib import nullcontext
from functools import cache, partial
from importlib import metadata
from pathlib import Path
from typing import TYPE_CHECKING

# Tiny tensors are slower on several threads than on one. An offline hub fails at once instead of after 20 s of retries.
os.environ.setdefault("OMP_NUM_THREADS", "1")
os.environ["HF_HUB_OFFLINE"] = "1"
os.environ["HF_HUB_DISABLE_TELEMETRY"] = "1"
os.environ["MPLBACKEND"] = "Agg"
os.environ["TQDM_DISABLE"] = "1"

import pytest
from hypothesis import settings

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

    from reward_checkpoints import RewardFiles
    from running import Make
    from selenium.webdriver import Chrome

# A shared machine makes single examples slow, and a test run must give the same answer twice.
settings.register_profile("repository", deadline=None, derandomize=True, database=None)
settings.load_profile("repository")


@pytest.fixture(autouse=True)
def results(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A results folder of the test's own, which the command line finds through the environment."""
    folder = tmp_path / "results"
    monkeypatch.setenv("GRPO_BENCH_RESULTS", str(folder))
    return folder


@pytest.fixture(scope="session", autouse=True)
def unsynced() -> Iterator[None]:
    """No test cuts the power; a kill loses nothing that was written. Waiting for the disk takes 5 to 10 ms a file."""
    with pytest.MonkeyPatch.context() as patched:
        patched.setattr(os, "fsync", lambda _: None)
        yield


@pytest.fixture(scope="session", autouse=True)
def installed_packages() -> Iterator[None]:
    """Which package brings which module is read once, not for every folder of a test's that joins sys.path."""
    original = metadata.packages_distributions
    read = cache(lambda _places: original())

    def packages() -> Mapping[str, list[str]]:
        return read(tuple(place for place in sys.path if any(Path(place).glob("*.dist-info"))))

    with pytest.MonkeyPatch.context() as patched:
        patched.setattr(metadata, "packages_distributions", packages)
        yield


@pytest.fixture
def undrawn(monkeypatch: pytest.MonkeyPatch) -> None:
    """`pareto` without its plots, for tests of what it says: drawing takes most of the time, and has its own tests."""
    monkeypatch.setattr("grpo_bench.commands.pareto._draw", lambda *_: [])
    monkeypatch.setattr("grpo_bench.commands.pareto._processes", nullcontext)


@pytest.fixture(scope="session")
def tiny_model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of a random tiny SD3 pipeline; read only."""
    from tiny import make

    folder = tmp_path_factory.mktemp("tiny") / "model"
    make(folder)
    return folder


@pytest.fixture(scope="session")
def reward_files(tmp_path_factory: pytest.TempPathFactory) -> RewardFiles:
    """Tiny checkpoints of the learned rewards, each made when it is first asked for; read only."""
    from reward_checkpoints import RewardFiles

    return RewardFiles(tmp_path_factory.mktemp("rewards"))


@pytest.fixture
def make(tiny_model: Path, tmp_path: Path) -> Make:
    """A config of the small flat run, with changes by section."""
    from running import config, write_prompts

    return partial(config, tiny_model, write_prompts(tmp_path))


@pytest.fixture(scope="module")
def browser() -> Iterator[Chrome]:
    """A window of headless Chromium."""
    from chromium import window

    with window() as chrome:
        yield chrome
