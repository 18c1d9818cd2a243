"""Check 8: a run that is stopped and resumed gives the points of the uninterrupted one, to the last bit."""

from __future__ import annotations

import json
import logging
import tempfile
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from grpo_bench.builtin import EXACT_WORKLOAD
from grpo_bench.conformance.finding import Finding
from grpo_bench.conformance.scenes import PROMPTS, Scene, play, rewards
from grpo_bench.conformance.subject import SEED, Subject
from grpo_bench.evaluation.evaluator import Evaluation
from grpo_bench.forest.rollout import Rollout
from grpo_bench.store.run import RunStore
from grpo_bench.training.loop import Progress
from grpo_bench.training.planning import plan_forest
from grpo_bench.training.run import start

ITERATIONS, STOP = 3, 2


def check_resume(subject: Subject) -> Iterator[Finding]:
    """The state by itself, then whole runs."""
    fault = _state_fault(subject)
    done = "credit after two iterations and a state that went through JSON"
    yield Finding("state", not fault, fault or done)
    yield _run_twice(subject)


def _state_fault(subject: Subject) -> str:
    """What is lost when a fresh instance takes over another's state through JSON; empty if nothing."""
    whole = play(subject, Scene())
    before = subject.method()
    for turn, iteration in enumerate((0, 1, 57)):
        forest = plan_forest(before, SEED, iteration, subject.schedule)
        logp_NP = np.where(forest.trained_N, -1.0, 0.0)[:, None] * np.ones((1, len(PROMPTS)))
        credit = before.credit(Rollout(forest, {"r": rewards(turn, forest)}, logp_NP, prompts=PROMPTS))
        if not forest.same_as(whole[turn].forest) or not np.array_equal(
            credit.advantage_NP, whole[turn].credit.advantage_NP
        ):
            if turn == 0:
                return "credit: the same rewards got other advantages the second time; credit must not draw or remember"
            return (
                f"state_dict: after a resume in front of iteration {iteration} the forest or the advantages are others "
                "than without it; put all that the method remembers into state_dict and take it back in load_state_dict"
            )
        try:
            state = json.loads(json.dumps(before.state_dict()))
        except TypeError as error:
            return f"state_dict: it must be numbers, strings, lists and mappings that JSON can hold ({error})"
        before = subject.method()
        before.load_state_dict(state)
    return ""


@dataclass
class _Stopper:
    """An observer that asks to stop after some iterations."""

    stop_after: int | None
    iterations: int = 0

    def started(self, run: str, folder: Path) -> None:
        """Nothing to do."""

    def iteration(self, progress: Progress) -> None:
        """Count."""
        self.iterations += 1

    def evaluated(self, row: dict[str, float], evaluation: Evaluation) -> None:
        """Nothing to do."""

    def should_stop(self) -> bool:
        """Whether it has seen enough."""
        return self.stop_after is not None and self.iterations >= self.stop_after


def _run_twice(subject: Subject) -> Finding:
    logger = logging.getLogger("grpo_bench")
    propagate, logger.propagate = logger.propagate, False
    try:
        with tempfile.TemporaryDirectory(prefix="grpo-bench-check-") as folder:
            return _compare(subject, Path(folder))
    finally:
        logger.propagate = propagate


def _compare(subject: Subject, folder: Path) -> Finding:
    # Three prompts that all occur in every iteration, so that whatever is remembered of a prompt is used.
    file = folder / "prompts.jsonl"
    rows = [{"prompt": f"cloud {i}", "split": "train" if i < 3 else "heldout"} for i in range(5)]
    file.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    config = subject.config(
        EXACT_WORKLOAD,
        prompts=str(file),
        budget={"iterations": float(ITERATIONS)},
        training={"prompts": 3},
        evaluation={"every": 1, "prompts": 2, "images": 2, "steps": 4},
    )
    whole = start(config, folder / "whole", _Stopper(None)).store
    start(config, folder / "parts", _Stopper(STOP))
    parts = start(config, folder / "parts", _Stopper(None)).store
    left, right = _columns(whole), _columns(parts)
    differing = sorted(name for name in left.keys() | right.keys() if not _same(left.get(name), right.get(name)))
    points = len(next(iter(left.values())))
    if not differing:
        return Finding("resume", True, f"stopped after {STOP} of {ITERATIONS} iterations: {points} points, bit for bit")
    name = next((name for name in ("proxy", "gold") if name in differing), differing[0])
    values = [float(columns[name][-1]) if name in columns else float("nan") for columns in (left, right)]
    return Finding(
        "resume",
        False,
        f"a run stopped after {STOP} of {ITERATIONS} iterations and resumed ends with {name} {values[1]:.9g}, the "
        f"uninterrupted one with {values[0]:.9g}; what the method remembers belongs into state_dict, and what it draws "
        "must come from the rng of plan",
    )


def _columns(store: RunStore) -> dict[str, np.ndarray]:
    """The reproducible columns of the points: all but seconds and memory."""
    frame = store.points()
    names = [str(name) for name in frame]
    kept = [name for name in names if not name.endswith("seconds") and name != "peak_memory_bytes"]
    return {name: frame[name].to_numpy() for name in kept}


def _same(left: np.ndarray | None, right: np.ndarray | None) -> bool:
    return left is not None and right is not None and np.array_equal(left, right, equal_nan=True)
