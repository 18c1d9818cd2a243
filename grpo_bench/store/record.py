"""`run.json`: what a run is, how it ended and where it ran."""

from __future__ import annotations

from datetime import datetime
from typing import TYPE_CHECKING, Annotated, Literal, TypeVar

from pydantic import BaseModel, ConfigDict, Field, JsonValue, ValidationError

from grpo_bench.errors import UserError
from grpo_bench.store.names import NAME_PATTERN, clean_text, parse_json

if TYPE_CHECKING:
    from pathlib import Path

SCHEMA_VERSION = 1
"""Of run.json, points.parquet and checkpoints; raised when an old reader would misread a new file."""

M = TypeVar("M", bound=BaseModel)
Status = Literal["running", "done", "interrupted", "diverged", "failed"]
Name = Annotated[str, Field(pattern=f"^{NAME_PATTERN}$")]
Rewards = Annotated[str, Field(pattern=r"^[A-Za-z0-9._,:+ -]{1,500}$")]
"""A reward, or several with weights: `hps:0.8,clip:0.2`. Plots are stored under it, so it names no other folder."""


class RunRecord(BaseModel):
    """The content of run.json."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    run: Name
    """The run's id, also its folder's name."""
    status: Status = "running"
    reason: str = ""
    """Why it ended as it did, one sentence; empty for `done` and `running`."""
    method: Name
    recipe: Name | None = None
    reward: Rewards
    workload: Name
    seed: int
    protocol: Literal["controlled", "paper"] = "controlled"
    tier: Literal["analytic", "tiny", "geometry", "real"]
    timed: bool = True
    """False when the run shared its device or cores; no plot over seconds uses it."""
    gold_is_proxy: bool = False
    """True when the run trained on the judge of truth itself; no proxy-gold gap is drawn."""
    rules_version: int
    numerics_version: int
    schema_version: int = SCHEMA_VERSION
    command: tuple[str, ...] = ()
    """The command line that started it."""
    device: str
    versions: dict[str, JsonValue] = {}
    """What `metering.environment.environment()` said at the start."""
    hashes: dict[str, str] = {}
    """sha256 by name: method source, workload, prompt sets, base weights, reward weights."""
    started: datetime | None = None
    finished: datetime | None = None


def read_record(path: Path) -> RunRecord:
    """Read a run.json.

    Raises:
        UserError: when it is missing, damaged, or written by a newer version.
    """
    try:
        text = path.read_text(encoding="utf-8")
    except FileNotFoundError as error:
        raise UserError(
            f"{path.parent} is not a whole run, it has no {path.name}: give a run's name or its folder."
        ) from error
    except (OSError, UnicodeDecodeError) as error:
        raise UserError(f"Could not read {path}: {clean_text(str(error))}.") from error
    return parse_record(text, path)


def parse_record(text: str, path: Path) -> RunRecord:
    """A run.json's text; `path` is only what an error calls it.

    Raises:
        UserError: when it is damaged, or written by a newer version.
    """
    try:
        return parse_model(RunRecord, text, path)
    except ValueError as error:
        detail = clean_text(str(error), 120)
    raise UserError(f"{path} is damaged ({detail}): start the run anew with --again.")


def parse_model(kind: type[M], text: str, path: Path) -> M:
    """The JSON of a stored model that has a schema version; `path` is only what an error calls it.

    Raises:
        ValueError: damaged: the first thing that is wrong, and where.
        UserError: it has no schema version, or a newer one.
    """
    raw = parse_json(text)
    check_schema(raw.get("schema_version") if isinstance(raw, dict) else None, path)
    try:
        return kind.model_validate_json(text)
    except ValidationError as error:
        first = error.errors(include_url=False)[0]
        raise ValueError(f"{'.'.join(map(str, first['loc']))}: {first['msg']}") from error


def check_schema(version: object, path: Path) -> None:
    """Refuse, with a UserError, a file that a newer grpo-bench wrote or that none did."""
    if isinstance(version, bool) or not isinstance(version, int) or version < 1:
        raise UserError(f"{path} carries no schema version, so grpo-bench did not write it.")
    if version > SCHEMA_VERSION:
        raise UserError(
            f"{path} was written by a newer grpo-bench (schema {version}, this one reads up to {SCHEMA_VERSION}): "
            "upgrade grpo-bench."
        )
