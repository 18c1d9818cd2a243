"""An executor by its name."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING

from grpo_bench.errors import UserError, nearest

if TYPE_CHECKING:
    from grpo_bench.executors.base import Executor

EXECUTORS = ("local", "ray", "slurm")


def make_executor(
    name: str,
    *,
    jobs: int = 1,
    address: str | None = None,
    gpus: float = 0,
    options: Mapping[str, str] | None = None,
) -> Executor:
    """The executor `name`.

    `jobs`: runs at once (local); `address`: of a Ray cluster, None starts one here; `gpus`: that each run
    reserves on a cluster; `options`: KEY=VALUE of Slurm (`SlurmExecutor`).

    Raises:
        UserError: an unknown name, or something given that belongs to another executor.
    """
    if name not in EXECUTORS:
        raise UserError(f"no executor is named {name!r}; {nearest(name, EXECUTORS)}")
    if jobs != 1 and name != "local":
        raise UserError(f"--jobs is for the local executor, not for {name}, which runs as many as it has room for")
    if gpus and name == "local":
        raise UserError("--gpus is for ray and slurm; a local run takes the machine's GPU by itself")
    if address is not None and name != "ray":
        raise UserError(f"an address is for the ray executor, not for {name}")
    if options and name != "slurm":
        raise UserError(f"options are for the slurm executor, not for {name}: {next(iter(options))}")
    if name == "ray":
        from grpo_bench.executors.ray import RayExecutor

        return RayExecutor(address)
    if name == "slurm":
        from grpo_bench.executors.slurm import SlurmExecutor

        return SlurmExecutor(options or {})
    from grpo_bench.executors.local import LocalExecutor

    return LocalExecutor(jobs)
