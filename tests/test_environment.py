"""The environment is described as plain JSON, without torch where torch is not used, and never fails."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from grpo_bench.metering.environment import environment, host_peak_memory_bytes, source_commit

PACKAGE = Path(__file__).resolve().parents[1]


def in_process(code: str, cwd: Path, **variables: str) -> str:
    """What `code` prints in a fresh interpreter that finds this checkout's package."""
    path = os.pathsep.join([str(PACKAGE), os.environ.get("PYTHONPATH", "")])
    done = subprocess.run(
        [sys.executable, "-c", code],
        capture_output=True,
        text=True,
        check=True,
        cwd=cwd,
        env={**os.environ, "PYTHONPATH": path, **variables},
    )
    return done.stdout.strip()


def test_the_environment_is_json_and_names_the_packages() -> None:
    found = environment()
    assert json.loads(json.dumps(found)) == found
    packages = found["packages"]
    assert isinstance(packages, dict)
    assert {"torch", "diffusers", "transformers", "peft", "accelerate", "numpy", "grpo-bench"} <= set(packages)


@pytest.mark.slow
def test_torch_is_described_only_once_it_is_imported(tmp_path: Path) -> None:
    code = "import sys; from grpo_bench.metering.environment import *; print(torch_settings(), 'torch' in sys.modules)"
    assert in_process(code, tmp_path) == "None False"
    code = (
        "import torch; torch.set_num_threads(1); from grpo_bench.metering.environment import *; print(torch_settings())"
    )
    assert "'threads': 1" in in_process(code, tmp_path)


def test_it_works_without_git_or_any_other_command(tmp_path: Path) -> None:
    code = "from grpo_bench.metering.environment import environment as e; d = e(); print(d['commit'], d['dirty'])"
    assert in_process(code, tmp_path, PATH=str(tmp_path)) == "None None"


def test_a_git_variable_of_the_caller_does_not_change_the_commit(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    before = source_commit()
    monkeypatch.setenv("GIT_DIR", str(tmp_path))
    assert source_commit() == before


def test_a_copy_inside_a_foreign_repository_does_not_claim_its_commit(tmp_path: Path) -> None:
    # given somebody's repository with a commit, and our package lying in it untracked, as in a virtual environment
    git = ["git", "-C", str(tmp_path), "-c", "user.name=a", "-c", "user.email=a@b"]
    subprocess.run([*git, "init", "-q"], check=True)
    subprocess.run([*git, "commit", "-q", "--allow-empty", "-m", "theirs"], check=True)
    metering = tmp_path / "grpo_bench" / "metering"
    metering.mkdir(parents=True)
    for name in ("__init__.py", "metering/__init__.py", "metering/environment.py"):
        (tmp_path / "grpo_bench" / name).write_bytes((PACKAGE / "grpo_bench" / name).read_bytes())
    # when it is asked where it comes from, then it does not know
    code = (
        "import sys; sys.path.insert(0, '.'); from grpo_bench.metering import environment as e;"
        "print(e.__file__, e.source_commit())"
    )
    assert in_process(code, tmp_path) == f"{metering / 'environment.py'} (None, None)"


@pytest.mark.slow
def test_peak_memory_is_in_bytes_and_sees_an_allocation() -> None:
    before = host_peak_memory_bytes()
    block = bytearray(before + 50_000_000)
    grown = host_peak_memory_bytes()
    # at least the block, and no more than it and what was there: a wrong unit is off by 1024
    assert len(block) <= grown <= 3 * len(block)
