"""Bundles changed by hand: entries replaced, removed or added, with the manifest's hashes corrected or not."""

from __future__ import annotations

import hashlib
import io
import json
import struct
import zipfile
from collections.abc import Callable, Mapping
from pathlib import Path

from studies import write_study

from grpo_bench.bundles.layout import MANIFEST
from grpo_bench.bundles.write import write_bundle
from grpo_bench.store.points import encode, parse_table

POINTS = "small/study-tree-s0/points.parquet"
Files = dict[str, bytes]


def small_bundle(folder: Path) -> Path:
    """Two methods, two seeds, five points each, without images."""
    write_study(
        folder / "small",
        {"flat": lambda s, n: 0.5 + 0.01 * s, "tree": lambda s, n: 0.5 + n / 640_000},
        range(2),
        every=16_000,
    )
    path = folder / "small.zip"
    write_bundle(folder / "small", path, "none")
    return path


def unpacked(path: Path) -> Files:
    with zipfile.ZipFile(path) as archive:
        return {name: archive.read(name) for name in archive.namelist()}


def packed(files: Mapping[str, bytes], path: Path) -> Path:
    """A zip of plain entries."""
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
        for name, data in files.items():
            archive.writestr(zipfile.ZipInfo(name), data, zipfile.ZIP_DEFLATED)
    return path


def crafted(path: Path, entries: list[tuple[str, bytes, int, int]]) -> Path:
    """A zip of (name, deflated data, size that is claimed, checksum), whether or not that is true."""
    body, listed = b"", b""
    for name, data, claimed, checksum in entries:
        shared = struct.pack("<5H3L2H", 20, 0, 8, 0, 33, checksum, len(data), claimed, len(name), 0)
        listed += b"PK\x01\x02" + struct.pack("<H", 20) + shared + struct.pack("<3H2L", 0, 0, 0, 0, len(body))
        listed += name.encode()
        body += b"PK\x03\x04" + shared + name.encode() + data
    count = len(entries)
    end = struct.pack("<4s4H2LH", b"PK\x05\x06", 0, 0, count, count, len(listed), len(body), 0)
    path.write_bytes(body + listed + end)
    return path


def repacked(path: Path, change: Callable[[Files], None], *, hashes: bool = False) -> Path:
    """The bundle with its entries changed; with `hashes`, the manifest lists what is then there."""
    files = unpacked(path)
    change(files)
    if hashes:
        manifest = json.loads(files[MANIFEST])
        manifest["entries"] = {
            name: {"sha256": hashlib.sha256(data).hexdigest(), "size": len(data)}
            for name, data in files.items()
            if name != MANIFEST
        }
        files[MANIFEST] = json.dumps(manifest).encode()
    return packed(files, path.with_name("changed.zip"))


def with_number(data: bytes, row: int, column: str, value: float) -> bytes:
    """Points with one number changed."""
    rows = parse_table(data, Path("points.parquet")).to_pylist()
    rows[row][column] = value
    return encode(rows)


def table(columns: Mapping[str, object]) -> bytes:
    """A parquet file of any columns, carrying this store's version."""
    import pyarrow as pa
    from pyarrow import parquet

    from grpo_bench.store.points import VERSION_KEY

    sink = io.BytesIO()
    parquet.write_table(pa.table(dict(columns)).replace_schema_metadata({VERSION_KEY: b"1"}), sink)
    return sink.getvalue()
