"""Small whole runs of every method on every built-in model, as they came out before the engine was rebuilt.

    python tests/golden_runs.py

writes tests/fixtures/golden_runs.json anew; do that only together with a raised NUMERICS_VERSION. A run is recorded by
its stored files alone, so that nothing here depends on how the engine is built: every reproducible column of its
points, its prompts' scores, and of the last checkpoint the trained weights and the optimiser's moments, which hold the
gradients of all updates.
"""

from __future__ import annotations

import hashlib
import json
import math
import os
import tempfile
from collections.abc import Iterator, Mapping
from pathlib import Path

import numpy as np
import torch
from running import Watcher, reproducible, run, write_prompts
from safetensors.torch import load_file
from torch import Tensor

from grpo_bench.config import RunConfig, Table, merge
from grpo_bench.resolve import resolve
from grpo_bench.store.run import RunStore

FIXTURE = Path(__file__).parent / "fixtures" / "golden_runs.json"
SIZES: Mapping[str, Table] = {
    "flat": {"group": 4},
    "mix": {"group": 4, "window": 2},
    "tree": {"branching": 2, "window": 2},
    "branch": {"splits": [0, 1]},
    "branch-mix": {"splits": [0, 2], "window": 2},
    "tempflow": {"branching": 2, "roots": 2},
    "ddpo": {"group": 4},
    "guard": {"group": 4},
    "nft": {"group": 4},
}
MODELS = ("gaussian", "shapes", "count", "glyphs", "sd")
SHARED: Table = {
    "budget": {"iterations": 2.0},
    "sampling": {"steps": 6},
    "training": {"prompts": 2, "updates": 2},
    "evaluation": {"prompts": 2, "images": 2, "steps": 4, "noises": 2},
}
"""Two iterations of two updates, between two evaluations under two noises each."""


def names() -> list[str]:
    """Every run as MODEL/METHOD; what noises images along a flow cannot be trained on a model that predicts epsilon."""
    return [f"{model}/{method}" for model in MODELS for method in SIZES if (model, method) != ("sd", "nft")]


def golden_config(name: str, scratch: Path) -> RunConfig:
    """The settings of one run; `scratch` holds the model and the prompts of `sd`, which ships with nothing."""
    model, method = name.split("/")
    over: Table = {"workload": model, "method": {"name": method, **SIZES[method]}}
    if model == "sd":
        from tinysd import make_sd

        folder = scratch / "sd"
        if not folder.exists():
            make_sd(folder)
        over |= {
            "workload": "prompts",
            "prompts": str(write_prompts(scratch)),
            "reward": {"name": "jpeg-compressibility"},
            "model": {"policy": "sd", "path": str(folder), "height": 32, "width": 32, "trainable": "full"},
        }
        over["sampling"] = {"kernel": "ddim", "guidance": 1.0}
        over["evaluation"] = {"guidance": 1.0}
        over["training"] = {"learning_rate": 1e-3}
    return resolve(merge(SHARED, over), None, None, None)


def outcome(store: RunStore) -> dict[str, object]:
    """What is held of a stored run: plain numbers, and digests of the numbers that are too many."""
    checkpoint = store.checkpoints.latest()
    assert checkpoint is not None
    weights = {
        f"{file.parent.name}/{name}": tensor
        for file in sorted(checkpoint.path.glob("*/*.safetensors"))
        for name, tensor in load_file(file).items()
    }
    stored = load_file(checkpoint.path / "optimiser.safetensors")
    moments = {name: values for name, values in stored.items() if "exp_avg" in name}
    scores = store.prompt_scores().to_json(orient="split", double_precision=15)
    return {
        "points": reproducible(store).to_dict(orient="list"),
        "scores": hashlib.sha256(scores.encode()).hexdigest(),
        "weights": _summary(weights),
        "moments": _summary(moments),
    }


def _summary(tensors: Mapping[str, Tensor]) -> dict[str, object]:
    """A digest of every bit, and for machines that round otherwise the norm and one projection."""
    digest = hashlib.sha256()
    square = dot = 0.0
    for name in sorted(tensors):
        values = tensors[name].contiguous()
        digest.update(name.encode() + values.numpy().tobytes())
        flat = values.double().flatten()
        square += float(flat.square().sum())
        dot += float(flat @ torch.cos(torch.arange(flat.numel(), dtype=torch.float64)))
    return {"digest": digest.hexdigest(), "norm": math.sqrt(square), "projection": dot}


def machine() -> dict[str, str]:
    """What decides how a sum of floats is rounded: on another machine digests are not compared."""
    return {"torch": torch.__version__, "cpu": torch.backends.cpu.get_cpu_capability(), "numpy": np.__version__}


def record(scratch: Path) -> Iterator[tuple[str, dict[str, object]]]:
    """Every run and its outcome."""
    for name in names():
        done = run(golden_config(name, scratch), scratch / "results", Watcher())
        assert done.record.status == "done", (name, done.record.reason)
        yield name, outcome(done.store)


def main() -> None:
    """Write the fixture."""
    torch.set_num_threads(1)
    os.environ["HF_HUB_OFFLINE"] = "1"
    with tempfile.TemporaryDirectory() as scratch:
        runs = dict(record(Path(scratch)))
    FIXTURE.write_text(json.dumps({"machine": machine(), "runs": runs}, indent=1) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
