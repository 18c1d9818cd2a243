"""A stored run without training: hand-made points and images in a real run folder."""

from __future__ import annotations

from datetime import UTC, datetime
from pathlib import Path

import numpy as np

from grpo_bench.metering.ledger import Ledger
from grpo_bench.store.record import RunRecord, Status
from grpo_bench.store.run import RunStore

CONFIG = 'workload = "shapes"\n[budget]\nnfe = 6000\n[method]\nname = "tree"\n[reward]\nname = "shapes"\n'


def point(iteration: int, gold: float, **more: float) -> dict[str, int | float | None]:
    """One evaluation: 1000 rollout and 100 training evaluations and two seconds of rollout an iteration."""
    ledger = Ledger()
    ledger.charge("rollout", 1000 * iteration)
    ledger.charge("train", 100 * iteration)
    ledger.charge("eval", 50)
    ledger.count("iterations", iteration)
    ledger.count_reward("shapes", 27 * iteration)
    row = ledger.row() | {"rollout_seconds": 2.0 * iteration, "seconds": 2.0 * iteration, "eval_seconds": 0.5}
    scores = {"proxy": gold, "gold": gold, "reward/shapes": gold, "diversity": 0.3 - 0.01 * iteration}
    return {**row, **scores, "peak_memory_bytes": 1_250_000_000, **more}


def stored(
    results: Path,
    points: list[dict[str, int | float | None]],
    *,
    run: str = "shapes-tree-s0-0123456789",
    status: Status = "done",
    reason: str = "",
    reward: str = "shapes",
    gold_is_proxy: bool = True,
) -> RunStore:
    """A run with these points in `results`."""
    record = RunRecord(
        run=run,
        status=status,
        reason=reason,
        method="tree",
        reward=reward,
        workload="shapes",
        seed=0,
        tier="tiny",
        gold_is_proxy=gold_is_proxy,
        rules_version=1,
        numerics_version=1,
        device="cpu",
        started=datetime(2026, 1, 2, tzinfo=UTC),
    )
    store = RunStore.create(results, run, CONFIG, record)
    for row in points:
        store.append_point(row)
    return store


def save_images(store: RunStore, prompts: list[str], *, per_prompt: int = 2, side: int = 32) -> None:
    """Images of every point in `store`: prompt p's image i is flat grey 10 p + i, plus 100 at the last point."""
    rows = store.rows()
    store.save_prompts(prompts)
    for row in rows:
        iteration = int(row["iteration"] or 0)
        level = np.add.outer(10 * np.arange(len(prompts)), np.arange(per_prompt)).ravel() + 100 * (row is rows[-1])
        images = np.broadcast_to(level.astype(np.uint8)[:, None, None, None], (len(level), side, side, 3))
        store.save_images(f"point-{iteration:06d}", images, per_prompt)
