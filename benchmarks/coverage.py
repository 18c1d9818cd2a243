"""What the printed 95% intervals cover, simulated anew. Prints one JSON line: per cent by interval, law and seeds.

    python benchmarks/coverage.py [--interval t ...] [--simulations 40000]

With the default number of simulations it prints `TABLE` of grpo_bench/analysis/coverage.py.
"""

from __future__ import annotations

import argparse
import json
import time

from grpo_bench.analysis.coverage import INTERVALS, LAWS, SEEDS, simulate


def main() -> None:
    """Simulates every interval asked for, on every law, at every number of seeds of the table."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("--interval", choices=INTERVALS, nargs="*", default=list(INTERVALS))
    parser.add_argument("--simulations", type=int, default=None, help="of each number; the table's own by default")
    options = parser.parse_args()
    start = time.perf_counter()
    measured = {
        interval: {
            law: {seeds: round(simulate(interval, law, seeds, options.simulations), 1) for seeds in SEEDS[interval]}
            for law in LAWS
        }
        for interval in options.interval
    }
    print(json.dumps({"nominal": 95, "coverage": measured, "seconds": round(time.perf_counter() - start, 1)}))


if __name__ == "__main__":
    main()
