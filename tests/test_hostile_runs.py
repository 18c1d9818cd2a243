"""A folder of runs that nobody vouches for: damaged or hostile files are one sentence each, and leave the folder."""

from __future__ import annotations

import io
import json
import struct
import zlib
from collections.abc import Callable
from pathlib import Path

import pytest
from PIL import Image
from repacked import table
from studies import write_study

from grpo_bench.analysis.study import studies
from grpo_bench.bundles.write import write_bundle
from grpo_bench.errors import UserError
from grpo_bench.store.images import load_images
from grpo_bench.store.reader import read_runs
from grpo_bench.store.run import POINTS, RunStore
from grpo_bench.store.suite import read_suites

NESTED = b"[" * 100_000
RUN = "study-tree-s0"


@pytest.fixture
def results(tmp_path: Path) -> Path:
    gold = {"flat": lambda s, n: 0.5, "tree": lambda s, n: 0.5 + n / 640_000}
    return write_study(tmp_path / "runs", gold, range(1), every=32_000, images=True)


def edited(path: Path, **values: object) -> None:
    path.write_text(json.dumps({**json.loads(path.read_text(encoding="utf-8")), **values}), encoding="utf-8")


@pytest.mark.parametrize(
    "points",
    [
        {"iteration": ["one", "two"], "gold": [0.1, 0.2]},
        {"iteration": [0, 1], "gold": [[0.1], [0.2]]},
        {"iteration": [0, 1], "run": [3.0, 4.0]},
        {"iteration": [0, 1], "seed": [3, 4]},
        {"iteration": [0, None], "gold": [0.1, 0.2]},
        {"iteration": [0.0, float("inf")], "gold": [0.1, 0.2]},
        {"gold": [0.1, 0.2]},
    ],
    ids=str,
)
def test_points_that_are_none_are_named_and_hide_no_other_run(results: Path, points: dict[str, object]) -> None:
    (results / RUN / POINTS).write_bytes(table(points))

    found = read_runs(results)

    assert [record.run for record in found.records] == ["study-flat-s0"]
    assert len(found.skipped) == 1
    assert f"{RUN}/points.parquet is damaged" in found.skipped[0]
    assert [view.labels for study in studies(results) for view in study.views] == [("flat",)]


def test_an_iteration_that_no_float_holds_is_no_crash(results: Path) -> None:
    (results / RUN / POINTS).write_bytes(table({"iteration": [0, 10**17 + 1]}))

    assert len(read_runs(results).records) == 2


def test_a_folder_where_a_file_should_be_is_one_sentence(results: Path) -> None:
    (results / RUN / POINTS).unlink()
    (results / RUN / POINTS).mkdir()
    (results / "study-flat-s0" / "scores.parquet").mkdir()

    found = read_runs(results)

    assert [record.run for record in found.records] == ["study-flat-s0"]
    assert len([said for said in found.skipped if "cannot be read" in said]) == 2


def test_a_record_nested_too_deeply_hides_no_other_run(results: Path) -> None:
    (results / RUN / "run.json").write_bytes(NESTED)

    found = read_runs(results)

    assert [record.run for record in found.records] == ["study-flat-s0"]
    assert "nested too deeply" in found.skipped[0]


def test_a_config_nested_too_deeply_hides_no_other_run(results: Path) -> None:
    (results / RUN / "config.toml").write_bytes(b"a = " + NESTED)

    (study,) = studies(results)

    assert [view.labels for view in study.views] == [("flat",)]
    assert any("config.toml cannot be read" in note for note in study.notes)


@pytest.mark.parametrize("reward", ["x/../../../escaped", "..\\x", "a\x1b[31m", "$\\frac{$", "", "x" * 501, "a\n"])
def test_a_reward_that_would_name_another_folder_is_refused(results: Path, reward: str) -> None:
    """Plots are stored under it, so a run from elsewhere could write anywhere."""
    edited(results / RUN / "run.json", reward=reward)

    with pytest.raises(UserError, match=r"run\.json is damaged \(reward") as caught:
        _ = RunStore(results / RUN).record
    assert "\x1b" not in str(caught.value)


