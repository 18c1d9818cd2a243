"""From what was typed to a config: defaults, the workload's own, a recipe, a file, and the flags."""

from __future__ import annotations

from pathlib import Path

from grpo_bench.builtin import DEFAULT_WORKLOAD
from grpo_bench.config import (
    RunConfig,
    Table,
    build,
    check_recipe,
    merge,
    parse_budget,
    parse_rewards,
    parse_set,
    read_toml,
)
from grpo_bench.config import recipe as shipped
from grpo_bench.registry import WORKLOADS


def flags(*, method: str | None = None, reward: str | None = None, workload: str | None = None,
           model: str | None = None, prompts: Path | None = None, seed: int | None = None,
           budget: str | None = None, steps: int | None = None, device: str | None = None) -> Table:  # fmt: skip
    """The flags that were given, as a table of settings."""
    if reward is not None:
        parse_rewards(reward)
    if workload is None and model is not None:
        workload = "prompts"
    table: Table = {
        "workload": workload,
        "seed": seed,
        "device": device,
        "prompts": str(prompts) if prompts is not None else None,
        "method": {"name": method} if method else None,
        "reward": {"name": reward} if reward else None,
        "model": {"path": model} if model else None,
        "sampling": {"steps": steps} if steps is not None else None,
    }
    given = {key: value for key, value in table.items() if value is not None}
    return given | (parse_budget(budget) if budget is not None else {})


def resolve(over: Table, recipe: str | None, config: Path | None, sets: list[str] | None) -> RunConfig:
    """Defaults, the workload's defaults, recipe, --config, then --set and the flags: later ones win."""
    for assignment in sets or []:
        over = merge(over, parse_set(assignment))
    file = read_toml(config) if config is not None else {}
    name = recipe or str(over.get("recipe") or file.get("recipe") or "")
    start = shipped(name) if name else {}
    check_recipe(start, merge(file, over))
    layers = [("recipe", start), ("--config", file), ("--set", over)]
    named = [layer["workload"] for _, layer in layers if "workload" in layer]
    defaults = WORKLOADS.get(str(named[-1]) if named else DEFAULT_WORKLOAD).defaults
    return build([("workload", defaults), *layers])
