"""Does it learn? Gains on held-out prompts over seeds, from stored runs. One JSON line.

    python benchmarks/learning.py [results/archive/learning]

For each method: the last point less the base of gold, correctness and appeal, mean over seeds with its 95% t interval
(RULES.md, "Statistics"), and the largest `seconds`, seconds of evaluation and peak memory among its runs. To make
the runs again: `grpo-bench run --method METHOD --seed SEED`, methods flat, mix and tree, seeds 0 to 4.
"""

from __future__ import annotations

import argparse
import json
from pathlib import Path

import numpy as np
from scipy import stats

from grpo_bench.errors import UserError
from grpo_bench.store.reader import read_runs

REFERENCE = Path(__file__).parent.parent / "results" / "archive" / "learning"
COLUMNS = {"gold": "gold", "correctness": "reward/shapes-correctness", "appeal": "reward/shapes-appeal"}


def interval(gains: np.ndarray) -> dict[str, float]:
    """Mean and 95% t interval over seeds."""
    half = float(stats.t.ppf(0.975, len(gains) - 1) * gains.std(ddof=1) / np.sqrt(len(gains)))
    mean = float(gains.mean())
    return {"mean": round(mean, 4), "low": round(mean - half, 4), "high": round(mean + half, 4)}


def summarise(results: Path) -> dict[str, dict[str, object]]:
    """The figures of every method in a folder of finished runs.

    Raises:
        UserError: a run is unfinished or damaged, or a method has fewer than two seeds.
    """
    runs = read_runs(results)
    faults = [
        *runs.skipped,
        *(f"{record.run} is {record.status}" for record in runs.records if record.status != "done"),
    ]
    if faults or not runs.records:
        raise UserError(f"learning figures need finished runs in {results}: {faults[0] if faults else 'there is none'}")
    figures: dict[str, dict[str, object]] = {}
    for method, points in runs.points.groupby("method"):
        ordered = points.sort_values("iteration").groupby("seed")
        base, final = ordered.first(), ordered.last()
        if len(base) < 2:
            raise UserError(f"learning figures need at least two seeds, {method} has {len(base)}: run another")
        figures[str(method)] = {
            "seeds": len(base),
            "base_gold": round(float(base["gold"].mean()), 4),
            "train_share": round(float((3 * final["train_nfe"] / final["nfe"]).mean()), 4),
            "iterations": int(final["iteration"].max()),
            **{name: interval((final[column] - base[column]).to_numpy()) for name, column in COLUMNS.items()},
            "seconds": round(float(final["seconds"].max()), 1),
            "eval_seconds": round(float(final["eval_seconds"].max()), 1),
            "peak_memory_gb": round(float(final["peak_memory_bytes"].max()) / 1e9, 2),
        }
    return figures


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("results", nargs="?", type=Path, default=REFERENCE)
    print(json.dumps(summarise(parser.parse_args().results)))
