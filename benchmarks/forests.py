"""What planning, credit, micro-batches and drawing cost on large forests, without a network. Prints one JSON line.

    python benchmarks/forests.py [--chains 1000] [--leaves 16384] [--trunks 200]

Seconds of one core for flat chains of 50 steps, a binary tree with a softmax back-up, and TempFlow-GRPO's trunks of 20
steps, eight prompts each; `nodes` are those of one prompt.
"""

from __future__ import annotations

import argparse
import json
import time
from collections.abc import Callable

import numpy as np

from grpo_bench.config import RunConfig, Table, build
from grpo_bench.forest.draw import draw_text
from grpo_bench.forest.rollout import Rollout
from grpo_bench.training.losses.edges import _micro_batches
from grpo_bench.training.planning import make_method, plan_forest, plan_schedule

PROMPTS, TRAIN_BATCH = 8, 64


def seconds(work: Callable[[], object]) -> float:
    """Processor time of one call."""
    started = time.process_time()
    work()
    return round(time.process_time() - started, 3)


def measure(config: RunConfig) -> dict[str, float]:
    """Every piece once, on the method's first forest."""
    method, schedule = make_method(config), plan_schedule(config)
    planning = seconds(lambda: plan_forest(method, 0, 0, schedule))
    forest = plan_forest(method, 0, 0, schedule)
    stream = np.random.default_rng(0)
    logp_NP, reward_LP = stream.standard_normal((forest.nodes, PROMPTS)), stream.random((forest.images, PROMPTS))
    rollout = Rollout(forest, {"reward": reward_LP}, logp_NP, prompts=tuple(map(str, range(PROMPTS))))
    keep_EP = np.ones((forest.trained_edges, PROMPTS), dtype=bool)
    served_T = np.zeros(schedule.steps, dtype=np.int64)  # one network along the whole grid

    def micro_batches() -> None:
        list(_micro_batches(forest, keep_EP, np.arange(PROMPTS), TRAIN_BATCH, served_T))

    return {
        "nodes": forest.nodes,
        "plan": planning,
        "credit": seconds(lambda: method.credit(rollout)),
        "micro_batches": seconds(micro_batches),
        "draw": seconds(lambda: draw_text(forest)),
    }


def main() -> None:
    """Measure, and print the result."""
    options = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    options.add_argument("--chains", type=int, default=1000)
    options.add_argument("--leaves", type=int, default=16384, help="a power of two")
    options.add_argument("--trunks", type=int, default=200)
    arguments = options.parse_args()
    depth = arguments.leaves.bit_length() - 1
    tables: dict[str, Table] = {
        "flat": {"method": {"name": "flat", "group": arguments.chains}, "sampling": {"steps": 50}},
        "tree": {
            "method": {"name": "tree", "branching": 2, "window": depth, "backup": "softmax"},
            "sampling": {"steps": depth + 1},
        },
        "tempflow": {"method": {"name": "tempflow", "roots": arguments.trunks}, "sampling": {"steps": 20}},
    }
    print(json.dumps({name: measure(build([("benchmark", table)])) for name, table in tables.items()}))


if __name__ == "__main__":
    main()
