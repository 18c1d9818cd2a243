"""One run under its display, from a config or from where it stopped."""

from __future__ import annotations

import os
import shlex
import sys
from pathlib import Path
from typing import TYPE_CHECKING

from grpo_bench.config import RunConfig
from grpo_bench.errors import UserError, nearest
from grpo_bench.executors.process import COMMAND
from grpo_bench.terminal.display import RunDisplay

if TYPE_CHECKING:
    from grpo_bench.training.run import Outcome


def carry_out(
    config: RunConfig | None,
    resume: str | None,
    results: Path,
    *,
    again: bool,
    timed: bool,
    log: str | None,
    quiet: bool,
) -> Outcome:
    """Run a config, or go on with the run named `resume`; what is heavy is loaded once something is on the screen.

    Raises:
        UserError: an unknown tracker, or whatever the run refuses.
    """
    if log not in (None, "tensorboard"):
        raise UserError(f"--log knows no tracker named {log!r}; {nearest(log, ['tensorboard'])}")
    with RunDisplay(quiet=quiet) as display:
        display.loading()
        from grpo_bench.store.run import RunStore
        from grpo_bench.training import run as runs
        from grpo_bench.training.tracking import with_tracker

        observer = with_tracker(display, log)
        if config is None:
            assert resume is not None
            return runs.resume(RunStore.open(resume, results), observer, timed=timed)
        command = shlex.split(os.environ.get(COMMAND, "")) or ["grpo-bench", *sys.argv[1:]]
        return runs.start(config, results, observer, again=again, timed=timed, command=command)
