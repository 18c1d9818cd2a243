"""Points that no run can have stored are found, whatever hashes and figures say of them; what runs do store is not."""

from __future__ import annotations

import os
import socket
from collections.abc import Callable
from pathlib import Path

import pytest
from repacked import Files, repacked, small_bundle
from running import ROOT, cli_here, sentence
from studies import Row, Spend, write_study

from grpo_bench.bundles.verify import verify_bundle
from grpo_bench.bundles.write import write_bundle
from grpo_bench.store.points import encode, read_rows

REFERENCE = ROOT / "results" / "archive"
RUN = "study-tree-s0"
Change = Callable[[list[Row]], list[Row] | None]


@pytest.fixture
def results(tmp_path: Path) -> Path:
    """One run of 64 iterations of 1000 nfe, evaluated at every sixteenth."""
    return write_study(tmp_path / "forged", {"tree": lambda s, n: 0.5 + n / 640_000}, range(1), every=16_000)


def found_in(results: Path, change: Change) -> list[str]:
    """What `verify` says of the run once its points were changed and bundled anew, so that all hashes are right."""
    path = results / RUN / "points.parquet"
    rows: list[Row] = [dict(row) for row in read_rows(path)]
    path.write_bytes(encode(change(rows) or rows))
    bundle = results.parent / "forged.zip"
    said = write_bundle(results, bundle, "none").impossible
    problems = verify_bundle(bundle).problems
    assert {one.kind for one in problems} <= {"impossible"}
    assert {one.where for one in problems} <= {f"forged/{RUN}"}
    assert len(said) == len(problems)
    return [one.said for one in problems]


def put(at: int | slice, **values: float | None) -> Change:
    """Set columns of one point, or of several."""

    def change(rows: list[Row]) -> None:
        for row in rows[at] if isinstance(at, slice) else [rows[at]]:
            row.update({name.replace("_per_", "/"): value for name, value in values.items()})

    return change


def add(at: int | slice, amount: float, *columns: str) -> Change:
    """Raise columns of one point, or of several."""

    def change(rows: list[Row]) -> None:
        for row in rows[at] if isinstance(at, slice) else [rows[at]]:
            row.update({name: (row[name] or 0) + amount for name in columns})

    return change


def test_an_untouched_run_is_possible(results: Path) -> None:
    assert found_in(results, lambda rows: None) == []


@pytest.mark.parametrize(
    ("change", "said"),
    [
        (put(slice(None), nfe=1), ["its nfe is 1, not 0", "nfe is 1, and rollout 0"]),
        (put(2, nfe=31_999), ["nfe is 31,999", "make 32,000"]),
        (add(3, 10, "train_nfe"), ["3 x train 9,610"]),
        (add(3, 10, "reference_nfe"), ["reference 10"]),
        (put(2, reward_calls=0), ["reward_calls falls from 512 to 0"]),
        (put(2, updates=0), ["updates falls from 32 to 0"]),
        (put(3, eval_seconds=0.5), ["eval_seconds falls"]),
        (put(4, peak_memory_bytes=-1), ["peak_memory_bytes is -1, below 0"]),
        (put(2, images=1024.5), ["images is 1024.5, not whole"]),
        (put(1, trained_edges=None), ["trained_edges is no number"]),
        (put(0, iteration=0, updates=1), ["its updates is 1, not 0"]),
        (put(slice(1, None), seconds=100.0), ["seconds are 100, and its phases make 32"]),
        (put(2, train_seconds=25.5), ["seconds are 64, and its phases make 63.9"]),
        (put(2, decodes=1000), ["1,024 images were made of 1,000 decodes"]),
        (put(slice(3, None), reward_calls=3000), ["1 rewards scored 1,536 images by 3,000 calls"]),
        (put(slice(1, None), updates=200), ["200 updates are more than 2 an iteration"]),
        (put(2, images=1028, decodes=1028, reward_calls=1028), ["1,028 images are none of 16 prompts"]),
        (put(3, iteration=32), ["the point before has iteration 32"]),
        (put(1, proxy=0.9), ["proxy is 0.9, and shapes-pref is 0.625"]),
        (put(1, reward_per_shapes=0.9), ["gold is 0.525, and shapes is 0.9"]),
        (put(4, gold=0.9), ["gold is 0.9, and shapes is 0.6"]),
        (add(slice(None), 5, "gold"), ["gold is 5.5, and shapes is 0.5", "4 more points"]),
        (add(slice(None), 5, "gold", "reward/shapes"), ["reward/shapes is 5.5, outside", "range of 0 to 1"]),
        (add(2, -3, "proxy", "reward/shapes-pref"), ["reward/shapes-pref is -2.35, outside"]),
        (lambda rows: [*rows[:2], *rows[3:]], ["nfe 48,000 is not the first past the mark of 32,000"]),
        (lambda rows: rows[:-1], ["a budget of 64,000 nfe, and its last point has spent 48,000"]),
    ],
)  # fmt: skip
def test_what_cannot_be_is_found_with_its_numbers(results: Path, change: Change, said: list[str]) -> None:
    found = found_in(results, change)

    for words in said:
        assert any(words in one for one in found), found


