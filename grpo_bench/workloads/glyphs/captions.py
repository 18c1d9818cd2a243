"""The captions of `glyphs`: every ordered pair of letters, in three frozen splits."""

from __future__ import annotations

import hashlib
import itertools
import re
from functools import cache
from typing import Literal, get_args

from grpo_bench.errors import UserError
from grpo_bench.workloads.glyphs.alphabet import LETTERS

Split = Literal["train", "heldout", "tuning"]
SPLITS: tuple[Split, ...] = get_args(Split)
HELD_OUT, TUNING = 64, 30
"""Pairs that are kept for reporting and for tuning: frozen."""
WORDS = ("the", "letters")
_CAPTION = re.compile(rf"the letters ([{LETTERS}]) ([{LETTERS}])")


def caption(pair: str) -> str:
    """The pair in words: "the letters E F" of "EF"."""
    return f"the letters {pair[0]} {pair[1]}"


def parse(text: str) -> str:
    """The pair that a caption names; the inverse of `caption`.

    Raises UserError for a text outside the grammar.
    """
    match = _CAPTION.fullmatch(text)
    if match is None:
        raise UserError(
            f"a glyphs prompt reads 'the letters X Y' with two of {LETTERS}, not {text[:80]!r}: ask for one such as "
            "'the letters E F'"
        )
    return match[1] + match[2]


@cache
def prompts(split: Split) -> tuple[str, ...]:
    """All captions of a split, sorted; `heldout` and `tuning` are never used in training.

    Raises UserError where there is no such split.
    """
    if split not in SPLITS:
        raise UserError(f"a glyphs split is one of {', '.join(SPLITS)}, not {split!r}: name one of these")
    pairs = ["".join(pair) for pair in itertools.product(LETTERS, repeat=2)]
    pairs.sort(key=lambda pair: hashlib.sha256(pair.encode()).digest())
    ends = {"heldout": (0, HELD_OUT), "tuning": (HELD_OUT, HELD_OUT + TUNING), "train": (HELD_OUT + TUNING, None)}
    return tuple(sorted(caption(pair) for pair in pairs[slice(*ends[split])]))
