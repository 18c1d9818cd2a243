"""Several rewards on one curve: each normalised by the base's spread, and combined as the run combines them."""

from __future__ import annotations

from collections.abc import Mapping

from grpo_bench.config import RewardSection

SMALLEST = 1e-6
"""A spread below this is no spread: a reward that gives all of the base's images one score is divided by this."""


def combination(base: Mapping[str, float | None], row: Mapping[str, float], reward: RewardSection) -> dict[str, float]:
    """Columns `normalised/NAME` and `combined` of a point, for a run on several rewards; none for a run on one.

    normalised: (the reward's mean over images, minus that at the base point) / its standard deviation over the base
    point's images (`spread/NAME` there). combined: the weighted sum of those with `combine = "zscore"`, and of the raw
    means with `"raw"`.
    """
    weights = reward.weights
    if len(weights) < 2:
        return {}
    normalised = {
        name: (row[f"reward/{name}"] - (base[f"reward/{name}"] or 0.0)) / max(base[f"spread/{name}"] or 0.0, SMALLEST)
        for name in weights
    }
    parts = normalised if reward.combine == "zscore" else {name: row[f"reward/{name}"] for name in weights}
    combined = sum(weight * parts[name] for name, weight in weights.items())
    return {f"normalised/{name}": value for name, value in normalised.items()} | {"combined": combined}
