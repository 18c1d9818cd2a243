"""Check a bundle: its entries are those that its manifest lists, its figures those that its points give, and its points
such as a run can make.

That shows integrity, not authorship: whoever changes the points can write a manifest that fits them. Compare the
bundle's own sha256 with one that its author published, where that matters.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from pydantic import JsonValue, ValidationError

from grpo_bench.bundles.content import Content, content_of, differences
from grpo_bench.bundles.layout import FORMAT_VERSION, MANIFEST, EntryRecord, Limits, Manifest, RunFigures
from grpo_bench.bundles.read import Archive, read_archive
from grpo_bench.errors import UserError
from grpo_bench.store.names import clean_text

NOT_AUTHORSHIP = (
    "Hashes show that nothing was changed since the bundle was written, and not who wrote it: compare its sha256 with "
    "one that the author published."
)

Kind = Literal["missing", "extra", "changed", "unreadable", "figure", "impossible"]


@dataclass(frozen=True)
class Problem:
    """One thing that does not fit."""

    kind: Kind
    where: str
    """An entry's name, a figure's path, or a run."""
    said: str


@dataclass(frozen=True)
class Verified:
    """What was checked, and what does not fit."""

    path: Path
    sha256: str
    size: int
    written_by: str
    """Version of the program that wrote it."""
    entries: int
    runs: int
    points: int
    views: int
    figures: int
    """Numbers of the manifest that were computed again from the points."""
    unknown: tuple[str, ...]
    """Rewards whose scores could not be held against a range, since they are not installed here."""
    problems: tuple[Problem, ...]


def verify_bundle(path: Path, limits: Limits | None = None) -> Verified:
    """Check a bundle without unpacking it to the disk, and without believing anything in it.

    Raises:
        UserError: it is no bundle, it is damaged, or it holds what no bundle holds; nothing in it was then looked at.
    """
    archive = read_archive(path, limits)
    manifest = _manifest(archive, path)
    problems = _entry_problems(manifest.entries, {k: v for k, v in archive.entries.items() if k != MANIFEST})
    content, reason = _content(archive, limits)
    if content is None:
        problems.append(Problem("unreadable", "", reason))
    else:
        problems += _figure_problems(manifest, content)
        problems += [Problem("impossible", run, clean_text(said, 300)) for run, said in content.impossible]
    return Verified(
        path=path,
        sha256=archive.sha256,
        size=archive.size,
        written_by=manifest.grpo_bench,
        entries=len(archive.entries),
        runs=len(content.runs) if content else 0,
        points=sum(run.points for run in content.runs.values()) if content else 0,
        views=len(content.views) if content else 0,
        figures=_count(list(content.views.values())) + _count(_dumped(content.runs)) if content else 0,
        unknown=content.unknown if content else (),
        problems=tuple(problems),
    )


def _manifest(archive: Archive, path: Path) -> Manifest:
    data = archive.files.get(MANIFEST)
    if data is None:
        raise UserError(f"{path} is no bundle: it has no {MANIFEST}")
    try:
        manifest = Manifest.model_validate_json(data)
    except ValidationError as error:
        first = error.errors(include_url=False)[0]
        detail = clean_text(f"{'.'.join(map(str, first['loc']))}: {first['msg']}", 120)
        raise UserError(
            f"{path} is no bundle that this grpo-bench can read: its {MANIFEST} is wrong ({detail})"
        ) from error
    if manifest.format_version != FORMAT_VERSION:
        raise UserError(
            f"{path} is a bundle of format {manifest.format_version}, and this program reads format {FORMAT_VERSION}: "
            "upgrade grpo-bench"
        )
    return manifest


def _entry_problems(listed: dict[str, EntryRecord], there: dict[str, EntryRecord]) -> list[Problem]:
    absent = [Problem("missing", name, "is listed and not there") for name in sorted(listed.keys() - there.keys())]
    extra = [Problem("extra", name, "is there and not listed") for name in sorted(there.keys() - listed.keys())]
    changed = [
        Problem("changed", name, "is not what the manifest's sha256 says")
        for name in sorted(listed.keys() & there.keys())
        if listed[name] != there[name]
    ]
    return absent + extra + changed


def _content(archive: Archive, limits: Limits | None) -> tuple[Content | None, str]:
    """The figures that the bundle's files give; where they give none, the reason."""
    try:
        return content_of(archive.files, limits), ""
    except UserError as error:
        return None, str(error)
    except Exception as error:  # Whatever hostile points make the analysis do is a reason, not a crash
        return None, f"its points cannot be analysed ({type(error).__name__}: {clean_text(str(error), 120)})"


def _figure_problems(manifest: Manifest, content: Content) -> list[Problem]:
    stated: list[tuple[str, JsonValue, JsonValue]] = [
        ("runs", _dumped(manifest.runs), _dumped(content.runs)),
        ("views", dict(manifest.views), dict(content.views)),
        ("rules_versions", list(manifest.rules_versions), list(content.rules_versions)),
    ]
    return [
        Problem("figure", clean_text(path, 200), "is not what the points give")
        for name, said, computed in stated
        for path in differences(said, computed, name)
    ]


def _dumped(runs: dict[str, RunFigures]) -> dict[str, JsonValue]:
    return {name: figures.model_dump() for name, figures in runs.items()}


def _count(tree: JsonValue) -> int:
    """How many numbers a tree holds."""
    if isinstance(tree, dict):
        return sum(_count(inner) for inner in tree.values())
    if isinstance(tree, list):
        return sum(_count(inner) for inner in tree)
    return int(isinstance(tree, int | float) and not isinstance(tree, bool))
