"""Does a stored run come out again, bit for bit? Carries it out anew elsewhere, and compares what is reproducible.

    python benchmarks/reproduce.py results/reference/shapes/shapes-tree-s200-59cb9f2d8d ...

prints one JSON line a run: whether its id and its points are the same, and the columns that differ. Equal ids are of
the same settings, weights and plugins; what may differ is the engine, and the machine.
"""

from __future__ import annotations

import argparse
import json
import tempfile
from pathlib import Path

import numpy as np

from grpo_bench.store.run import RunStore
from grpo_bench.training.loop import Nobody
from grpo_bench.training.run import start, stored_config


def compared(store: RunStore, results: Path) -> dict[str, object]:
    """A stored run beside itself."""
    done = start(stored_config(store), results, Nobody(), timed=False)
    left, right = store.points(), done.store.points()
    ours = [name for name in left if not str(name).endswith("seconds") and name != "peak_memory_bytes"]
    same_rows = len(left) == len(right)
    differs = [
        str(name)
        for name in ours
        if name not in right
        or not same_rows
        or not np.array_equal(left[name].to_numpy(), right[name].to_numpy(), equal_nan=left[name].dtype.kind == "f")
    ]
    return {
        "run": store.record.run,
        "same_id": done.record.run == store.record.run,
        "points": len(left),
        "equal": not differs,
        "differs": differs,
    }


def main() -> None:
    """Compare each run that was named."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("runs", nargs="+", type=Path)
    for folder in parser.parse_args().runs:
        with tempfile.TemporaryDirectory() as results:
            print(json.dumps(compared(RunStore(folder), Path(results))))


if __name__ == "__main__":
    main()
