"""A results folder as one zip: what is in it, that it verifies, and that any change is found."""

from __future__ import annotations

import hashlib
import json
import zipfile
from collections.abc import Callable
from pathlib import Path

import pytest
from repacked import POINTS, Files, packed, repacked, small_bundle, table, unpacked, with_number
from studies import write_study

from grpo_bench.analysis.study import studies
from grpo_bench.analysis.summary import summarise, to_json
from grpo_bench.bundles.layout import MANIFEST
from grpo_bench.bundles.verify import Verified, verify_bundle
from grpo_bench.bundles.write import write_bundle
from grpo_bench.cli import app
from grpo_bench.errors import UserError
from grpo_bench.store.run import RunStore


@pytest.fixture(scope="module")
def bundle(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return small_bundle(tmp_path_factory.mktemp("bundle"))


def kinds(found: Verified) -> dict[str, list[str]]:
    """The places of problems by kind."""
    return {
        kind: [one.where for one in found.problems if one.kind == kind] for kind in {p.kind for p in found.problems}
    }


def test_bundle_holds_what_was_stored_and_the_figures_of_every_view(bundle: Path) -> None:
    files = unpacked(bundle)
    manifest = json.loads(files[MANIFEST])
    folder = bundle.parent / "small"
    (study,) = studies(folder)
    (view,) = study.views

    assert sorted(files) == sorted(
        [MANIFEST, "small/study.suite.json"]
        + [
            f"small/study-{label}-s{seed}/{name}"
            for label in ("flat", "tree")
            for seed in (0, 1)
            for name in ("config.toml", "run.json", "points.parquet")
        ]
    )
    assert files[POINTS] == (folder / "study-tree-s0" / "points.parquet").read_bytes()
    assert manifest["entries"][POINTS] == {
        "sha256": hashlib.sha256(files[POINTS]).hexdigest(),
        "size": len(files[POINTS]),
    }
    assert manifest["views"] == {f"small/study/{view.name}": json.loads(json.dumps(to_json(summarise(view))))}
    assert manifest["runs"]["small/study-tree-s0"]["points"] == 5
    # nfe of its five points: 0, 16000, ..., 64000
    assert manifest["runs"]["small/study-tree-s0"]["means"]["nfe"] == 32_000


def test_untouched_bundle_is_intact(bundle: Path) -> None:
    found = verify_bundle(bundle)

    assert found.problems == ()
    assert (found.runs, found.points, found.views) == (4, 20, 1)
    assert found.sha256 == hashlib.sha256(bundle.read_bytes()).hexdigest()
    assert found.figures > 100


def test_the_same_runs_give_the_same_bytes(bundle: Path, tmp_path: Path) -> None:
    again = tmp_path / "again.zip"

    write_bundle(bundle.parent / "small", again, "none")

    assert again.read_bytes() == bundle.read_bytes()
    with zipfile.ZipFile(again) as archive:
        assert archive.namelist() == sorted(archive.namelist())
        assert {info.date_time for info in archive.infolist()} == {(1980, 1, 1, 0, 0, 0)}


@pytest.mark.parametrize(
    ("row", "column"), [(0, "gold"), (2, "gold"), (4, "gold"), (1, "seconds"), (3, "base_distance")]
)
def test_a_tampered_row_is_found_by_its_hash_and_by_the_figures(bundle: Path, row: int, column: str) -> None:
    def tamper(files: Files) -> None:
        files[POINTS] = with_number(files[POINTS], row, column, 0.87654321)

    unfixed, fixed = verify_bundle(repacked(bundle, tamper)), verify_bundle(repacked(bundle, tamper, hashes=True))

    assert kinds(unfixed)["changed"] == [POINTS]
    assert "changed" not in kinds(fixed)
    for found in (unfixed, fixed):
        assert f"runs.small/study-tree-s0.means.{column}" in kinds(found)["figure"]


def test_a_row_that_is_left_out_or_added_is_found_though_its_hash_is_right(bundle: Path) -> None:
    from grpo_bench.store.points import encode, parse_table

    def drop(files: Files) -> None:
        files[POINTS] = encode(parse_table(files[POINTS], Path(POINTS)).to_pylist()[:-1])

    found = verify_bundle(repacked(bundle, drop, hashes=True))

    assert "runs.small/study-tree-s0.points" in kinds(found)["figure"]
    assert any("views" in path for path in kinds(found)["figure"])


def test_a_figure_that_the_points_do_not_give_is_found(bundle: Path) -> None:
    def boast(files: Files) -> None:
        manifest = json.loads(files[MANIFEST])
        (view,) = manifest["views"].values()
        view["methods"][1]["gold"]["mean"] += 1e-6
        files[MANIFEST] = json.dumps(manifest).encode()

    found = verify_bundle(repacked(bundle, boast))

    assert [path.endswith(".methods[1].gold.mean") for path in kinds(found)["figure"]] == [True]


def test_a_figure_that_no_float_can_hold_differs_and_is_no_crash(bundle: Path) -> None:
    def boast(files: Files) -> None:
        manifest = json.loads(files[MANIFEST])
        (view,) = manifest["views"].values()
        view["methods"][1]["gold"]["n"] = 10**400
        files[MANIFEST] = json.dumps(manifest).encode()

    found = verify_bundle(repacked(bundle, boast))

    assert [path.endswith(".methods[1].gold.n") for path in kinds(found)["figure"]] == [True]


def test_another_label_in_the_suite_is_found_by_the_figures(bundle: Path) -> None:
    def rename(files: Files) -> None:
        name = "small/study.suite.json"
        files[name] = files[name].replace(b'"label": "tree"', b'"label": "flat"')
        assert b'"label": "tree"' not in files[name]

    found = verify_bundle(repacked(bundle, rename, hashes=True))

    assert kinds(found)["figure"]


def test_a_missing_entry_and_an_extra_one_are_found(bundle: Path) -> None:
    def drop(files: Files) -> None:
        del files["small/study-tree-s1/points.parquet"]

    def add(files: Files) -> None:
        files["small/study-tree-s1/scores.parquet"] = b"anything"

    assert kinds(verify_bundle(repacked(bundle, drop)))["missing"] == ["small/study-tree-s1/points.parquet"]
    assert kinds(verify_bundle(repacked(bundle, add)))["extra"] == ["small/study-tree-s1/scores.parquet"]


def test_a_whole_run_that_is_left_out_is_found_though_the_manifest_agrees(bundle: Path) -> None:
    def drop(files: Files) -> None:
        for name in [name for name in files if "study-tree-s1/" in name]:
            del files[name]

    found = verify_bundle(repacked(bundle, drop, hashes=True))

    assert "runs.small/study-tree-s1" in kinds(found)["figure"]


def test_points_that_lost_their_columns_are_in_no_figure_so_that_figures_differ(bundle: Path) -> None:
    found = verify_bundle(
        repacked(bundle, lambda files: files.update({POINTS: table({"iteration": [0, 1]})}), hashes=True)
    )

    assert kinds(found).keys() == {"figure", "impossible"}


@pytest.mark.parametrize(
    ("spoil", "said"),
    [
        (lambda files: files.update({POINTS: files[POINTS][:200]}), "damaged"),
        (lambda files: files.update({POINTS: b"PAR1" + b"\xff" * 60 + b"PAR1"}), "damaged"),
        (lambda files: files.update({POINTS: b""}), "damaged"),
        (lambda files: files.update({POINTS: table({"gold": ["high", "low"]})}), "holds no numbers"),
        (lambda files: files.update({POINTS: table({"seed": [1.0, 2.0]})}), "no points have"),
        (lambda files: files.update({POINTS: table({"gold": [0.1, 0.2]})}), "not every point has its iteration"),
        (lambda files: files.update({"small/study-tree-s0/run.json": b"[" * 100_000}), "nested too deeply"),
        (lambda files: files.update({"small/study-tree-s0/run.json": b"\xff\xfe"}), "no text"),
        (lambda files: files.update({"small/study.suite.json": b"{}"}), "no schema version"),
        (
            lambda files: files.update({"small/study-tree-s0/run.json": files["small/study-tree-s1/run.json"]}),
            "another run's",
        ),
        (lambda files: files.pop("small/study-tree-s0/config.toml"), "has no config.toml"),
    ],
)
def test_files_that_cannot_be_read_are_one_sentence(bundle: Path, spoil: Callable[[Files], None], said: str) -> None:
    found = verify_bundle(repacked(bundle, spoil, hashes=True))

    assert [one.kind for one in found.problems] == ["unreadable"]
    assert said in found.problems[0].said
    assert "\n" not in found.problems[0].said


def test_points_that_say_they_unpack_to_millions_of_rows_are_not_unpacked(bundle: Path) -> None:
    import numpy as np

    def inflate(files: Files) -> None:
        files[POINTS] = table({"gold": np.zeros(5_000_000)})
        assert len(files[POINTS]) < 100_000

    found = verify_bundle(repacked(bundle, inflate, hashes=True))

    assert "too large: 5,000,000 rows" in found.problems[0].said


def test_mixed_rules_versions_are_not_bundled(tmp_path: Path) -> None:
    gold = {"flat": lambda s, n: 0.5}
    write_study(tmp_path / "new", gold, range(1), name="new", suite=False)
    write_study(tmp_path / "new", gold, range(1), name="old", suite=False, rules_version=2)

    with pytest.raises(UserError, match="rules version"):
        write_bundle(tmp_path / "new", tmp_path / "x.zip")
    assert not (tmp_path / "x.zip").exists()


def test_folders_of_folders_and_unfinished_runs_are_bundled_and_damaged_ones_are_named(tmp_path: Path) -> None:
    gold = {"flat": lambda s, n: 0.5, "tree": lambda s, n: 0.6}
    status = {("tree", 1): ("diverged", "a NaN"), ("tree", 0): ("failed", "no memory")}
    write_study(tmp_path / "all" / "one", gold, range(2), name="one", status=status)
    write_study(tmp_path / "all" / "Two Three", gold, range(2), name="two")
    (tmp_path / "all" / "one" / "one-flat-s1" / "run.json").unlink()

    done = write_bundle(tmp_path / "all", tmp_path / "all.zip", "none")
    found = verify_bundle(tmp_path / "all.zip")

    assert (done.runs, found.runs, found.problems) == (7, 7, ())
    assert len(done.skipped) == 1
    assert "one-flat-s1" in done.skipped[0]
    assert {name.partition("/")[0] for name in unpacked(tmp_path / "all.zip")} == {MANIFEST, "one", "results"}


@pytest.mark.parametrize(("images", "runs"), [("median", 2), ("all", 6), ("none", 0)])
def test_images_are_of_the_median_seed_of_all_runs_or_of_none(tmp_path: Path, images: str, runs: int) -> None:
    # Final golds 0.5, 0.6, 0.7 by seed: the median is seed 1's
    gold = {"flat": lambda s, n: 0.5 + 0.1 * s, "tree": lambda s, n: 0.5 + 0.1 * s}
    write_study(tmp_path / "r", gold, range(3), images=True, every=32_000)

    done = write_bundle(tmp_path / "r", tmp_path / "r.zip", images)  # type: ignore[arg-type]

    sheets = [name for name in unpacked(tmp_path / "r.zip") if name.endswith(".png")]
    assert done.pictures == len(sheets) == 3 * runs
    assert len({name.split("/")[1] for name in sheets}) == runs
    assert images != "median" or {name.split("/")[1] for name in sheets} == {"study-flat-s1", "study-tree-s1"}
    assert verify_bundle(tmp_path / "r.zip").problems == ()


def test_held_out_scores_travel_with_their_run(tmp_path: Path) -> None:
    write_study(tmp_path / "r", {"flat": lambda s, n: 0.5}, range(1))
    (tmp_path / "r" / "study-flat-s0" / "scores.parquet").write_bytes(b"some scores")

    write_bundle(tmp_path / "r", tmp_path / "r.zip", "none")

    assert unpacked(tmp_path / "r.zip")["r/study-flat-s0/scores.parquet"] == b"some scores"


def test_a_newer_format_and_a_zip_without_manifest_are_refused(bundle: Path) -> None:
    def newer(files: Files) -> None:
        files[MANIFEST] = files[MANIFEST].replace(b'"format_version": 1', b'"format_version": 2')

    with pytest.raises(UserError, match="upgrade grpo-bench"):
        verify_bundle(repacked(bundle, newer))
    with pytest.raises(UserError, match=r"no MANIFEST\.json"):
        verify_bundle(repacked(bundle, lambda files: files.pop(MANIFEST)))
    with pytest.raises(UserError, match="is wrong"):
        verify_bundle(repacked(bundle, lambda files: files.update({MANIFEST: b"[" * 100_000})))


def test_commands_say_what_was_done_and_that_hashes_are_no_signature(
    bundle: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "x.zip"

    app(["bundle", str(bundle.parent / "small"), "-o", str(out), "--images", "none"], standalone_mode=False)
    written = capsys.readouterr().out
    app(["verify", str(out)], standalone_mode=False)
    verified = capsys.readouterr().out
    code = app(["verify", str(repacked(out, lambda files: files.pop(POINTS))), "--json"], standalone_mode=False)
    stored = json.loads(capsys.readouterr().out)

    digest = hashlib.sha256(out.read_bytes()).hexdigest()
    assert digest in written
    assert digest in verified
    assert "intact" in verified
    assert "not who wrote it" in verified
    assert code == 1
    assert stored["intact"] is False
    assert {"kind": "missing", "where": POINTS, "said": "is listed and not there"} in stored["problems"]


def test_hostile_text_of_a_bundle_cannot_steer_the_terminal(bundle: Path, capsys: pytest.CaptureFixture[str]) -> None:
    def spoil(files: Files) -> None:
        manifest = json.loads(files[MANIFEST])
        manifest["grpo_bench"] = "\x1b[31m[red]9.9[/red]"
        manifest["views"]["\x1b]0;owned\x07[bold]x"] = {}
        files[MANIFEST] = json.dumps(manifest).encode()

    app(["verify", str(repacked(bundle, spoil))], standalone_mode=False)
    shown = capsys.readouterr().out

    assert "\x1b" not in shown
    assert "\x07" not in shown
    assert "[red]9.9[/red]" in shown


def test_nothing_is_written_while_verifying(bundle: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    only = packed(unpacked(bundle), tmp_path / "b.zip")
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))

    verify_bundle(only)

    assert [path.name for path in tmp_path.iterdir()] == ["b.zip"]


def test_a_run_folder_with_another_name_is_bundled_under_its_id(tmp_path: Path) -> None:
    write_study(tmp_path / "r", {"flat": lambda s, n: 0.5}, range(1), suite=False)
    (tmp_path / "r" / "study-flat-s0").rename(tmp_path / "r" / "Renamed Run")

    write_bundle(tmp_path / "r", tmp_path / "r.zip", "none")

    assert "r/study-flat-s0/run.json" in unpacked(tmp_path / "r.zip")
    assert RunStore(tmp_path / "r" / "Renamed Run").record.run == "study-flat-s0"
    assert verify_bundle(tmp_path / "r.zip").problems == ()
