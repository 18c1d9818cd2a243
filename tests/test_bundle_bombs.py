"""Small bundles that would take much memory or time, or hide a change: each is refused, or the change is found."""

from __future__ import annotations

import io
import json
import struct
from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest
from pyarrow import parquet
from repacked import POINTS, Files, packed, repacked, small_bundle, table, unpacked, with_number

from grpo_bench.bundles.layout import MANIFEST, Limits
from grpo_bench.bundles.read import read_archive
from grpo_bench.bundles.verify import Verified, verify_bundle
from grpo_bench.errors import UserError
from grpo_bench.store.points import VERSION_KEY, encode, parse_table

CONFIG, RECORD, SUITE = "small/study-tree-s0/config.toml", "small/study-tree-s0/run.json", "small/study.suite.json"


@pytest.fixture(scope="module")
def bundle(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return small_bundle(tmp_path_factory.mktemp("bundle"))


def verified(bundle: Path, **files: bytes) -> Verified:
    """The bundle with some of POINTS, CONFIG, SUITE replaced, and hashes that fit."""
    names = {"points": POINTS, "config": CONFIG, "suite": SUITE}
    return verify_bundle(
        repacked(bundle, lambda old: old.update({names[key]: data for key, data in files.items()}), hashes=True)
    )


def unreadable(bundle: Path, **files: bytes) -> str:
    (problem,) = verified(bundle, **files).problems
    assert problem.kind == "unreadable"
    assert "\n" not in problem.said
    return problem.said


def stored(rows: int, **options: object) -> bytes:
    sink = io.BytesIO()
    points = pa.table({"iteration": np.zeros(rows)}).replace_schema_metadata({VERSION_KEY: b"1"})
    parquet.write_table(points, sink, **options)
    return sink.getvalue()


@pytest.mark.parametrize("compression", ["zstd", "gzip", "brotli", "lz4"])
def test_points_packed_by_what_packs_gigabytes_into_kilobytes_are_not_unpacked(bundle: Path, compression: str) -> None:
    assert "not packed as grpo-bench packs tables" in unreadable(bundle, points=stored(1000, compression=compression))


def test_points_in_many_groups_of_rows_are_not_unpacked(bundle: Path) -> None:
    assert "one group of rows" in unreadable(bundle, points=stored(1000, row_group_size=10))


def varint(number: int) -> bytes:
    """A number from 64 to 8191 as it stands in a file's footer (Thrift's compact form: doubled, 7 bits a byte)."""
    return bytes([number * 2 & 127 | 128, number * 2 >> 7])


def test_columns_that_share_their_data_are_not_unpacked(bundle: Path) -> None:
    """Given two columns' entries in the footer which say that each has 3 times the bytes that the file has."""
    data = table({"iteration": np.arange(3.0), "gold": np.zeros(3)})
    size = parquet.ParquetFile(io.BytesIO(data)).metadata.row_group(0).column(0).total_compressed_size
    assert 64 <= size < 2000
    footer = len(data) - 8 - struct.unpack("<I", data[-8:-4])[0]
    changed = data[:footer] + data[footer:].replace(varint(size), varint(8000))
    assert changed != data

    assert "each column for itself" in unreadable(bundle, points=changed)


def test_a_config_of_one_very_long_key_is_not_parsed(bundle: Path) -> None:
    assert "more than 300 dots" in unreadable(bundle, config=b".".join([b"a"] * 100_000) + b" = 1")


def test_texts_are_limited_one_by_one_and_together(bundle: Path, tmp_path: Path) -> None:
    """Lists in lists take twenty times their text's bytes once they are parsed."""
    long = json.dumps({"versions": {"a": [[]] * 200_000}}).encode()
    with pytest.raises(UserError, match=r"run\.json' is too large"):
        read_archive(repacked(bundle, lambda files: files.update({RECORD: long})))

    files = unpacked(bundle)
    texts = [len(data) for name, data in files.items() if not name.endswith(".parquet")]
    assert len(read_archive(bundle, Limits(text=sum(texts))).files) == len(files)
    with pytest.raises(UserError, match="is too large"):
        read_archive(bundle, Limits(text=sum(texts) - 1))

    many = {f"r/r{number}/config.toml": b"#" * 400_000 for number in range(100)}
    with pytest.raises(UserError, match=r"config\.toml' is too large"):
        read_archive(packed(many, tmp_path / "x.zip"))


def test_a_run_counts_once_for_each_suite_that_it_is_in(bundle: Path) -> None:
    def add(files: Files) -> None:
        suite = json.loads(files[SUITE])
        for number in range(2000):
            files[f"small/s{number}.suite.json"] = json.dumps({**suite, "suite": f"s{number}"}).encode()

    found = verify_bundle(repacked(bundle, add, hashes=True), Limits(numbers=1_000_000))

    assert "counted once a suite" in found.problems[-1].said


@pytest.mark.parametrize("stated", [13, 15])
def test_an_end_that_counts_other_entries_than_are_listed_is_refused(bundle: Path, tmp_path: Path, stated: int) -> None:
    """Some programs unpack so many as are counted, and would not see what was verified."""
    data = bytearray(bundle.read_bytes())
    assert struct.unpack("<2H", data[-14:-10]) == (14, 14)
    data[-14:-10] = struct.pack("<2H", stated, stated)
    (tmp_path / "x.zip").write_bytes(data)

    with pytest.raises(UserError, match=f"lists 14 entries and says that it has {stated}"):
        verify_bundle(tmp_path / "x.zip")


@pytest.mark.parametrize(("place", "flag"), [(8, 0x20), (8, 0x2), (34, 1)], ids=["patched", "level", "disk"])
def test_an_entry_marked_as_no_bundle_marks_it_is_refused(bundle: Path, tmp_path: Path, place: int, flag: int) -> None:
    """Patched data, a level of packing, another disk: in the list of entries, and in the local header."""
    data = bytearray(bundle.read_bytes())
    data[data.index(b"PK\x01\x02") + place] |= flag
    if place == 8:
        data[6] |= flag
    (tmp_path / "x.zip").write_bytes(data)

    with pytest.raises(UserError, match="flags or extra fields"):
        verify_bundle(tmp_path / "x.zip")


def figures(found: Verified) -> set[str]:
    return {one.where.removeprefix("runs.small/study-tree-s0.") for one in found.problems if one.kind == "figure"}


def test_a_number_that_is_removed_is_found_though_the_mean_stays(bundle: Path) -> None:
    """Given a distance from the base that grows evenly, then the third of five is the mean of all."""
    points = unpacked(bundle)[POINTS]
    removed = with_number(points, 2, "base_distance", None)  # type: ignore[arg-type]

    assert {"values.base_distance"} <= figures(verified(bundle, points=removed))


def test_numbers_that_change_places_are_found_though_the_mean_stays(bundle: Path) -> None:
    rows = parse_table(unpacked(bundle)[POINTS], Path(POINTS)).to_pylist()
    rows[1]["base_distance"], rows[2]["base_distance"] = rows[2]["base_distance"], rows[1]["base_distance"]

    assert figures(verified(bundle, points=encode(rows))) == {"weighted.base_distance"}


def test_numbers_too_large_to_be_added_are_no_crash(bundle: Path) -> None:
    rows = parse_table(unpacked(bundle)[POINTS], Path(POINTS)).to_pylist()
    for row in rows:
        row["vendi"] = 1.7976931348623157e308

    assert {"means.vendi", "weighted.vendi"} <= figures(verified(bundle, points=encode(rows)))


def test_manifests_of_lists_in_lists_are_one_sentence(bundle: Path) -> None:
    def nest(files: Files) -> None:
        files[MANIFEST] = files[MANIFEST].replace(
            b'"views": {', b'"views": {"x": {"a": ' + b"[" * 9000 + b"]" * 9000 + b"},"
        )

    with pytest.raises(UserError, match="recursion limit"):
        verify_bundle(repacked(bundle, nest))
