"""One run's folder: written in steps that cannot be halved, read back exactly, owned by one process at a time."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from datetime import UTC, datetime
from pathlib import Path

import pytest
from pydantic import ValidationError

from grpo_bench.errors import UserError
from grpo_bench.store.record import SCHEMA_VERSION, RunRecord
from grpo_bench.store.run import RunStore

ROOT = Path(__file__).resolve().parents[1]
ENVIRONMENT = {**os.environ, "PYTHONPATH": os.pathsep.join([str(ROOT), os.environ.get("PYTHONPATH", "")])}
HOLDER = """
import sys, time
from pathlib import Path
from grpo_bench.store.run import RunStore
with RunStore(Path(sys.argv[1])).lock():
    print("held", flush=True)
    time.sleep(60)
"""


def record(run: str = "tree-1") -> RunRecord:
    return RunRecord(
        run=run,
        method="tree",
        reward="shapes",
        workload="shapes",
        seed=1,
        tier="tiny",
        rules_version=1,
        numerics_version=1,
        command=("grpo-bench", "run", "--method", "tree"),
        device="cpu",
        versions={"packages": {"torch": "2.13.0"}, "dirty": None},
        hashes={"weights": "ab"},
        started=datetime(2026, 1, 2, 3, 4, 5, 678, UTC),
    )


@pytest.fixture
def store(tmp_path: Path) -> RunStore:
    return RunStore.create(tmp_path, "tree-1", 'method = "tree"\n', record())


def row(iteration: int, **more: float | None) -> dict[str, int | float | None]:
    return {"iteration": iteration, "nfe": 9_007_199_254_740_993 + iteration, "seconds": iteration / 3, **more}


def write_model(folder: Path) -> None:
    (folder / "model.safetensors").write_bytes(b"weights")


def test_a_created_run_reads_back_what_was_written(store: RunStore, tmp_path: Path) -> None:
    found = RunStore.open("tree-1", tmp_path)
    assert found.record == record()
    assert found.config_toml() == 'method = "tree"\n'
    assert found.points().empty
    assert found.rows() == []
    assert sorted(os.listdir(tmp_path / "tree-1")) == ["config.toml", "run.json"]


def test_a_run_opens_by_its_path_from_anywhere(store: RunStore, tmp_path: Path) -> None:
    assert RunStore.open(tmp_path / "tree-1", tmp_path / "elsewhere").record == record()
    with pytest.raises(UserError, match="not a whole run"):
        RunStore.open(tmp_path, tmp_path / "elsewhere")


def test_a_run_opens_from_inside_its_folder(store: RunStore, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(store.folder)
    assert RunStore.open(".", Path("results")).folder == store.folder


def test_the_record_follows_the_run(store: RunStore) -> None:
    ended = store.record.model_copy(update={"status": "diverged", "reason": "a NaN in the reward."})
    store.save_record(ended)
    assert store.record == ended
    assert json.loads((store.folder / "run.json").read_text(encoding="utf-8"))["status"] == "diverged"


def test_a_second_run_of_the_same_id_does_not_touch_the_first(store: RunStore, tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"exists already .* --resume tree-1, or --again"):
        RunStore.create(tmp_path, "tree-1", "other", record())
    assert store.config_toml() == 'method = "tree"\n'


@pytest.mark.parametrize("name", ["../escape", "a/b", "", ".hidden", "a\n", "A"])
def test_a_hostile_id_creates_nothing(name: str, tmp_path: Path) -> None:
    with pytest.raises(UserError, match="not a valid name"):
        RunStore.create(tmp_path, name, "", record())
    with pytest.raises(ValidationError):
        record(name)
    assert os.listdir(tmp_path) == []


@pytest.mark.parametrize("name", ["tree-2", "", ".", "\x1b[31m", "a\0b", "x" * 5000])
def test_a_missing_run_is_one_sentence_with_the_nearest_id(name: str, store: RunStore, tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"There is no run .*tree-1") as error:
        RunStore.open(name, tmp_path)
    assert str(error.value).isprintable()


def test_half_deleted_folders_are_one_sentence(store: RunStore, tmp_path: Path) -> None:
    (store.folder / "config.toml").unlink()
    with pytest.raises(UserError, match=r"not a whole run, its config\.toml cannot be read"):
        store.config_toml()
    (store.folder / "run.json").unlink()
    with pytest.raises(UserError, match=r"not a whole run, it has no run\.json"):
        RunStore.open("tree-1", tmp_path)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", r"run\.json is damaged"),
        ("[]", r"carries no schema version"),
        ('{"schema_version": 1}', r"run\.json is damaged \(run: Field required\)"),
        ('{"schema_version": true}', r"carries no schema version"),
        (f'{{"schema_version": {SCHEMA_VERSION + 1}, "new": 1}}', r"newer grpo-bench .* upgrade grpo-bench"),
        ('{"schema_version": 1, "run": "a\\u001b[31m"}', r"run\.json is damaged"),
    ],
)
def test_a_damaged_or_newer_record_is_one_sentence(text: str, message: str, store: RunStore) -> None:
    (store.folder / "run.json").write_text(text, encoding="utf-8")
    with pytest.raises(UserError, match=message) as error:
        _ = store.record
    assert str(error.value).isprintable()


def test_points_keep_integers_and_floats_to_the_last_bit(store: RunStore) -> None:
    # given integers beyond a float's 53 bits, floats that are no short decimals, and a column that comes later
    rows = [row(0), row(5, proxy=0.1 + 0.2), row(9, proxy=float("inf"))]
    for one in rows:
        store.append_point(one)
    read = RunStore(store.folder).rows()
    assert [{k: v for k, v in one.items() if v is not None} for one in read] == rows
    assert all(type(one["nfe"]) is int for one in read)
    frame = store.points()
    assert list(frame.columns) == ["iteration", "nfe", "seconds", "proxy"]
    assert frame["nfe"].tolist() == [one["nfe"] for one in rows]


def test_points_go_forward_only(store: RunStore) -> None:
    store.append_point(row(3))
    with pytest.raises(ValueError, match="a point at iteration 3 after one at 3"):
        store.append_point(row(3))
    with pytest.raises(ValueError, match="whole number"):
        store.append_point({"iteration": float("nan")})
    assert store.rows() == [row(3)]


def test_points_after_a_resumed_iteration_are_dropped(store: RunStore) -> None:
    for iteration in (0, 4, 8):
        store.append_point(row(iteration))
    store.truncate_points(4)
    store.append_point(row(6))
    assert RunStore(store.folder).rows() == [row(0), row(4), row(6)]


@pytest.mark.parametrize("keep", [0, 4, 100, -1])
def test_a_truncated_points_file_is_one_sentence_that_says_what_to_do(keep: int, store: RunStore) -> None:
    store.append_point(row(0))
    path = store.folder / "points.parquet"
    path.write_bytes(path.read_bytes()[:keep])
    for read in (store.points, RunStore(store.folder).rows):
        with pytest.raises(UserError, match=r"points\.parquet is damaged .*--resume tree-1.*--again"):
            read()


def test_points_of_a_newer_schema_are_refused(store: RunStore) -> None:
    import pyarrow as pa
    from pyarrow import parquet

    table = pa.table({"iteration": [0]})
    parquet.write_table(table, store.folder / "points.parquet")
    with pytest.raises(UserError, match="carries no schema version"):
        store.points()
    newer = table.replace_schema_metadata({"grpo_bench.schema_version": str(SCHEMA_VERSION + 1)})
    parquet.write_table(newer, store.folder / "points.parquet")
    with pytest.raises(UserError, match="newer grpo-bench"):
        store.points()


def test_a_resume_rebuilds_damaged_points_from_the_checkpoint(store: RunStore) -> None:
    # given two points and a checkpoint, one more point, and then a disk that truncates the file
    store.append_point(row(0))
    store.append_point(row(4))
    store.save_checkpoint(4, write_model)
    store.append_point(row(8))
    path = store.folder / "points.parquet"
    path.write_bytes(path.read_bytes()[:50])
    # when the run resumes
    again = RunStore(store.folder)
    checkpoint = again.rewind()
    # then it is as it was at the checkpoint
    assert checkpoint is not None
    assert checkpoint.iteration == 4
    assert (checkpoint.path / "model.safetensors").read_bytes() == b"weights"
    assert RunStore(store.folder).rows() == [row(0), row(4)]


def test_a_resume_without_a_checkpoint_begins_at_the_beginning(store: RunStore) -> None:
    store.append_point(row(0))
    assert RunStore(store.folder).rewind() is None
    assert store.points().empty


def test_a_second_process_is_told_who_holds_the_folder(store: RunStore) -> None:
    # given a process that writes the run
    with subprocess.Popen(
        [sys.executable, "-c", HOLDER, str(store.folder)], env=ENVIRONMENT, stdout=subprocess.PIPE, text=True
    ) as holder:
        assert holder.stdout is not None
        assert holder.stdout.readline() == "held\n"
        # when this one wants to write or to discard it, then it is refused, and reading still works
        for attempt in (store.lock().__enter__, store.discard):
            with pytest.raises(UserError, match=f"being written by process {holder.pid} on "):
                attempt()
        assert store.record == record()
        # when the other is killed, then the lock is free at once, and its temporary files go
        holder.send_signal(signal.SIGTERM if sys.platform == "win32" else signal.SIGKILL)
    (store.folder / ".points.parquet.1-aa.tmp").write_bytes(b"half")
    with store.lock():
        assert sorted(os.listdir(store.folder)) == ["config.toml", "holder.json", "run.json", "run.lock"]


def test_the_lock_is_not_reentrant_within_a_process(store: RunStore) -> None:
    with store.lock(), pytest.raises(UserError, match=f"process {os.getpid()}"):
        store.lock().__enter__()
    with store.lock():
        pass


def test_a_discarded_run_is_gone_and_its_name_free(store: RunStore, tmp_path: Path) -> None:
    store.discard()
    assert os.listdir(tmp_path) == []
    RunStore.create(tmp_path, "tree-1", "", record())


def test_prompts_are_stored_unchanged_whatever_they_contain(store: RunStore) -> None:
    prompts = ["a red circle", "\x1b[31m\n\u202e [bold] \ud800", ""]
    store.save_prompts(prompts)
    assert store.load_prompts() == prompts
    (store.folder / "images" / "prompts.json").write_text("{}", encoding="utf-8")
    with pytest.raises(UserError, match="not a list"):
        store.load_prompts()


def test_the_store_imports_neither_torch_nor_pandas(tmp_path: Path) -> None:
    code = (
        "import sys, grpo_bench.store.reader; print({'torch', 'pandas', 'pyarrow', 'numpy', 'PIL'} & set(sys.modules))"
    )
    command = [sys.executable, "-c", code]
    assert subprocess.run(command, env=ENVIRONMENT, capture_output=True, text=True, check=True).stdout == "set()\n"
