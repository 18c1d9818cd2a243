"""The other side of the process check: plays iterations of a method in a process of its own, and tells their digests.

It is given everything as JSON on standard input, and answers with one line. It loads no torch unless the method does.
"""

from __future__ import annotations

import hashlib
import json
import os
import sys
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass

import numpy as np

from grpo_bench.config import validated
from grpo_bench.forest.forest import Forest
from grpo_bench.forest.rollout import Rollout
from grpo_bench.forest.schedule import Grid, Schedule
from grpo_bench.method import Method, MethodConfig
from grpo_bench.registry import METHODS, load_plugin
from grpo_bench.sampling.kernels import make_schedule
from grpo_bench.training.planning import plan_forest


@dataclass(frozen=True)
class Take:
    """One iteration to play: its prompts (P), their rewards (L, P), and the state before it, none for a fresh one."""

    iteration: int
    prompts: Sequence[str]
    rewards: Sequence[Sequence[float]]
    state: Mapping[str, object] | None = None


@dataclass(frozen=True)
class Script:
    """A method and the iterations to play, each by an instance of its own."""

    name: str
    plugin: str | None
    settings: Mapping[str, object]
    seed: int
    schedule: Mapping[str, object]
    takes: Sequence[Take]

    def to_json(self) -> str:
        """One line."""
        return json.dumps(asdict(self))


def played(method: Method[MethodConfig], script: Script, take: Take, schedule: Schedule) -> dict[str, str]:
    """Digests of an iteration's `plan`, `weights` and `credit`."""
    forest = plan_forest(method, script.seed, take.iteration, schedule)
    weight_N = method.weights(forest, schedule)
    logp_NP = np.where(forest.trained_N, -1.0, 0.0)[:, None] * np.ones((1, len(take.prompts)))
    credit = method.credit(Rollout(forest, {"r": np.array(take.rewards)}, logp_NP, prompts=tuple(take.prompts)))
    kept = [] if credit.keep_NP is None else [credit.keep_NP]
    return {
        "plan": _forest_digest(forest),
        "weights": _digest([] if weight_N is None else [weight_N]),
        "credit": _digest([credit.advantage_NP, credit.group_NP, *kept]),
    }


def schedule_of(script: Script) -> Schedule:
    """The script's schedule, bit for bit."""
    table = dict(script.schedule)
    alpha = table.pop("alpha")
    grid = Grid(np.array(table.pop("sigmas")), None if alpha is None else np.array(alpha))
    return make_schedule(grid, **table)  # type: ignore[arg-type]


def table_of(schedule: Schedule) -> dict[str, object]:
    """A schedule as JSON holds it: Python writes floats so that they are read back exactly."""
    alpha = schedule.grid.alpha
    points = {"sigmas": schedule.sigmas.tolist(), "alpha": None if alpha is None else alpha.tolist()}
    return {**points, "kernel": schedule.kernel, "noise": schedule.noise, "train_last": schedule.train_last}


def _forest_digest(forest: Forest) -> str:
    noise = None if forest.noise_T is None else forest.noise_T.tolist()
    said = f"{forest.sibling_noise} {noise}".encode()
    arrays = (forest.sigmas, forest.parent_N, forest.depth_N, forest.stochastic_N, forest.trained_N)
    return _digest([*arrays, np.frombuffer(said, np.uint8)])


def _digest(arrays: Sequence[np.ndarray]) -> str:
    return hashlib.sha256(b"".join(np.ascontiguousarray(array).tobytes() for array in arrays)).hexdigest()


def main() -> None:
    """Read a script, play its takes from the last to the first, and write their digests in the order of the script."""
    answers = os.fdopen(os.dup(1), "w")
    os.dup2(2, 1)  # what a plugin prints is no answer
    given = json.load(sys.stdin)
    takes = [Take(**take) for take in given.pop("takes")]
    sys.path[:] = given.pop("path")
    script = Script(**given, takes=takes)
    if script.plugin is not None:
        load_plugin(script.plugin)
    kind, schedule = METHODS.get(script.name), schedule_of(script)
    told = []
    for take in reversed(takes):
        method = kind(validated(kind.Config, script.settings, "method"))
        if take.state is not None:
            method.load_state_dict(take.state)
        told.append(played(method, script, take, schedule))
    answers.write(json.dumps(told[::-1]) + "\n")
    answers.close()


if __name__ == "__main__":
    main()
