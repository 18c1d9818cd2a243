"""What a prompt file costs a run that uses few of its prompts: memory and seconds over a file of 100. One JSON line.

    python benchmarks/prompts.py [--prompts 100000] [--letters 12]

Both runs make one iteration of two prompts on the built-in model, each in a process of its own. From 14 letters on a
prompt may be too long for its 16 tokens, so that all of them are tokenised.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from grpo_bench.workloads.shapes.workload import MODEL

SETTINGS = (
    "reward.name=jpeg-compressibility model.max_sequence_length=0 model.height=32 model.width=32 sampling.steps=4 "
    "sampling.guidance=1 training.prompts=2 method.group=4 evaluation.prompts=2 evaluation.images=2 evaluation.steps=4"
)
FEW = 100


def measure(prompts: int, letters: int, folder: Path) -> dict[str, float]:
    """Wall and processor seconds and peak memory of a run on so many prompts, and its own `setup_seconds`."""
    path = folder / f"{prompts}.txt"
    path.write_text("".join(f"{number} ".ljust(letters, "a") + "\n" for number in range(prompts)), encoding="utf-8")
    sets = [part for setting in SETTINGS.split() for part in ("--set", setting)]
    command = [sys.executable, "-m", "grpo_bench", "run", "--model", str(MODEL), "--prompts", str(path), "--method",
               "flat", *sets, "--budget", "iterations=1", "--results", str(folder), "--quiet"]  # fmt: skip
    started = time.perf_counter()
    process = subprocess.Popen(command, stdout=subprocess.PIPE, text=True)
    assert process.stdout is not None
    said = process.stdout.read()
    _, status, used = os.wait4(process.pid, 0)
    if status:
        raise SystemExit("the run failed; its own words are above")
    return {
        "seconds": time.perf_counter() - started,
        "processor_seconds": used.ru_utime + used.ru_stime,
        "memory_mb": used.ru_maxrss / 1000,
        "setup_seconds": json.loads(said)["seconds"]["setup"],
    }


def compare(prompts: int, letters: int) -> dict[str, float]:
    """What the many cost over the few."""
    with tempfile.TemporaryDirectory(prefix="grpo-bench-") as folder:
        few, many = (measure(count, letters, Path(folder)) for count in (FEW, prompts))
    added = {f"added_{name}": round(many[name] - few[name], 2) for name in many}
    return {"prompts": prompts, "letters": letters, **{name: round(value, 2) for name, value in many.items()}, **added}


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--prompts", type=int, default=100_000, help="prompts of the large file")
    parser.add_argument("--letters", type=int, default=12, help="letters a prompt")
    given = parser.parse_args()
    print(json.dumps(compare(given.prompts, given.letters)))
