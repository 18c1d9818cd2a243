"""The command itself: real processes, stopped politely by Ctrl-C, and gone on with."""

from __future__ import annotations

import json
import signal
from pathlib import Path

import pytest
from running import cli, signalled
from small_suite import small_suite

from grpo_bench.store.run import RunStore, run_names

SUITE = small_suite("stopped", nfe=60000, contrasts="[]", settings="settings.evaluation.every = 6000")


@pytest.mark.slow
@pytest.mark.timeout(240)
def test_ctrl_c_lets_the_running_run_save_and_the_same_command_goes_on(tmp_path: Path) -> None:
    """Given a sweep of two cells, when Ctrl-C comes amid the first, then it saves, the second never starts, exit 1."""
    suite, results = tmp_path / "suite.toml", tmp_path / "results"
    suite.write_text(SUITE, encoding="utf-8")
    args = ["sweep", str(suite), "--results", str(results)]

    def amid() -> bool:
        names = run_names(results)
        return bool(names) and len(RunStore(results / names[0]).rows()) >= 2

    code, _, err = signalled(args, signal.SIGINT, amid, tmp_path)
    assert code == 1, err
    assert "stopping: the running ones save and end" in err
    (only,) = run_names(results)
    assert RunStore(results / only).record.status == "interrupted"
    assert RunStore(results / only).record.timed

    dry = cli(*args, "--dry-run", "--json", cwd=tmp_path)
    assert [cell["status"] for cell in json.loads(dry.stdout)["cells"]] == ["interrupted", "missing"]

    done = cli(*args, "--json", cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    assert done.stderr == ""
    assert [cell["status"] for cell in json.loads(done.stdout)["cells"]] == ["done", "done"]
