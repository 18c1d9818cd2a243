"""Any diffusers pipeline on prompts from a file."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import ClassVar

from grpo_bench.config import RunConfig, Table
from grpo_bench.errors import UserError
from grpo_bench.workloads.base import Splits, Workload
from grpo_bench.workloads.prompt_files import PromptFile


class PromptsWorkload(Workload):
    """Your own model (`--model`) on your own prompts (`--prompts`); the reward trained on is the judge."""

    name = "prompts"
    tier = "real"
    gold = ""
    # Flow-GRPO's SD3.5-M settings (config/grpo.py): 10 steps to train, 40 to evaluate, guidance 4.5.
    defaults: ClassVar[Table] = {
        "model": {"trainable": "lora"},
        "sampling": {"guidance": 4.5},
        "training": {"learning_rate": 3e-4, "rollout_batch": 8, "train_batch": 4, "decode_batch": 4},
        "evaluation": {"steps": 40, "guidance": 4.5},
        "budget": {"nfe": 1_000_000.0},
    }

    def model(self, config: RunConfig) -> str:
        """The path or hub id given."""
        if not config.model.path:
            raise UserError("workload 'prompts' needs a model; give --model with a folder or hub id")
        return config.model.path

    def prompts(self, config: RunConfig) -> Splits:
        """The prompts of the file given."""
        if not config.prompts.path:
            raise UserError("this model has no prompts of its own; give --prompts with a file, one prompt a line")
        return read_prompts(Path(config.prompts.path), config.prompts.column)


def read_prompts(path: Path, column: str = "") -> Splits:
    """Prompts by split, from plain text, CSV, TSV, JSON or JSON lines; `column` names a table's prompts.

    Without splits, the last tenth (at least one prompt) is `heldout`. Repeats are kept once.

    Raises:
        UserError: a file that cannot be read as one of these, an empty split, or a prompt that is both trained on and
            held out.
    """
    file = PromptFile(path, column)
    rows = file.rows()
    if any(row.split for row in rows) and not all(row.split for row in rows):
        raise UserError(f"{file.name} gives a split to some prompts only; give it to all or to none")
    splits: dict[str, dict[str, None]] = {"train": {}, "heldout": {}}
    if rows[0].split:
        for row in rows:
            splits.setdefault(row.split, {})[row.prompt] = None
    else:
        unique = list(dict.fromkeys(row.prompt for row in rows))
        held = max(len(unique) // 10, 1)
        splits["train"], splits["heldout"] = dict.fromkeys(unique[:-held]), dict.fromkeys(unique[-held:])
    _check_splits(splits, file.name)
    return {split: tuple(prompts) for split, prompts in splits.items()}


def _check_splits(splits: Mapping[str, Mapping[str, None]], name: str) -> None:
    for split in ("train", "heldout"):
        if not splits[split]:
            raise UserError(f"{name} leaves the split {split!r} empty; give at least one train and one heldout prompt")
    both = splits["train"].keys() & splits["heldout"].keys()
    if both:
        raise UserError(
            f"{name} gives {min(both)!r} to train and heldout alike, but what is held out must not be trained on; "
            "remove one"
        )
