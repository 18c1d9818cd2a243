"""The ceiling of built-in workloads: the gold of training pictures that have passed the autoencoder. One JSON line.

    python benchmarks/ceiling.py [NAME ...]

Gains are normalised by (ceiling - base). Each model's card.json has the same number, from its pretraining.
"""

from __future__ import annotations

import argparse
import json
from importlib import import_module

from grpo_bench.workloads.pretraining.designs import DESIGNS, design
from grpo_bench.workloads.pretraining.folder import load
from grpo_bench.workloads.pretraining.making import CEILING_PICTURES, ceiling


def main() -> None:
    """Measure, and print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("names", nargs="*", choices=[*DESIGNS, []], default=list(DESIGNS))
    found = {}
    for name in parser.parse_args().names:
        made = design(name)
        folder = import_module(f"grpo_bench.workloads.{name.replace('-', '_')}.workload").MODEL
        card = json.loads((folder / "card.json").read_text(encoding="utf-8"))
        pictures = made.draw(CEILING_PICTURES, card["seed"] + 1)
        found[name] = {"measured": ceiling(made.gold, load(folder).vae, pictures), "card": card.get("ceiling")}
    print(json.dumps(found))


if __name__ == "__main__":
    main()