def test_a_point_between_two_marks_is_off_the_grid(results: Path) -> None:
    def between(rows: list[Row]) -> list[Row]:
        half = {name: (rows[1][name] + rows[2][name]) // 2 if isinstance(rows[1][name], int) else  # type: ignore[operator]
                (rows[1][name] + rows[2][name]) / 2 for name in rows[1]}  # type: ignore[operator]  # fmt: skip
        return [*rows[:2], half, *rows[2:]]

    assert any("nfe 24,000 is past no mark of the grid of 16,000" in one for one in found_in(results, between))


@pytest.mark.parametrize("label", ["mix", "branch"])
def test_what_honest_runs_do_is_possible(tmp_path: Path, label: str) -> None:
    """Several rewards, reference evaluations, iterations that cost more than a mark, a run that stopped, a base."""
    folder = write_study(
        tmp_path / "r",
        {"flat": lambda s, n: 0.5, label: lambda s, n: 0.4},
        range(2),
        spend={label: Spend(rollout_nfe=9000, reference_nfe=300, updates=0, reward_calls=64)},
        reward="shapes-pref:0.5,clip:0.25",
        status={(label, 1): ("diverged", "a NaN")},
        bases=(0.5, 0.5),
    )
    for path in folder.glob("*/points.parquet"):
        rows = [row | {"reward_calls": 2 * (row["images"] or 0)} for row in read_rows(path)]
        path.write_bytes(encode(rows))

    write_bundle(folder, tmp_path / "x.zip", "none")

    assert [one.said for one in verify_bundle(tmp_path / "x.zip").problems] == []


def test_a_reward_that_is_not_installed_has_no_range_and_that_is_said(tmp_path: Path) -> None:
    folder = write_study(tmp_path / "r", {"flat": lambda s, n: 0.5}, range(1), reward="mine", proxy=lambda s, n: 99.0)
    write_bundle(folder, tmp_path / "x.zip", "none")

    done = cli_here("verify", str(tmp_path / "x.zip"))

    assert "intact" in done.stdout
    assert "not installed here, so that any score passes: mine" in done.stdout


def test_bundle_packs_such_points_and_says_what_verify_will(results: Path) -> None:
    path = results / RUN / "points.parquet"
    path.write_bytes(encode([row | {"nfe": 1} for row in read_rows(path)]))

    packed = cli_here("bundle", str(results), "-o", str(results / "x.zip"))
    checked = cli_here("verify", str(results / "x.zip"))

    assert packed.returncode == 0
    assert "nfe is 1," in packed.stdout
    assert "verify will not call it intact" in packed.stdout
    assert checked.returncode == 1
    assert "impossible" in checked.stdout
    assert RUN in checked.stdout


@pytest.mark.slow
@pytest.mark.parametrize("folder", sorted(path.name for path in REFERENCE.iterdir() if path.is_dir()))
def test_the_reference_results_are_possible(tmp_path: Path, folder: str) -> None:
    write_bundle(REFERENCE / folder, tmp_path / "x.zip", "none")

    found = verify_bundle(tmp_path / "x.zip")

    assert found.problems == ()
    assert found.unknown == ()


def special(kind: str, folder: Path) -> str:
    """A path that is there and is no file."""
    path = folder / kind
    if kind == "pipe":
        os.mkfifo(path)
    elif kind == "socket":
        with socket.socket(socket.AF_UNIX) as one:
            one.bind(str(path))
    elif kind == "folder":
        path.mkdir()
    else:
        return {"device": "/dev/zero", "terminal": "/dev/tty", "process": "/proc/self/mem", "log": "/proc/kmsg"}[kind]
    return str(path)


@pytest.mark.timeout(10)
@pytest.mark.parametrize("kind", ["pipe", "socket", "folder", "device", "process", "log"])
def test_what_is_no_file_is_refused_at_once(tmp_path: Path, kind: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)  # the name of a socket is short
    path = special(kind, Path())

    assert path in sentence(cli_here("verify", path))


def test_a_pipe_among_a_folders_files_hides_no_run(tmp_path: Path) -> None:
    small_bundle(tmp_path)
    os.mkfifo(tmp_path / "small" / "other.suite.json")

    done = cli_here("bundle", str(tmp_path / "small"), "-o", str(tmp_path / "x.zip"))

    assert done.returncode == 0
    assert "other.suite.json" in done.stdout


def test_an_entry_that_is_changed_is_still_found_by_its_hash(tmp_path: Path) -> None:
    def forge(files: Files) -> None:
        name = next(name for name in files if name.endswith("points.parquet"))
        files[name] = files[name][:-1] + b"x"

    assert "changed" in {one.kind for one in verify_bundle(repacked(small_bundle(tmp_path), forge)).problems}
