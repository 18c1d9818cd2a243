"""Captions that count: up to three coloured shapes, of one to three kinds, in frozen splits.

The kinds of a scene differ in colour, so that the judge can tell them apart. How hard a caption is differs widely, and
is meant to: one object is easy, three of one kind need counting, three kinds need three bindings, and the RARE kinds
hardly occur in the pictures that the model learns from.
"""

from __future__ import annotations

import hashlib
import itertools
import re
from dataclasses import dataclass
from functools import cache
from typing import Literal, get_args

from grpo_bench.errors import UserError
from grpo_bench.workloads.shapes.scenes import COLOURS, SHAPES, WITHHELD_PAIRS, Thing

NUMBERS = ("one", "two", "three")
MOST = 3
"""Objects in a picture."""
RARE = WITHHELD_PAIRS
"""(colour, shape) pairs that hardly occur in the training pictures: those that `shapes` withholds."""
UNTAUGHT = {1: 18, 2: 38, 3: 38}
"""Scenes that the training pictures never show, by their number of kinds: frozen."""
BLIND = Thing("purple", "square")
"""The rare thing that the base hardly ever draws beside two others: nearly half of each split's captions are such, so
that many groups are wrong as a whole."""
HELD_OUT, TUNING = (34, 30), (16, 14)
"""Captions that are kept for reporting and for tuning, without and with BLIND: frozen."""

Split = Literal["train", "heldout", "tuning"]
SPLITS: tuple[Split, ...] = get_args(Split)


@dataclass(frozen=True, order=True)
class Kind:
    """So many alike things."""

    count: int
    thing: Thing

    def __str__(self) -> str:
        return f"{NUMBERS[self.count - 1]} {self.thing.colour} {self.thing.shape}{'s' if self.count > 1 else ''}"


Scene = tuple[Kind, ...]
"""One to three kinds of different colours, in the caption's order; at most MOST objects."""

_KIND = re.compile(rf"({'|'.join(NUMBERS)}) ({'|'.join(COLOURS)}) ({'|'.join(SHAPES)})s?")
WORDS = ("and", *NUMBERS, *COLOURS, *SHAPES, *(f"{shape}s" for shape in SHAPES))


def caption(scene: Scene) -> str:
    """The scene in words: "two red circles and one blue square"."""
    return " and ".join(map(str, scene))


def parse(text: str) -> Scene:
    """The scene that a caption names; the inverse of `caption`.

    Raises UserError for a text outside the grammar.
    """
    found = [_KIND.fullmatch(part) for part in text.split(" and ")]
    scene = tuple(Kind(NUMBERS.index(kind[1]) + 1, Thing(kind[2], kind[3])) for kind in found if kind)
    colours = {kind.thing.colour for kind in scene}
    if caption(scene) == text and len(colours) == len(scene) and 1 <= sum(kind.count for kind in scene) <= MOST:
        return scene
    raise UserError(
        "a count prompt reads 'two red circles and one blue square': up to three kinds of different colours, at most "
        f"three objects in all, not {text[:80]!r}: use {', '.join(NUMBERS)}; {', '.join(COLOURS)}; {', '.join(SHAPES)}"
    )


@cache
def all_scenes() -> tuple[Scene, ...]:
    """Every scene once, the larger count first: 54 of one kind, 405 of two, 540 of three."""
    things = [Thing(colour, shape) for colour in COLOURS for shape in SHAPES]
    scenes = [
        tuple(Kind(count, thing) for count, thing in zip(counts, group, strict=True))
        for counts in ((1,), (2,), (3,), (1, 1), (2, 1), (1, 1, 1))
        for group in (itertools.permutations if counts == (2, 1) else itertools.combinations)(things, len(counts))
    ]
    return tuple(scene for scene in scenes if len({kind.thing.colour for kind in scene}) == len(scene))


def is_rare(scene: Scene) -> bool:
    """Whether one of its kinds hardly occurs in training."""
    return any((kind.thing.colour, kind.thing.shape) in RARE for kind in scene)


@cache
def taught() -> tuple[Scene, ...]:
    """The scenes of the training pictures: all but the first UNTAUGHT of each number of kinds, ordered by a hash."""
    return tuple(scene for kinds, first in UNTAUGHT.items() for scene in _ordered(kinds)[first:])


@cache
def scenes(split: Split) -> tuple[Scene, ...]:
    """The scenes of a split; `heldout` and `tuning` are untaught, and what has BLIND all but so.

    Raises UserError where there is no such split.
    """
    if split not in SPLITS:
        raise UserError(f"a count split is one of {', '.join(SPLITS)}, not {split!r}: name one of these")
    blind = sorted(filter(_is_blind, all_scenes()), key=_digest)
    untaught = [scene for kinds, first in UNTAUGHT.items() for scene in _ordered(kinds)[:first]]
    plain = sorted((scene for scene in untaught if not _is_blind(scene)), key=_digest)
    first, second = HELD_OUT, tuple(map(sum, zip(HELD_OUT, TUNING, strict=True)))
    if split == "heldout":
        return (*plain[: first[0]], *blind[: first[1]])
    if split == "tuning":
        return (*plain[first[0] : second[0]], *blind[first[1] : second[1]])
    hard = blind[second[1] :]
    rest = sorted((scene for scene in taught() if not _is_blind(scene)), key=_digest, reverse=True)  # its own end
    return (*rest[: len(hard)], *hard)


def prompts(split: Split) -> tuple[str, ...]:
    """The captions of a split, sorted. Raises UserError where there is no such split."""
    return tuple(sorted(map(caption, scenes(split))))


def _is_blind(scene: Scene) -> bool:
    """Whether it has BLIND among three objects of several kinds."""
    several = len(scene) > 1 and sum(kind.count for kind in scene) == MOST
    return several and any(kind.thing == BLIND for kind in scene)


def _ordered(kinds: int) -> list[Scene]:
    return sorted((scene for scene in all_scenes() if len(scene) == kinds), key=_digest)


def _digest(scene: Scene) -> bytes:
    return hashlib.sha256(caption(scene).encode()).digest()
