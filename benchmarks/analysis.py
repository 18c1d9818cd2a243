"""How long loading and summarising a thousand synthetic runs takes, and in how much memory; prints one JSON line.

    python benchmarks/analysis.py [--runs 1000]

Ten labels, a hundred seeds and nine points a run, written through the store. The limits are 15 s and 1 GB.
"""

from __future__ import annotations

import argparse
import json
import resource
import tempfile
from pathlib import Path
from time import perf_counter

import numpy as np
import pyarrow as pa

from grpo_bench.config import RunConfig
from grpo_bench.store.points import encode
from grpo_bench.store.prompt_scores import encode as encode_prompt_scores
from grpo_bench.store.record import RunRecord
from grpo_bench.store.run import POINTS as POINTS_FILE
from grpo_bench.store.run import PROMPT_SCORES, RunStore
from grpo_bench.store.suite import CellRecord, SuiteRecord, write_suite

LABELS, POINTS, PROMPTS, BUDGET = 10, 9, 64, 64000


def write(folder: Path, runs: int) -> None:
    """`runs` finished runs of ten labels, as a suite with four contrasts."""
    stream = np.random.default_rng(0)
    cells = []
    for number in range(runs):
        label, seed = f"method-{number % LABELS}", number // LABELS
        run = f"synthetic-{label}-s{seed}"
        record = RunRecord(
            run=run, status="done", method=label, reward="shapes-pref", workload="shapes", seed=seed, tier="tiny",
            rules_version=2, numerics_version=1, device="cpu",
        )  # fmt: skip
        store = RunStore.create(folder, run, RunConfig(seed=seed, budget={"nfe": BUDGET}).to_toml(), record)
        rows = []
        for point in range(POINTS):
            spent = BUDGET * point // (POINTS - 1)
            gold = 0.5 + 0.02 * (1 + number % LABELS) * point / POINTS + 0.01 * float(stream.standard_normal())
            counters = dict.fromkeys(("reward_calls", "updates", "images", "decodes", "trained_edges"), spent // 10)
            costs = dict.fromkeys(("rollout_nfe", "train_nfe", "reference_nfe", "eval_nfe"), spent // 3)
            seconds = dict.fromkeys(("seconds", "rollout_seconds", "train_seconds", "eval_seconds"), spent / 1000)
            row = {"iteration": point, "nfe": spent, "gold": gold, "proxy": gold + 0.1}
            rows.append(row | counters | costs | seconds)
        (store.folder / POINTS_FILE).write_bytes(encode(rows))
        (store.folder / PROMPT_SCORES).write_bytes(encode_prompt_scores(by_prompt(rows, stream)))
        cells.append(CellRecord(label=label, run=run, method=label, reward="shapes-pref", workload="shapes", seed=seed))
    write_suite(
        folder,
        SuiteRecord(
            suite="synthetic", digest="0" * 64, baseline="method-0", budget={"nfe": BUDGET}, cells=tuple(cells),
            contrasts=tuple(f"method-{number}" for number in range(1, 5)),
        ),
    )  # fmt: skip


def by_prompt(rows: list[dict[str, float]], stream: np.random.Generator) -> pa.Table:
    """64 prompts: one noise at every point, four at the base and beside the budget."""
    keys = [
        (point, noise, prompt)
        for point in range(POINTS)
        for noise in range(4 if point in (0, POINTS - 2, POINTS - 1) else 1)
        for prompt in range(PROMPTS)
    ]
    iteration, noise, prompt = (pa.array(values, pa.int64()) for values in zip(*keys, strict=True))
    gold = np.array([rows[point]["gold"] for point, _, _ in keys]) + 0.1 * stream.standard_normal(len(keys))
    scores = {"shapes": gold, "shapes-correctness": gold, "shapes-appeal": gold, "shapes-pref": gold + 0.1}
    columns = {name: pa.array(values, pa.float32()) for name, values in scores.items()}
    return pa.table({"iteration": iteration, "noise": noise, "prompt": prompt, **columns})


def main() -> None:
    """Write, then time what `grpo-bench pareto` does before it draws."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--runs", type=int, default=1000)
    runs = parser.parse_args().runs
    with tempfile.TemporaryDirectory() as name:
        write(Path(name), runs)
        started = perf_counter()
        from grpo_bench.analysis.study import studies
        from grpo_bench.analysis.summary import summaries

        (study,) = studies(Path(name))
        loaded = perf_counter()
        figures = summaries(study)
        ended = perf_counter()
    memory = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024
    print(
        json.dumps(
            {
                "runs": sum(len(method.seeds) for summary in figures for method in summary.methods),
                "load_seconds": round(loaded - started, 2),
                "summarise_seconds": round(ended - loaded, 2),
                "peak_memory_bytes": memory,
            }
        )
    )


if __name__ == "__main__":
    main()
