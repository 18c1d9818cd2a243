"""Small real runs: a random tiny SD3, a handful of prompts, two or three iterations, each well under a second."""

from __future__ import annotations

import importlib.util
import io
import json
import logging
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Mapping
from contextlib import redirect_stderr, redirect_stdout
from dataclasses import dataclass, field
from pathlib import Path
from types import ModuleType

import numpy as np
import pandas as pd
import pytest

from grpo_bench.cli import program
from grpo_bench.config import RunConfig, Table, build, merge
from grpo_bench.evaluation.evaluator import Evaluation
from grpo_bench.registry import METHODS, REWARDS, WORKLOADS
from grpo_bench.store.run import RunStore
from grpo_bench.training.loop import Progress
from grpo_bench.training.run import Outcome, start

ROOT = Path(__file__).resolve().parents[1]
PROMPTS = 20

# T = 4. A flat pair of chains: 2 x 4 rollout evaluations, 2 x 3 parents trained (the last step is ODE), 2 images.
FLAT_PAIR: Table = {"name": "flat", "group": 2}
FLAT_ROLLOUT, FLAT_TRAIN, FLAT_IMAGES = 8, 6, 2
FLAT_NFE = FLAT_ROLLOUT + 3 * FLAT_TRAIN


Make = Callable[..., RunConfig]
"""`config` for a test's own model and prompts: sections by name, laid on the small run."""


@dataclass
class Watcher:
    """An observer that remembers, and asks to stop after `stop_after` iterations of its own."""

    stop_after: int | None = None
    runs: list[str] = field(default_factory=list)
    iterations: list[Progress] = field(default_factory=list)
    rows: list[dict[str, float]] = field(default_factory=list)

    def started(self, run: str, folder: Path) -> None:
        self.runs.append(run)

    def iteration(self, progress: Progress) -> None:
        self.iterations.append(progress)

    def evaluated(self, row: dict[str, float], evaluation: Evaluation) -> None:
        self.rows.append(row)

    def should_stop(self) -> bool:
        return self.stop_after is not None and len(self.iterations) >= self.stop_after


def write_prompts(folder: Path) -> Path:
    """A prompt file; of its twenty prompts the last two are held out."""
    path = folder / "prompts.txt"
    path.write_text("".join(f"shape {i}\n" for i in range(PROMPTS)), encoding="utf-8")
    return path


def settings(tiny_model: Path, prompt_file: Path, **over: object) -> Table:
    """A run of three iterations with two prompts each and the method `FLAT_PAIR`; `over` is laid on top."""
    base: Table = {
        "workload": "prompts",
        "prompts": str(prompt_file),
        "budget": {"iterations": 3.0},
        "method": FLAT_PAIR,
        "reward": {"name": "jpeg-compressibility"},
        "model": {"path": str(tiny_model), "height": 32, "width": 32, "max_sequence_length": 0, "trainable": "full"},
        "sampling": {"steps": 4, "guidance": 1.0},
        "training": {"prompts": 2, "learning_rate": 1e-3, "rollout_batch": 64, "train_batch": 32},
        "evaluation": {"prompts": 2, "images": 2, "steps": 2, "guidance": 1.0},
    }
    if "method" in over:
        base["method"] = {}
    return merge(base, over)


def config(tiny_model: Path, prompt_file: Path, **over: object) -> RunConfig:
    """`settings` on the workload's defaults, as the command line lays them."""
    defaults = WORKLOADS.get("prompts").defaults
    return build([("workload", defaults), ("test", settings(tiny_model, prompt_file, **over))])


def run(chosen: RunConfig, results: Path, watcher: Watcher | None = None, *, again: bool = False) -> Outcome:
    """Run in this process."""
    return start(chosen, results, watcher or Watcher(), again=again)


def reproducible(store: RunStore) -> pd.DataFrame:
    """The points without seconds and memory: what RULES.md calls reproducible."""
    frame = store.points()
    dropped = [name for name in frame if name.endswith("seconds") or name == "peak_memory_bytes"]
    return frame.drop(columns=dropped)


def same_points(left: RunStore, right: RunStore) -> None:
    """Fail, showing the columns, unless the reproducible points and prompts' scores are equal to the last bit."""
    pd.testing.assert_frame_equal(reproducible(left), reproducible(right), check_exact=True)
    pd.testing.assert_frame_equal(left.prompt_scores(), right.prompt_scores(), check_exact=True)


