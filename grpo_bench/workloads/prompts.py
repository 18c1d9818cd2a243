"""Any diffusers pipeline on prompts from a file."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import ClassVar

from grpo_bench.config import RunConfig, Table
from grpo_bench.errors import UserError
from grpo_bench.workloads.base import Splits, Workload


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
        if not config.prompts:
            raise UserError("this model has no prompts of its own; give --prompts with a file, one prompt a line")
        return read_prompts(Path(config.prompts))


def read_prompts(path: Path) -> Splits:
    """Prompts by split, from UTF-8 text with one prompt a line, or JSONL with `prompt` and (optionally) `split`.

    Without splits, the last tenth (at least one prompt) is `heldout`. Empty lines are skipped, repeats are kept once.

    Raises:
        UserError: a missing, empty or undecodable file, a broken line (with its number), an empty split, or a prompt
            that is both trained on and held out.
    """
    try:
        # Not splitlines(): a line separator such as U+2028 may stand inside a JSON text.
        lines = path.read_text(encoding="utf-8-sig").split("\n")
    except UnicodeDecodeError as error:
        raise UserError(f"prompt file {str(path)!r} is not UTF-8 (byte {error.start}); save it as UTF-8") from error
    except (OSError, ValueError) as error:
        reason = getattr(error, "strerror", None) or str(error)
        raise UserError(f"prompt file {str(path)!r} cannot be read: {reason}; check the path") from error
    rows = [_parse(line, number, path) for number, line in enumerate(lines, 1) if line.strip()]
    if not rows:
        raise UserError(f"prompt file {str(path)!r} is empty; write one prompt a line")
    if any(split for _, split in rows) and not all(split for _, split in rows):
        raise UserError(f"prompt file {str(path)!r} gives a split to some prompts only; give it to all or to none")
    if not rows[0][1]:
        unique = list(dict.fromkeys(prompt for prompt, _ in rows))
        held = max(len(unique) // 10, 1)
        rows = [(prompt, "train") for prompt in unique[:-held]] + [(prompt, "heldout") for prompt in unique[-held:]]
    splits: dict[str, dict[str, None]] = {"train": {}, "heldout": {}}
    for prompt, split in rows:
        splits.setdefault(split, {})[prompt] = None
    _check_splits(splits, path)
    return {split: tuple(prompts) for split, prompts in splits.items()}


def _check_splits(splits: Mapping[str, Mapping[str, None]], path: Path) -> None:
    for name in ("train", "heldout"):
        if not splits[name]:
            raise UserError(
                f"prompt file {str(path)!r} leaves the split {name!r} empty; give at least one train and one "
                "heldout prompt"
            )
    both = splits["train"].keys() & splits["heldout"].keys()
    if both:
        raise UserError(
            f"prompt file {str(path)!r} gives {min(both)!r} to train and heldout alike, but what is held out must not "
            "be trained on; remove one"
        )


def _parse(line: str, number: int, path: Path) -> tuple[str, str]:
    """(prompt, split or "") of one line; a line that starts with a brace is JSON."""
    if not line.lstrip().startswith("{"):
        return line.strip(), ""
    try:
        row = json.loads(line)
        json.dumps(row, ensure_ascii=False).encode()  # half a surrogate pair is JSON, but no text
    except (ValueError, RecursionError):
        row = None
    if not isinstance(row, dict) or not isinstance(row.get("prompt"), str) or not row["prompt"].strip():
        raise UserError(f'line {number} of {str(path)!r} is not a JSON object with a "prompt" text; mend or remove it')
    unknown = set(row) - {"prompt", "split"}
    if unknown or not isinstance(row.get("split", ""), str):
        raise UserError(f'line {number} of {str(path)!r} may hold "prompt" and "split" only, both texts; mend it')
    return row["prompt"].strip(), row.get("split", "")
