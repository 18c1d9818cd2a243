"""One rank of a run, as torchrun starts it: `take_part.py RESULTS CONFIG...` carries out each config in turn."""

from __future__ import annotations

import sys
import tomllib
from pathlib import Path

import torch
from running import Watcher

from grpo_bench.config import RunConfig, validated
from grpo_bench.training.run import start

if __name__ == "__main__":
    torch.set_num_threads(1)
    results, *configs = map(Path, sys.argv[1:])
    for path in configs:
        start(validated(RunConfig, tomllib.loads(path.read_text(encoding="utf-8"))), results, Watcher())
