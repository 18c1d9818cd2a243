"""What runs without a suite are called, and which of them may stand in one figure."""

from __future__ import annotations

import hashlib
import json
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from grpo_bench.analysis.curve import Curve


PLACES = ("prompts", "prompts.column", "model.revision", "model.variant")
"""Settings that say where content is found, beside every `path`."""


def labelled(curves: Sequence[Curve]) -> list[Curve]:
    """Runs without a suite, named by method, and by the settings or the source that tell two of one method apart."""
    groups: dict[str, list[Curve]] = {}
    for curve in curves:
        groups.setdefault(_identity(curve), []).append(curve)
    rivals: dict[tuple[str, ...], list[str]] = {}
    for key, found in groups.items():
        rivals.setdefault((*scene_of(found[0]), found[0].method), []).append(key)
    labels: dict[str, str] = {}
    for keys in rivals.values():
        settings = {key: _flat(groups[key][0].config) for key in keys}
        names = {key: groups[key][0].method + _difference(settings[key], list(settings.values())) for key in keys}
        again = Counter(names.values())
        labels |= {key: name if again[name] == 1 else f"{name}@{digest(key)}" for key, name in names.items()}
    return [replace(curve, label=labels[key]) for key, found in groups.items() for curve in found]


def _difference(own: Mapping[str, object], rivals: Sequence[Mapping[str, object]]) -> str:
    """The settings in which rivals differ, as `(updates=8)`; nothing where there are none."""
    keys = dict.fromkeys(key for rival in rivals for key in rival)
    apart = [key for key in keys if any(rival.get(key) != own.get(key) for rival in rivals)]
    recipes = [rival.get("recipe", "") for rival in rivals]
    if recipes.count(own.get("recipe", "")) == 1 and len(recipes) > 1 and own.get("recipe"):
        return f"({own['recipe']})"
    told = [f"{key.rsplit('.', 1)[-1]}={own[key]}" for key in apart if own.get(key, "") != ""]
    return f"({','.join(told[:3])})" if told else ""


def _flat(table: Mapping[str, object], prefix: str = "") -> dict[str, object]:
    """Nested tables as dotted keys; the seed is left out, and where files lie: their content is in the hashes."""
    flat: dict[str, object] = {}
    for key, value in table.items():
        if isinstance(value, Mapping):
            flat |= _flat(value, f"{prefix}{key}.")
        elif f"{prefix}{key}" not in ("seed", *PLACES) and key != "path":
            flat[f"{prefix}{key}"] = value
    return flat


def _identity(curve: Curve) -> str:
    """All that the runs of one cell share: config but for the seed, the method's source, and what all are given."""
    kept = [_flat(curve.config), curve.record.hashes.get("method"), ingredients(curve)]
    return json.dumps(kept, sort_keys=True, default=str)


def digest(text: str) -> str:
    """Four digits that tell texts apart in a name."""
    return hashlib.sha256(text.encode()).hexdigest()[:4]


def ingredients(curve: Curve) -> dict[str, str]:
    """What every method is given alike: base weights, prompts and reward weights (hashes), device, numerics."""
    hashes = {name: value for name, value in curve.record.hashes.items() if name.partition("/")[0] != "method"}
    return hashes | {"device": curve.record.device, "numerics": str(curve.record.numerics_version)}


def scene_of(curve: Curve) -> tuple[str, ...]:
    """What the runs of one view share: workload, reward, protocol; as one text, evaluation, budget and ingredients."""
    record = curve.record
    kept = [curve.table("evaluation"), curve.table("budget"), ingredients(curve)]
    grid = json.dumps(kept, sort_keys=True, default=str)
    return record.workload, record.reward, record.protocol, grid
