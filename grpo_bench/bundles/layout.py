"""What a bundle holds: which entries under which names, how large each may be, and the manifest that lists them.

MANIFEST.json                              what is in it, and the figures
FOLDER/NAME.suite.json                     a suite
FOLDER/RUN/config.toml, run.json, points.parquet, prompt_scores.parquet, scores.parquet
FOLDER/RUN/images/prompts.json             what the images were drawn for
FOLDER/RUN/images/panel-000123/index.json, 000.png
"""

from __future__ import annotations

import re
from dataclasses import dataclass, field

from pydantic import BaseModel, ConfigDict, Field, JsonValue

from grpo_bench.store.names import NAME_PATTERN
from grpo_bench.store.run import CONFIG, POINTS, PROMPT_SCORES, RECORD, SCORES

MANIFEST = "MANIFEST.json"
FORMAT_VERSION = 1
"""Raised when an old `verify` would misread a new bundle."""

_RUN = f"(?P<folder>{NAME_PATTERN})/(?P<run>{NAME_PATTERN})"
_PATTERNS = {
    "manifest": re.escape(MANIFEST),
    "suite": rf"(?P<folder>{NAME_PATTERN})/(?P<file>{NAME_PATTERN}\.suite\.json)",
    "record": rf"{_RUN}/(?P<file>{re.escape(CONFIG)}|{re.escape(RECORD)})",
    "points": rf"{_RUN}/(?P<file>{re.escape(POINTS)})",
    "prompt scores": rf"{_RUN}/(?P<file>{re.escape(PROMPT_SCORES)})",
    "scores": rf"{_RUN}/(?P<file>{re.escape(SCORES)})",
    "prompts": rf"{_RUN}/images/(?P<file>prompts\.json)",
    "picture": rf"{_RUN}/images/panel-\d{{6,12}}/(?P<file>index\.json|\d{{3}}\.png)",
}
_KINDS = {kind: re.compile(pattern) for kind, pattern in _PATTERNS.items()}
_MEGABYTE = 1_000_000
_LARGEST = {"manifest": 24, "suite": 4, "record": 0.5, "points": 16, "prompt scores": 16, "scores": 16,
            "prompts": 16, "picture": 64}  # fmt: skip
TEXTS = ("manifest", "suite", "record")
"""Kinds that are parsed, which takes many times their bytes of memory."""
READ = (*TEXTS, "points", "prompt scores")
"""Kinds that figures are made of; of the others only sizes and hashes are looked at."""


@dataclass(frozen=True)
class Limits:
    """What is too much to be read, in entries, bytes and numbers."""

    entries: int = 10_000
    unpacked: int = 1000 * _MEGABYTE
    """Bytes of all entries together, counted as they are unpacked."""
    entry: dict[str, int] = field(
        default_factory=lambda: {kind: int(size * _MEGABYTE) for kind, size in _LARGEST.items()}
    )
    """Bytes of one entry by its kind, likewise."""
    text: int = 32 * _MEGABYTE
    """Bytes of all entries in TEXTS together."""
    points: int = 100_000
    """Rows of one run."""
    prompt_scores: int = 1_000_000
    """Rows of one run's prompts' scores."""
    numbers: int = 20_000_000
    """Values in the points and prompts' scores of all runs together, counted once for each suite that a run is in."""


@dataclass(frozen=True)
class Place:
    """What an entry is, by its name."""

    kind: str
    folder: str
    run: str
    file: str


class EntryRecord(BaseModel):
    """One entry's content."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    sha256: str = Field(pattern="^[0-9a-f]{64}$")
    size: int = Field(ge=0)


class RunFigures(BaseModel):
    """A run's points in short: a number that is changed, removed or exchanged with another row's changes one of them.

    All are over the values that are there, finite; None where there are none.
    """

    model_config = ConfigDict(extra="forbid", frozen=True)

    points: int
    values: dict[str, int]
    """How many of a column's values are there."""
    means: dict[str, float | None]
    weighted: dict[str, float | None]
    """Means in which the first row counts once, the second twice, and so on."""


class Manifest(BaseModel):
    """The content of MANIFEST.json."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    format_version: int
    grpo_bench: str
    """Version of the program that wrote it."""
    rules_versions: tuple[int, ...]
    """Of its runs."""
    entries: dict[str, EntryRecord]
    """Every entry but the manifest itself."""
    runs: dict[str, RunFigures]
    """By `FOLDER/RUN`."""
    views: dict[str, dict[str, JsonValue]]
    """`analysis.summary.to_json` by `FOLDER/STUDY/VIEW`."""


def place_of(name: str) -> Place | None:
    """What the entry of this name is; None for a name that no bundle has."""
    for kind, pattern in _KINDS.items():
        match = pattern.fullmatch(name)
        if match:
            parts = match.groupdict()
            return Place(kind, parts.get("folder", ""), parts.get("run", ""), parts.get("file", ""))
    return None
