"""Check 3 and 8 across processes: what a method plans and credits does not depend on the process that it runs in.

A child with another hash seed plays the same iterations, each by a fresh instance with the state that a checkpoint
would hold, and the last first: hash(), the order of a set, id(), and what a module remembers are then others.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Iterator, Mapping, Sequence

import numpy as np

from grpo_bench.conformance.finding import Finding
from grpo_bench.conformance.playback import Script, Take, played, table_of
from grpo_bench.conformance.subject import ITERATIONS, SEED, Subject
from grpo_bench.registry import METHODS

PROMPTS = 8
ALONE = range(2, 34)
"""Iterations of a fresh instance, with prompts of their own: two choices made at random do not agree in all."""
SEEDS = ("4711", "4712")
PATIENCE = 120.0
"""Seconds that the child may take; it takes one."""
RULES = {
    "plan": "a plan depends on iteration, rng and schedule",
    "weights": "weights depend on forest and schedule",
    "credit": "credit depends on its rollout and on what state_dict holds",
}


def check_process(subject: Subject) -> Iterator[Finding]:
    """The same digests here and there."""
    script, here = _played_here(subject)
    if script is None:
        yield Finding("process", None, "needs a state_dict that JSON can hold")
        return
    there = _played_there(script)
    if isinstance(there, str):
        yield Finding("process", False, f"in a process of its own the method fails: {there}")
        return
    for take, mine, other in zip(script.takes, here, there, strict=True):
        for part, digest in mine.items():
            if other.get(part) != digest:
                yield Finding("process", False, _sentence(part, take.iteration))
                return
    yield Finding("process", True, f"{len(here)} plans and credits again, with another hash seed")


def _sentence(part: str, iteration: int) -> str:
    return (
        f"{part}: of iteration {iteration} it is another one in another process (another PYTHONHASHSEED, other ids, "
        f"a checkpoint's state); {RULES[part]}, not on hash(), the order of a set, id(), the environment, or what a "
        "module or a class remembers"
    )


def _played_here(subject: Subject) -> tuple[Script | None, list[dict[str, str]]]:
    """The script for the child, and the digests that one instance gives which plays all of it."""
    method, rng = subject.method(), np.random.default_rng(SEED)
    told, takes = [], []
    for number, iteration in enumerate(ITERATIONS):
        try:
            state = json.loads(json.dumps(method.state_dict()))
        except TypeError:
            return None, []
        takes.append(_take(subject, iteration, "known", rng, state if number else None))
        told.append(played(method, _script(subject, ()), takes[-1], subject.schedule))
    script = _script(subject, takes + [_take(subject, iteration, f"new in {iteration}", rng) for iteration in ALONE])
    told += [played(subject.method(), script, take, subject.schedule) for take in script.takes[len(told) :]]
    return script, told


def _take(
    subject: Subject, iteration: int, of: str, rng: np.random.Generator, state: Mapping[str, object] | None = None
) -> Take:
    prompts = [f"a prompt of {number} words, {of}" for number in range(PROMPTS)]
    rewards = 10 * rng.standard_normal((subject.forest(iteration).images, PROMPTS))
    return Take(iteration, prompts, rewards.tolist(), state)


def _script(subject: Subject, takes: Sequence[Take]) -> Script:
    plugin, table = METHODS.brought_by(subject.name), table_of(subject.schedule)
    return Script(subject.name, plugin, dict(subject.settings), SEED, table, takes)


def _played_there(script: Script) -> list[dict[str, str]] | str:
    """The child's digests, or the last line of what it said instead."""
    seed = next(seed for seed in SEEDS if seed != os.environ.get("PYTHONHASHSEED"))
    given = json.dumps({**json.loads(script.to_json()), "path": sys.path})
    try:
        done = subprocess.run(
            [sys.executable, "-P", "-m", "grpo_bench.conformance.playback"],
            input=given,
            env={**os.environ, "PYTHONHASHSEED": seed},
            capture_output=True,
            text=True,
            timeout=PATIENCE,
            check=False,
        )
    except subprocess.TimeoutExpired:
        return f"it took more than {PATIENCE:g} s"
    if done.returncode:
        return (done.stderr.strip().splitlines() or [f"it ended with exit code {done.returncode}"])[-1][:300]
    told: list[dict[str, str]] = json.loads(done.stdout)
    return told
