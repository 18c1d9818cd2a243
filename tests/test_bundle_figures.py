"""What `verify` compares and what it refuses to read: each check alone, with everything else as it should be."""

from __future__ import annotations

import io
import json
from collections.abc import Callable
from pathlib import Path

import pytest
from repacked import POINTS, Files, repacked, small_bundle, table, unpacked

from grpo_bench.bundles.content import content_of, differences
from grpo_bench.bundles.layout import MANIFEST, Limits
from grpo_bench.bundles.verify import Verified, verify_bundle
from grpo_bench.errors import UserError
from grpo_bench.store.points import VERSION_KEY, parse_table

Manifest = dict[str, object]


@pytest.fixture(scope="module")
def bundle(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return small_bundle(tmp_path_factory.mktemp("bundle"))


def restated(bundle: Path, change: Callable[[Manifest], None]) -> Verified:
    """The bundle with its manifest changed."""

    def rewrite(files: Files) -> None:
        manifest = json.loads(files[MANIFEST])
        change(manifest)
        files[MANIFEST] = json.dumps(manifest).encode()

    return verify_bundle(repacked(bundle, rewrite))


def view_of(manifest: Manifest) -> dict[str, object]:
    (view,) = manifest["views"].values()  # type: ignore[attr-defined]
    found: dict[str, object] = view
    return found


def test_a_wrong_size_beside_a_right_hash_is_a_change(bundle: Path) -> None:
    def shrink(manifest: Manifest) -> None:
        manifest["entries"][POINTS]["size"] -= 1  # type: ignore[index]

    (problem,) = restated(bundle, shrink).problems

    assert (problem.kind, problem.where) == ("changed", POINTS)


def test_a_wrong_hash_beside_a_right_size_is_a_change(bundle: Path) -> None:
    def forge(manifest: Manifest) -> None:
        manifest["entries"][POINTS]["sha256"] = "0" * 64  # type: ignore[index]

    (problem,) = restated(bundle, forge).problems

    assert (problem.kind, problem.where) == ("changed", POINTS)


def test_rules_versions_that_no_run_has_are_found(bundle: Path) -> None:
    (problem,) = restated(bundle, lambda manifest: manifest.update(rules_versions=[7])).problems

    assert (problem.kind, problem.where) == ("figure", "rules_versions[0]")


@pytest.mark.parametrize("version", [0, -1, 2])
def test_only_this_format_is_read(bundle: Path, version: int) -> None:
    with pytest.raises(UserError, match=f"a bundle of format {version}, and this program reads format 1"):
        restated(bundle, lambda manifest: manifest.update(format_version=version))


@pytest.mark.parametrize(("share", "found"), [(1e-7, True), (1e-8, True), (1e-12, False)])
def test_a_figure_may_differ_by_rounding_and_no_more(bundle: Path, share: float, found: bool) -> None:
    def boast(manifest: Manifest) -> None:
        manifest["runs"]["small/study-tree-s0"]["means"]["nfe"] *= 1 + share  # type: ignore[index]

    problems = restated(bundle, boast).problems

    assert [one.where for one in problems] == (["runs.small/study-tree-s0.means.nfe"] if found else [])


@pytest.mark.parametrize(
    ("stated", "computed", "where"),
    [
        ({"a": 1}, {"a": 1.0}, []),
        ({"a": 1}, {"a": True}, [".a"]),
        ({"a": False}, {"a": 0}, [".a"]),
        ({"a": None}, {"a": 0}, [".a"]),
        ({"a": 1e-4}, {"a": 0}, [".a"]),
        ({"a": "1"}, {"a": 1}, [".a"]),
        ({"a": [1, 2]}, {"a": [1, 2, 3]}, [".a"]),
        ({"a": [1, 2, 3]}, {"a": [1, 2]}, [".a"]),
        ({"a": [1, 5, 3]}, {"a": [1, 2, 3]}, [".a[1]"]),
        ({"a": 1, "b": 2}, {"a": 1}, [".b"]),
        ({"a": 1}, {"a": 1, "b": {"c": 2}}, [".b"]),
        ({"a": {"b": 1}}, {"a": [1]}, [".a"]),
    ],
)
def test_two_trees_differ_where_they_do(stated: object, computed: object, where: list[str]) -> None:
    assert differences(stated, computed) == where  # type: ignore[arg-type]


def test_every_number_is_counted_and_no_truth_value(bundle: Path) -> None:
    def numbers(tree: object) -> int:
        if isinstance(tree, dict | list):
            return sum(map(numbers, tree.values() if isinstance(tree, dict) else tree))
        return type(tree) in (int, float)

    manifest = json.loads(unpacked(bundle)[MANIFEST])

    assert view_of(manifest)["frozen"] is False
    assert verify_bundle(bundle).figures == numbers(manifest["runs"]) + numbers(manifest["views"])


def test_a_suite_under_another_suites_name_is_unreadable(bundle: Path) -> None:
    def rename(files: Files) -> None:
        files["small/other.suite.json"] = files.pop("small/study.suite.json")

    (problem,) = verify_bundle(repacked(bundle, rename, hashes=True)).problems

    assert (problem.kind, problem.said) == ("unreadable", "small/other.suite.json holds another suite (study)")


def test_all_runs_together_may_hold_so_many_numbers_and_no_more(bundle: Path) -> None:
    files = {name: data for name, data in unpacked(bundle).items() if name != MANIFEST}
    content = content_of(files)
    columns = {len(run.means) for run in content.runs.values()}
    assert len(content.runs) == 4 and len(columns) == 1
    each = 5 * columns.pop()

    assert content_of(files, Limits(numbers=4 * each)).runs == content.runs
    with pytest.raises(UserError, match=r"the runs up to small/study-tree-s1 have more than .* bundle fewer runs"):
        content_of(files, Limits(numbers=4 * each - 1))
    with pytest.raises(UserError, match=r"study-flat-s0/points\.parquet is too large"):
        content_of(files, Limits(numbers=each - 1))


def said_of(bundle: Path, points: bytes) -> str:
    """Why points are unreadable."""
    found = verify_bundle(repacked(bundle, lambda files: files.update({POINTS: points}), hashes=True))
    (problem,) = found.problems
    assert problem.kind == "unreadable"
    return problem.said


def test_points_of_thousands_of_columns_are_too_large(bundle: Path) -> None:
    assert "too large: 1 rows of 2,001 columns" in said_of(bundle, table({f"c{n}": [0.0] for n in range(2001)}))


def test_a_column_that_is_there_twice_is_refused(bundle: Path) -> None:
    import pyarrow as pa
    from pyarrow import parquet

    sink = io.BytesIO()
    twice = pa.table([pa.array([0.1]), pa.array([0.9])], names=["gold", "gold"])
    parquet.write_table(twice.replace_schema_metadata({VERSION_KEY: b"1"}), sink)

    assert "has a column twice: 'gold'" in said_of(bundle, sink.getvalue())


def test_a_mean_is_over_the_values_that_are_there(bundle: Path) -> None:
    """Given three golds of which one is no number, and a column of none, then one mean is of two and one is nothing."""
    files = {name: data for name, data in unpacked(bundle).items() if name != MANIFEST}
    nan, name = float("nan"), "small/study-tree-s0"
    columns = {"iteration": [0, 1, 2], "nfe": [0, 1, 2], "vendi": [1.0, nan, 3.0], "extra": [nan, nan, nan]}
    own = parse_table(files[POINTS], Path(POINTS)).slice(0, 3).to_pydict()
    files[POINTS] = table(own | columns)

    figures = content_of(files).runs[name]

    assert (figures.points, figures.means["vendi"], figures.means["extra"]) == (3, 2.0, None)


def test_metadata_for_pandas_hide_no_column(bundle: Path) -> None:
    """A hostile file may tell pandas to take gold for the index, and figures would be computed without it."""
    import pyarrow as pa
    from pyarrow import parquet

    def hide(files: Files) -> None:
        points: pa.Table = parquet.read_table(io.BytesIO(files[POINTS]))
        told = {"index_columns": ["gold"], "column_indexes": [], "columns": [], "pandas_version": "2.2.0"}
        sink = io.BytesIO()
        metadata = {VERSION_KEY: b"1", b"pandas": json.dumps(told).encode()}
        parquet.write_table(points.replace_schema_metadata(metadata), sink)
        files[POINTS] = sink.getvalue()

    assert verify_bundle(repacked(bundle, hide, hashes=True)).problems == ()


def test_a_file_that_says_it_has_fewer_rows_than_its_parts_is_not_unpacked(bundle: Path) -> None:
    """The number of rows stands in the file's footer twice: for all of it, first, and for its only part."""
    points = table({"gold": [0.0] * 200_000})
    rows, few = b"\x16\x80\xb5\x18", b"\x16\x8a\x80\x00"  # a Thrift field and 200,000, or 5, as three bytes
    footer = len(points) - 8 - int.from_bytes(points[-8:-4], "little")
    place = points.index(rows, footer)

    assert "not stored as one group of rows" in said_of(bundle, points[:place] + few + points[place + len(rows) :])
