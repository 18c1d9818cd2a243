"""Write a results folder as one zip: points, configs, records, suites, a few images, and a manifest of all that.

The same runs give the same bytes: entries are sorted and carry no dates.
"""

from __future__ import annotations

import hashlib
import io
import tempfile
import zipfile
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from pydantic import BaseModel

from grpo_bench import __version__
from grpo_bench.analysis.panels import slim_images
from grpo_bench.analysis.study import result_folders
from grpo_bench.bundles.content import Content, content_of, read_run
from grpo_bench.bundles.layout import FORMAT_VERSION, MANIFEST, TEXTS, EntryRecord, Limits, Manifest, place_of
from grpo_bench.errors import UserError
from grpo_bench.store.atomic import output_file, write_bytes
from grpo_bench.store.names import NAME_PATTERN, clean_text
from grpo_bench.store.run import CONFIG, POINTS, PROMPT_SCORES, RECORD, SCORES, run_names
from grpo_bench.store.suite import SUFFIX, read_suite, suite_files

Images = Literal["median", "all", "none"]
"""Of which runs images are taken: the median seed's of each label, all, or none."""


@dataclass(frozen=True)
class Bundled:
    """What was written."""

    path: Path
    sha256: str
    size: int
    entries: int
    runs: int
    pictures: int
    skipped: tuple[str, ...]
    """One sentence for each folder that is no whole run, and for each run whose images are damaged."""
    impossible: tuple[str, ...]
    """What `verify` will say of runs that no run can have stored."""


def write_bundle(folder: Path, path: Path, images: Images = "median") -> Bundled:
    """Write the results of a folder, or of its sub-folders, to `path`, in one step.

    Raises:
        UserError: there are no runs, they may not be compared, or the disk refuses.
    """
    path = output_file(path)
    files: dict[str, bytes] = {}
    sources: dict[str, Path] = {}
    skipped: list[str] = []
    for place in result_folders(folder):
        name = _name(place, {key.partition("/")[0] for key in files})
        _take(place, name, files, sources, skipped)
    if not sources:
        raise UserError(f"{folder} has no whole run to bundle; {skipped[0] if skipped else 'make some first'}")
    content = content_of(files)
    for run in sources if images == "all" else _medians(content) if images == "median" else ():
        try:
            files |= _pictures(sources[run], run)
        except UserError as error:
            skipped.append(str(error))
    _check_size(files)
    manifest = Manifest(
        format_version=FORMAT_VERSION,
        grpo_bench=__version__,
        rules_versions=content.rules_versions,
        entries={name: _entry(data) for name, data in sorted(files.items())},
        runs=content.runs,
        views=content.views,
    )
    data = _zip({**files, MANIFEST: _json(manifest)})
    write_bytes(path, data, "the bundle")
    pictures = sum(name.endswith(".png") for name in files)
    digest = hashlib.sha256(data).hexdigest()
    odd = tuple(f"{sources.get(where, where)}: {said}" for where, said in content.impossible)
    return Bundled(path, digest, len(data), len(files) + 1, len(sources), pictures, tuple(skipped), odd)


def _take(place: Path, name: str, files: dict[str, bytes], sources: dict[str, Path], skipped: list[str]) -> None:
    """Adds one folder's suites and whole runs to `files`, and where each run lies to `sources`."""
    for suite in suite_files(place):
        try:
            if suite.name != f"{read_suite(suite).suite}{SUFFIX}":
                raise UserError(f"{suite} holds another suite than its name says")
            files[f"{name}/{suite.name}"] = _read(suite)
        except UserError as error:
            skipped.append(str(error))
    for run in run_names(place):
        paths = {file: place / run / file for file in (CONFIG, RECORD, POINTS, PROMPT_SCORES, SCORES)}
        own = {file: _read(where) for file, where in paths.items() if where.is_file()}
        try:
            record = read_run(own, str(place / run)).record
        except UserError as error:
            skipped.append(str(error))
            continue
        key = f"{name}/{record.run}"
        if key in sources:
            raise UserError(f"{sources[key]} and {place / run} are one run twice: move one of them away")
        sources[key] = place / run
        files |= {f"{key}/{file}": data for file, data in own.items()}


def _medians(content: Content) -> list[str]:
    """The median seed's run of each label, by `FOLDER/RUN`."""
    found = [
        f"{study.folder.name}/{view.median(label).record.run}"
        for study in content.studies
        for view in study.views
        for label in view.labels
    ]
    return sorted(set(found))


def _pictures(run_folder: Path, key: str) -> Mapping[str, bytes]:
    """A run's slim image sets as entries."""
    with tempfile.TemporaryDirectory(prefix="grpo-bench-") as temporary:
        target = Path(temporary, "run")
        slim_images(run_folder, target)
        kept = sorted(path for path in target.rglob("*") if path.is_file())
        return {f"{key}/{path.relative_to(target).as_posix()}": path.read_bytes() for path in kept}


def _check_size(files: Mapping[str, bytes]) -> None:
    """Refuses to write what `verify` would refuse to read."""
    limits = Limits()
    foreign = [name for name in files if place_of(name) is None]
    if foreign:
        raise UserError(f"{clean_text(foreign[0], 80)!r} cannot be in a bundle: rename its folder in a-z, 0-9, - and _")
    large = [name for name, data in files.items() if len(data) > limits.entry[_kind(name)]]
    if large:
        raise UserError(f"{large[0]} is too large for a bundle ({len(files[large[0]]):,} bytes)")
    total = sum(map(len, files.values()))
    text = sum(len(data) for name, data in files.items() if _kind(name) in TEXTS)
    if text > limits.text - limits.entry["manifest"]:
        raise UserError(
            f"the runs' records, configs and suites are too large for a bundle ({text:,} bytes): bundle fewer"
        )
    if len(files) >= limits.entries or total > limits.unpacked - limits.entry["manifest"]:
        raise UserError(
            f"a bundle takes {limits.entries:,} entries and {limits.unpacked:,} bytes, and this would have "
            f"{len(files) + 1:,} and {total:,}: bundle fewer runs, or give --images none"
        )


def _kind(name: str) -> str:
    place = place_of(name)
    return place.kind if place else ""


def _name(folder: Path, taken: Iterable[str]) -> str:
    """What the bundle calls a results folder: its own name where that is a plain one."""
    import re

    own = folder.resolve().name.lower()
    base = own if re.fullmatch(NAME_PATTERN, own) else "results"
    names = [base, *(f"{base[:60]}-{number}" for number in range(2, 1000))]
    return next(name for name in names if name not in set(taken))


def _entry(data: bytes) -> EntryRecord:
    return EntryRecord(sha256=hashlib.sha256(data).hexdigest(), size=len(data))


def _json(model: BaseModel) -> bytes:
    return model.model_dump_json(indent=1).encode()


def _zip(files: Mapping[str, bytes]) -> bytes:
    sink = io.BytesIO()
    with zipfile.ZipFile(sink, "w") as archive:
        for name, data in sorted(files.items()):
            info = zipfile.ZipInfo(name, date_time=(1980, 1, 1, 0, 0, 0))
            info.create_system, info.external_attr, info.compress_type = 3, 0o100644 << 16, zipfile.ZIP_DEFLATED
            archive.writestr(info, data, compresslevel=9)
    return sink.getvalue()


def _read(path: Path) -> bytes:
    try:
        return path.read_bytes()
    except OSError as error:
        raise UserError(f"{path} cannot be read ({clean_text(str(error), 100)})") from error
