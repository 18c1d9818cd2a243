"""What `bundle` takes, what it calls it, and what it refuses to write since nobody could read it."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest
from repacked import unpacked
from studies import write_study

from grpo_bench.bundles.layout import MANIFEST, Limits
from grpo_bench.bundles.verify import verify_bundle
from grpo_bench.bundles.write import _check_size, write_bundle
from grpo_bench.errors import UserError

GOLD = {"flat": lambda seed, nfe: 0.5}


def folders(path: Path) -> set[str]:
    return {name.partition("/")[0] for name in unpacked(path)} - {MANIFEST}


def test_folders_without_a_plain_name_are_numbered(tmp_path: Path) -> None:
    for name in ("Two Three", "Four Five", "plain"):
        write_study(tmp_path / "all" / name, GOLD, range(1), name=name.split()[0].lower())

    write_bundle(tmp_path / "all", tmp_path / "all.zip", "none")

    assert folders(tmp_path / "all.zip") == {"results", "results-2", "plain"}
    assert verify_bundle(tmp_path / "all.zip").problems == ()


def test_one_run_in_two_places_is_refused_by_name(tmp_path: Path) -> None:
    write_study(tmp_path / "r", GOLD, range(1))
    shutil.copytree(tmp_path / "r" / "study-flat-s0", tmp_path / "r" / "z-copy")

    with pytest.raises(UserError, match=r"study-flat-s0 and .*z-copy are one run twice"):
        write_bundle(tmp_path / "r", tmp_path / "r.zip", "none")
    assert not (tmp_path / "r.zip").exists()


def test_a_suite_in_a_file_of_another_name_is_left_out_and_named(tmp_path: Path) -> None:
    write_study(tmp_path / "r", GOLD, range(1))
    (own,) = (tmp_path / "r").glob("*.suite.json")
    own.rename(own.with_name("My Suite.suite.json"))

    bundled = write_bundle(tmp_path / "r", tmp_path / "r.zip", "none")

    assert ["My Suite.suite.json" in skipped for skipped in bundled.skipped] == [True]


def test_a_hidden_suite_is_left_where_it_is(tmp_path: Path) -> None:
    write_study(tmp_path / "r", GOLD, range(1))
    (tmp_path / "r" / ".half.suite.json").write_text("{", encoding="utf-8")

    write_bundle(tmp_path / "r", tmp_path / "r.zip", "none")

    assert [name for name in unpacked(tmp_path / "r.zip") if name.endswith(".suite.json")] == ["r/study.suite.json"]


def test_a_file_larger_than_is_read_is_not_written(tmp_path: Path) -> None:
    write_study(tmp_path / "r", GOLD, range(1))
    scores = tmp_path / "r" / "study-flat-s0" / "scores.parquet"
    scores.write_bytes(b"\0" * 16_000_000)
    write_bundle(tmp_path / "r", tmp_path / "r.zip", "none")
    assert verify_bundle(tmp_path / "r.zip").problems == ()

    scores.write_bytes(b"\0" * 16_000_001)
    with pytest.raises(UserError, match=r"scores\.parquet is too large for a bundle \(16,000,001 bytes\)"):
        write_bundle(tmp_path / "r", tmp_path / "r.zip", "none")


def test_more_entries_than_are_read_are_not_written() -> None:
    files = {f"r/run-{number}/config.toml": b"" for number in range(Limits().entries - 1)}
    _check_size(files)  # and the manifest makes as many as there may be

    with pytest.raises(UserError, match="this would have 10,001 and 0: bundle fewer runs"):
        _check_size(files | {"r/one-more/config.toml": b""})
