"""Captioned scenes: one or two coloured shapes, their grammar, and the frozen splits of all prompts.

Two objects of a scene never share a colour, so that the judge can find each of them by its colour.
"""

from __future__ import annotations

import hashlib
import itertools
import re
from dataclasses import dataclass
from functools import cache
from typing import Literal, get_args

from grpo_bench.errors import UserError

COLOURS = ("red", "yellow", "green", "cyan", "blue", "purple")
"""In the order of their hues: COLOURS[k] lies at 60*k degrees."""
SHAPES = ("circle", "square", "triangle")
RELATIONS = ("left of", "right of", "above", "below")
INVERSE = {"left of": "right of", "right of": "left of", "above": "below", "below": "above"}

WITHHELD_PAIRS = frozenset({("yellow", "circle"), ("blue", "triangle"), ("purple", "square")})
"""(colour, shape) pairs that occur in no prompt but those of `combinations`: frozen."""
HELDOUT_PER_MILLE = {1: 250, 2: 130}
"""Share of the one-object and two-object scenes that is held out: frozen."""

Split = Literal["train", "heldout", "combinations"]
SPLITS: tuple[Split, ...] = get_args(Split)
WORDS = tuple(sorted({"a", *COLOURS, *SHAPES, *" ".join(RELATIONS).split()}))
"""The words of the captions' grammar."""
ALONE = 0.2
"""Share of one-object scenes among pictures to learn from; the prompts themselves are nearly all of two."""


@dataclass(frozen=True, order=True)
class Thing:
    """One object: a colour of COLOURS and a shape of SHAPES."""

    colour: str
    shape: str

    def __str__(self) -> str:
        return f"a {self.colour} {self.shape}"


@dataclass(frozen=True)
class Scene:
    """One object, or two of different colours with `first` standing `relation` `second`."""

    first: Thing
    relation: str | None = None
    second: Thing | None = None

    def __post_init__(self) -> None:
        if (self.relation is None) != (self.second is None):
            raise ValueError("a scene has both a relation and a second object, or neither")
        if self.second is not None and self.second.colour == self.first.colour:
            raise ValueError(f"the two objects of a scene differ in colour, not both {self.first.colour}")

    @property
    def things(self) -> tuple[Thing, ...]:
        """The one or two objects, in the caption's order."""
        return (self.first,) if self.second is None else (self.first, self.second)

    @property
    def canonical(self) -> Scene:
        """The same picture told with "left of" or "above": a picture's two captions share one canonical scene."""
        if self.second is None or self.relation not in ("right of", "below"):
            return self
        return Scene(self.second, INVERSE[self.relation], self.first)


_THING = rf"a ({'|'.join(COLOURS)}) ({'|'.join(SHAPES)})"
_CAPTION = re.compile(rf"{_THING}(?: ({'|'.join(RELATIONS)}) {_THING})?")


def caption(scene: Scene) -> str:
    """The scene in words: "a red circle", or "a red circle left of a blue square"."""
    return str(scene.first) if scene.second is None else f"{scene.first} {scene.relation} {scene.second}"


def parse(text: str) -> Scene:
    """The scene that a caption names; the inverse of `caption`.

    Raises UserError for a text outside the grammar.
    """
    match = _CAPTION.fullmatch(text)
    if match is None or match[1] == match[4]:
        raise UserError(
            "a shapes prompt reads 'a COLOUR SHAPE' or 'a COLOUR SHAPE RELATION a COLOUR SHAPE' with two different "
            f"colours, not {text[:80]!r}: use {', '.join(COLOURS)}; {', '.join(SHAPES)}; {', '.join(RELATIONS)}"
        )
    first = Thing(match[1], match[2])
    return Scene(first) if match[3] is None else Scene(first, match[3], Thing(match[4], match[5]))


def all_scenes() -> tuple[Scene, ...]:
    """Every scene of the grammar: 18 of one object, 1080 of two."""
    things = [Thing(colour, shape) for colour in COLOURS for shape in SHAPES]
    pairs = [(a, b) for a, b in itertools.product(things, things) if a.colour != b.colour]
    return (*map(Scene, things), *(Scene(a, relation, b) for a, b in pairs for relation in RELATIONS))


def split_of(scene: Scene) -> Split:
    """The split that a scene belongs to, by a hash of its canonical caption: both captions of a picture go together."""
    if any((thing.colour, thing.shape) in WITHHELD_PAIRS for thing in scene.things):
        return "combinations"
    digest = hashlib.sha256(caption(scene.canonical).encode()).digest()
    held_out = int.from_bytes(digest[:8], "big") % 1000 < HELDOUT_PER_MILLE[len(scene.things)]
    return "heldout" if held_out else "train"


@cache
def prompts(split: Split) -> tuple[str, ...]:
    """All captions of a split, sorted: `train`, `heldout` (never used in training) or `combinations` (unseen pairs)."""
    if split not in SPLITS:
        raise UserError(f"a shapes split is one of {', '.join(SPLITS)}, not {split!r}")
    return tuple(sorted(caption(scene) for scene in all_scenes() if split_of(scene) == split))