def test_several_weighted_rewards_are_no_such_name(results: Path) -> None:
    edited(results / RUN / "run.json", reward="hps:0.8, clip:1e-3,image-reward_2:+2")

    assert RunStore(results / RUN).record.reward.startswith("hps")


@pytest.mark.parametrize(
    ("change", "where"),
    [
        ({"references": {"a/b": {"base": float("nan"), "best": 1.0}}}, "base"),
        ({"references": {"a/b": {"base": 0.0, "best": float("inf")}}}, "best"),
        ({"references": {"a/b": {"base": 0.0, "best": 1.0, "costs": {"nfe": 0.0}}}}, "costs"),
        ({"references": {"a/b": {"base": 0.0, "best": 1.0, "targets": {"25": float("nan")}}}}, "targets"),
        ({"budget": {"nfe": float("inf")}}, "budget"),
    ],
)
def test_a_suite_whose_numbers_are_none_is_refused(results: Path, change: dict[str, object], where: str) -> None:
    edited(results / "study.suite.json", **change)

    with pytest.raises(UserError, match=rf"study\.suite\.json is damaged, or no suite of grpo-bench \(.*{where}"):
        read_suites(results)


def test_a_suite_nested_too_deeply_is_refused(results: Path) -> None:
    (results / "study.suite.json").write_bytes(NESTED)

    with pytest.raises(UserError, match="nested too deeply"):
        read_suites(results)


def png(width: int, height: int, rows: bytes) -> bytes:
    """A PNG that says it is so large, whatever its pixels are."""

    def chunk(kind: bytes, data: bytes) -> bytes:
        return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))

    header = struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0)
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", zlib.compress(rows)) + chunk(b"IEND", b"")


def other_format() -> bytes:
    sink = io.BytesIO()
    Image.new("RGB", (64, 256)).save(sink, format="GIF")
    return sink.getvalue()


@pytest.mark.parametrize(
    ("file", "data"),
    [
        ("000.png", png(12_000, 12_000, b"")),  # a warning of Pillow's
        ("000.png", png(2**31 - 1, 2**31 - 1, b"")),  # an error of Pillow's
        ("000.png", png(64, 10_000, b"\0" * 193 * 10_000)),  # higher than the index says
        ("000.png", other_format()),
        ("index.json", NESTED),
        ("index.json", b"[]"),
        ("index.json", b'{"count": 16, "height": 32, "width": 32, "columns": 0, "rows": 8}'),
        ("index.json", b'{"count": Infinity, "height": 32, "width": 32, "columns": 2, "rows": 8}'),
    ],
    ids=["large", "larger", "high", "gif", "nested", "list", "no columns", "infinite"],
)
def test_images_that_are_none_or_too_large_are_one_sentence(results: Path, file: str, data: bytes) -> None:
    folder = results / RUN / "images" / "point-000000"
    assert load_images(folder).shape == (16, 32, 32, 3)
    (folder / file).write_bytes(data)

    with pytest.raises(UserError, match="missing or damaged"):
        load_images(folder)


@pytest.mark.parametrize(
    "spoil",
    [
        lambda images: (images / "prompts.json").unlink(),
        lambda images: (images / "prompts.json").write_bytes(NESTED),
        lambda images: (images / "point-000000" / "000.png").write_bytes(b""),
    ],
    ids=["no prompts", "nested prompts", "no pixels"],
)
def test_damaged_images_keep_no_points_out_of_a_bundle(
    results: Path, tmp_path: Path, spoil: Callable[[Path], object]
) -> None:
    spoil(results / RUN / "images")

    done = write_bundle(results, tmp_path / "x.zip")

    assert (done.runs, done.pictures) == (2, 3)
    assert len(done.skipped) == 1
    assert "damaged" in done.skipped[0]
