"""Where on the grid a reward is decided: the exploration potential of a workload's base. One JSON line.

    python benchmarks/potential.py WORKLOAD [--prompts 24] [--trunks 4] [--children 6] [--set sampling.noise=0.7]

Percent of the within-prompt variance that is decided from each sigma on, for the gold and its parts, on evenly spaced
held-out prompts.
"""

from __future__ import annotations

import argparse
import json

from grpo_bench.evaluation.potential import potential
from grpo_bench.metering.ledger import Ledger
from grpo_bench.resolve import flags, resolve
from grpo_bench.sampling.handle import Metered
from grpo_bench.training.planning import sampling_schedule
from grpo_bench.training.session import evaluation_prompts, judges, load_policy, pick_device, splits


def main() -> None:
    """Measure, and print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("workload")
    parser.add_argument("--prompts", type=int, default=24)
    parser.add_argument("--trunks", type=int, default=4)
    parser.add_argument("--children", type=int, default=6)
    parser.add_argument("--set", action="append", default=[])
    given = parser.parse_args()
    config = resolve(flags(workload=given.workload), None, None, given.set)
    device = pick_device(config.device)
    policy, rewards = load_policy(config, device), judges(config)
    for reward in rewards.values():
        reward.load(device)
    ledger = Ledger()
    shares = potential(
        policy,
        Metered(policy, ledger, guidance=1.0, batch=config.training.rollout_batch),
        sampling_schedule(config.sampling, policy.grid),
        rewards,
        evaluation_prompts(splits(config)["heldout"], given.prompts),
        trunks=given.trunks,
        children=given.children,
    )
    percent = {
        name: {f"{sigma:.2f}": round(100 * share) for sigma, share in by_sigma.items()}
        for name, by_sigma in shares.items()
    }
    print(json.dumps({"workload": given.workload, **vars(given), "percent_decided": percent}))


if __name__ == "__main__":
    main()
