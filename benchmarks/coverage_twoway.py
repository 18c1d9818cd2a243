"""What the intervals of the second edition cover, simulated anew. Prints a line of JSON for each law, source and size.

    python benchmarks/coverage_twoway.py [--law normal ...] [--simulations 10000]

With the default number of simulations these are the rows of grpo_bench/analysis/coverage_table.py.
"""

from __future__ import annotations

import argparse
import json
import time

from grpo_bench.analysis.coverage_twoway import LAWS, SIMULATIONS, SIZES, SOURCES, simulate, simulate_welch


def main() -> None:
    """Simulates every law asked for, with every source and size, and the mean over workloads."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("--law", choices=LAWS, nargs="*", default=list(LAWS))
    parser.add_argument("--simulations", type=int, default=SIMULATIONS, help="data sets of each row")
    options = parser.parse_args()
    for law in options.law:
        for size in SIZES:
            for source in SOURCES:
                start = time.perf_counter()
                found = {
                    name: round(value, 1)
                    for name, value in simulate(law, source, size, options.simulations)._asdict().items()
                }
                seconds = round(time.perf_counter() - start, 1)
                print(
                    json.dumps({"law": law, "source": source, "size": size} | found | {"seconds": seconds}), flush=True
                )
            welch = round(simulate_welch(law, size, options.simulations), 1)
            print(json.dumps({"law": law, "size": size, "welch": welch}), flush=True)


if __name__ == "__main__":
    main()