def same_images(left: RunStore, right: RunStore) -> None:
    """Fail unless both runs stored the same images."""
    names = sorted(item.name for item in left.images.iterdir() if item.is_dir())
    assert names == sorted(item.name for item in right.images.iterdir() if item.is_dir())
    for name in names:
        np.testing.assert_array_equal(left.load_images(name), right.load_images(name))


def arguments(table: Mapping[str, object]) -> list[str]:
    """A table of settings as `--set KEY=VALUE` flags."""
    flags: list[str] = []

    def walk(prefix: str, value: object) -> None:
        if isinstance(value, Mapping):
            for key, below in value.items():
                walk(f"{prefix}.{key}" if prefix else str(key), below)
        else:
            flags.extend(["--set", f"{prefix}={json.dumps(value)}"])

    walk("", table)
    return flags


def environment(**more: str) -> dict[str, str]:
    """For a subprocess that may stand anywhere: the repository on its path, one thread, no colours."""
    path = os.pathsep.join([str(ROOT), os.environ.get("PYTHONPATH", "")])
    return {**os.environ, "PYTHONPATH": path, "COLUMNS": "200", "NO_COLOR": "1", **more}


def command(*args: str) -> list[str]:
    """The command line program, as this interpreter runs it."""
    return [sys.executable, "-c", "from grpo_bench.cli import main; main()", *args]


def cli(*args: str, cwd: Path, **more: str) -> subprocess.CompletedProcess[str]:
    """`grpo-bench ARGS` in a process of its own, standing in `cwd`."""
    return subprocess.run(
        command(*args), cwd=cwd, env=environment(**more), capture_output=True, text=True, timeout=150, check=False
    )


def benchmark_module(name: str) -> ModuleType:
    """`benchmarks/NAME.py`, loaded anew: those are scripts of no package."""
    spec = importlib.util.spec_from_file_location(f"benchmarks.{name}", ROOT / "benchmarks" / f"{name}.py")
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = module  # where its dataclasses look up their annotations
    spec.loader.exec_module(module)
    return module


def cli_here(*args: str) -> subprocess.CompletedProcess[str]:
    """`grpo-bench ARGS` in this process, which has loaded torch already; what it registers or sets is taken back."""
    logger = logging.getLogger("grpo_bench")
    kept = logger.propagate, logger.level, logger.handlers[:]
    plugins = [(registry, dict(registry._plugins)) for registry in (METHODS, REWARDS)]
    out, err, argv = io.StringIO(), io.StringIO(), sys.argv
    try:
        sys.argv = ["grpo-bench", *args]
        with redirect_stdout(out), redirect_stderr(err), pytest.raises(SystemExit) as left:
            program()
    finally:
        sys.argv = argv
        logger.propagate, logger.level, logger.handlers[:] = kept
        for registry, before in plugins:
            registry._plugins.clear()
            registry._plugins.update(before)
    code = left.value.code
    assert isinstance(code, int)
    return subprocess.CompletedProcess(args, code, out.getvalue(), err.getvalue())


def signalled(args: list[str], number: signal.Signals, when: Callable[[], bool], cwd: Path) -> tuple[int, str, str]:
    """Start `grpo-bench ARGS`, send the signal as soon as `when()` holds; (exit code, stdout, stderr).

    Fails when the program ends by itself before that.
    """
    process = subprocess.Popen(
        command(*args), cwd=cwd, env=environment(), stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    )
    try:
        while not when():
            assert process.poll() is None, f"ended too early: {process.communicate()}"
            time.sleep(0.005)
        process.send_signal(number)
        out, err = process.communicate(timeout=150)
    finally:
        process.kill()
    return process.returncode, out, err


def sentence(done: subprocess.CompletedProcess[str]) -> str:
    """The one line that a refused command says on stderr; fails if it says more, or anything on stdout."""
    assert done.returncode == 2, f"exit code {done.returncode}: {done.stdout}{done.stderr}"
    assert done.stdout == ""
    lines = done.stderr.splitlines()
    assert len(lines) == 1 and lines[0].startswith("grpo-bench: "), done.stderr
    return lines[0].removeprefix("grpo-bench: ")
