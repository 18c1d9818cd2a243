"""Studies without training: real run folders whose curves are given in closed form, and the suite file beside them.

    write_study(folder, {"flat": lambda seed, nfe: 0.5 + nfe / 1e6, "tree": ...}, range(5), contrasts=("tree",))

makes `folder/NAME.suite.json` and one folder a run, as a sweep would leave them.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from itertools import product
from pathlib import Path

import numpy as np

from grpo_bench.config import RunConfig, parse_rewards
from grpo_bench.registry import WORKLOADS
from grpo_bench.store.points import encode
from grpo_bench.store.prompt_scores import encode as encode_prompt_scores
from grpo_bench.store.prompt_scores import with_scores
from grpo_bench.store.record import RunRecord, Status
from grpo_bench.store.run import POINTS, PROMPT_SCORES, RunStore, point_name
from grpo_bench.store.suite import CellRecord, ChoiceRecord, References, SuiteRecord, write_suite

Gold = Callable[[int, float], float]
"""(seed, nfe spent) to gold."""
Apart = Callable[[str, int], np.ndarray]
"""(label, seed) to how far each of the prompts ends from gold: their mean is 0."""
Row = dict[str, int | float | None]

METHODS = {"flat-window": "mix", "flat-matched-updates": "flat"}
"""Labels that are no method's name, and the method behind them; `base` is flat, evaluated untrained."""
EVERY = 8000
PROMPTS = tuple(f"prompt {number}" for number in range(8))
STARTED = datetime(2026, 1, 2, tzinfo=UTC)


@dataclass(frozen=True)
class Spend:
    """What one iteration costs: by default 1000 nfe, so that 64000 nfe are 64 iterations with a point every eighth."""

    rollout_nfe: int = 400
    train_nfe: int = 200
    reference_nfe: int = 0
    reward_calls: int = 32
    updates: int = 2
    planned: int = 0
    """Updates an iteration that the config asks for; 0: those that are made."""
    seconds: float = 2.0
    """Half of it rollout, 0.4 training, the rest reward."""

    @property
    def nfe(self) -> int:
        """On the budget's axis."""
        return self.rollout_nfe + self.reference_nfe + 3 * self.train_nfe


def write_study(
    folder: Path,
    labels: Mapping[str, Gold],
    seeds: Sequence[int] = range(5),
    *,
    name: str = "study",
    title: str = "A study",
    budget: float = 64_000,
    every: float = EVERY,
    suite: bool = True,
    baseline: str = "flat",
    contrasts: Sequence[str] = (),
    methods: Mapping[str, str] = METHODS,
    spend: Mapping[str, Spend] | None = None,
    proxy: Gold | None = None,
    protocol: str = "controlled",
    recipe: str = "controlled",
    reward: str = "shapes-pref",
    workload: str = "shapes",
    gold_is_proxy: bool = False,
    timed: bool = True,
    status: Mapping[tuple[str, int], tuple[Status, str]] | None = None,
    missing: Sequence[tuple[str, int]] = (),
    bases: Sequence[float] = (),
    factors: Mapping[float, float] | None = None,
    references: References | None = None,
    images: bool = False,
    rules_version: int = 1,
    apart: Apart | None = None,
    choices: Sequence[ChoiceRecord] = (),
) -> Path:
    """Runs of every label and seed, and (unless `suite` is False) the suite they make; returns `folder`.

    `spend` gives labels another cost an iteration; `proxy` defaults to gold + 0.1. `status` maps (label, seed) to how a
    run ended and why: one not `done` keeps its points up to half of the budget (none if `failed`). `missing` cells are
    in the suite and have no run. `bases` are golds of untrained evaluations; `factors` maps a learning rate's factor to
    what its tuning runs (seeds 100 and 101 of baseline and contrasts) end above the label's own curve of seed 0.
    `apart` makes the runs store what each prompt scored, and `choices` the suite a tuned one, with the trials (seeds
    100 and 101) that gained what they say.
    """
    cells: list[CellRecord] = []

    def add(label: str, seed: int, gold: Gold, *, part: str = "main", factor: float = 1.0, evaluation: int = 0) -> None:
        method = methods.get(label, label)
        own = (spend or {}).get(label, Spend())
        ended, reason = (status or {}).get((label, seed), ("done", "")) if part == "main" else ("done", "")
        tail = {"main": f"s{seed}", "base": f"base{evaluation}", "tuning": f"x{factor:g}-s{seed}"}[part]
        run = f"{name}-{label}-{tail}"
        cell = {
            "label": label, "run": run, "method": method, "recipe": recipe, "reward": reward, "workload": workload,
            "seed": seed, "protocol": protocol, "part": part, "factor": factor,
        }  # fmt: skip
        if choices and part == "tuning":
            cell["setting"] = "training.learning_rate"
        if part == "main":
            cell["factors"] = {one.setting: one.factor for one in choices if one.label == label and one.factor}
        cells.append(CellRecord.model_validate(cell))
        if part == "main" and (label, seed) in missing:
            return
        most = 0.0 if part == "base" else budget
        planned = own.planned or max(1, own.updates)
        config = {
            "workload": workload, "seed": seed, "recipe": recipe, "protocol": protocol,
            "budget": {"iterations": 0} if part == "base" else {"nfe": budget},
            "method": {"name": method}, "reward": {"name": reward}, "training": {"updates": planned},
            "evaluation": {"every": every, "prompts": len(PROMPTS), "images": 2, "seed": evaluation,
                           "noises": 2 if apart else 1},
        }  # fmt: skip
        if label != method:
            ema = (sum(label.encode()) % 97 + 1) / 100  # some setting, so that ids differ
            config["training"] = {"updates": planned, "ema_decay": ema}
        record = RunRecord.model_validate(
            {
                "run": run, "status": ended, "reason": reason, "method": method, "recipe": recipe, "reward": reward,
                "workload": workload, "seed": seed, "protocol": protocol, "tier": "tiny", "timed": timed,
                "gold_is_proxy": gold_is_proxy, "rules_version": rules_version, "numerics_version": 1, "device": "cpu",
                "hashes": {"method": f"source of {method}"}, "started": STARTED,
                "finished": STARTED + timedelta(minutes=2),
            }
        )  # fmt: skip
        store = RunStore.create(folder, run, RunConfig.model_validate(config).to_toml(), record)
        rows = [] if ended == "failed" else curve(own, gold, proxy, seed, most if ended == "done" else most / 2, every)
        for row in rows:
            row |= judged(row, reward, workload, gold_is_proxy=gold_is_proxy)
        if rows:
            (store.folder / POINTS).write_bytes(encode(rows))
        if apart and rows:
            _save_prompt_scores(store, rows, apart(label, seed) / budget)
        if images and rows:
            _save_images(store, rows)

    for seed in seeds:  # seed-major, as a sweep runs them
        for label, gold in labels.items():
            add(label, seed, gold)
    for evaluation, value in enumerate(bases):
        add("base", 0, lambda _seed, _nfe, value=value: value, part="base", evaluation=evaluation)
    for factor, above in (factors or {}).items():
        for label in (baseline, *contrasts):
            for seed in (100, 101):
                add(label, seed, _raised(labels[label], above, budget), part="tuning", factor=factor)
    for one in () if factors else choices:
        for factor, gain in one.gains.items():
            for seed in (100, 101):
                rise = gain or 0.0
                start = labels[one.label](0, 0.0)
                add(one.label, seed, _straight(start, rise / budget), part="tuning", factor=float(factor))
    if suite:
        table = {
            "suite": name, "title": title, "digest": "0" * 64, "baseline": baseline, "contrasts": tuple(contrasts),
            "budget": {"nfe": budget}, "cells": tuple(cells),
            "references": {f"{workload}/{reward}": references} if references else {},
            "protocol": "tuned" if choices else "shared", "choices": tuple(choices),
        }  # fmt: skip
        write_suite(folder, SuiteRecord.model_validate(table))
    return folder


def _straight(start: float, slope: float) -> Gold:
    return lambda _seed, nfe: start + slope * nfe


def _save_prompt_scores(store: RunStore, rows: Sequence[Row], apart_P: np.ndarray) -> None:
    """Gold and proxy of each prompt under two noises, of which the first is a point's own and the second 0.02 above.

    `apart_P` is how far the prompts are from gold after one evaluation of the network. The file is written once, not
    point by point as a run has to.
    """
    table = None
    for row, noise in product(rows, range(2)):
        spent_P = apart_P * float(row["nfe"] or 0) + 0.02 * noise
        rewards = {name.removeprefix("reward/"): value for name, value in row.items() if name.startswith("reward/")}
        scores = {name: (value or 0.0) + spent_P for name, value in rewards.items()}
        scores["shapes-correctness"] = scores["shapes"]
        table = with_scores(table, int(row["iteration"] or 0), noise, scores)
    (store.folder / PROMPT_SCORES).write_bytes(encode_prompt_scores(table))


def curve(own: Spend, gold: Gold, proxy: Gold | None, seed: int, budget: float, every: float) -> list[Row]:
    """The rows of one run: at the first iteration past each mark, and at the last one that the budget lets in."""
    last = int(budget // own.nfe)
    marks = np.arange(0, budget + 1, every)
    iterations = sorted({min(math.ceil(mark / own.nfe), last) for mark in marks} | {last})
    return [_row(own, gold, proxy, seed, iteration) for iteration in iterations]


def judged(row: Row, reward: str, workload: str, *, gold_is_proxy: bool) -> Row:
    """The columns of the rewards behind proxy and gold, as a run stores them; several rewards have one score."""
    weights = parse_rewards(reward)
    trained = row["gold"] if gold_is_proxy else row["proxy"]
    assert trained is not None
    own: Row = {"proxy": trained, **{f"reward/{name}": trained / sum(weights.values()) for name in weights}}
    judge = WORKLOADS.get(workload).gold if workload in WORKLOADS.names() else ""
    return own | ({f"reward/{judge}": row["gold"]} if judge and not gold_is_proxy else {})


def _row(own: Spend, gold: Gold, proxy: Gold | None, seed: int, iteration: int) -> Row:
    nfe = own.nfe * iteration
    score = gold(seed, nfe)
    trained = proxy(seed, nfe) if proxy else score + 0.1
    seconds = own.seconds * iteration
    phases = {"rollout": 0.5 * seconds, "train": 0.4 * seconds, "reward": 0.1 * seconds, "eval": 1.0, "setup": 3.0}
    return {
        "iteration": iteration,
        "nfe": nfe,
        "rollout_nfe": own.rollout_nfe * iteration,
        "train_nfe": own.train_nfe * iteration,
        "reference_nfe": own.reference_nfe * iteration,
        "eval_nfe": 160,
        "setup_nfe": 0,
        "reward_calls": own.reward_calls * iteration,
        "decodes": own.reward_calls * iteration,
        "images": own.reward_calls * iteration,
        "updates": own.updates * iteration,
        "trained_edges": own.train_nfe * iteration,
        "seconds": seconds,
        **{
            f"{phase}_seconds": phases.get(phase, 0.0)
            for phase in ("plan", "rollout", "decode", "reward", "credit", "train", "eval", "io", "setup")
        },
        "peak_memory_bytes": 1_000_000_000,
        "proxy": trained,
        "gold": score,
        "diversity": 0.2,
        "vendi": 2.0,
        "base_distance": nfe / 1e6,
    }


def _raised(gold: Gold, above: float, budget: float) -> Gold:
    return lambda seed, nfe: gold(0, nfe) + above * nfe / budget + 0.001 * (seed - 100)


def _save_images(store: RunStore, rows: Sequence[Row]) -> None:
    """Two images a prompt at each point: flat colours, prompt p's red 20 p, greener from point to point."""
    store.save_prompts(PROMPTS)
    for place, row in enumerate(rows):
        images = np.zeros((2 * len(PROMPTS), 32, 32, 3), np.uint8)
        images[..., 0] = np.repeat(20 * np.arange(len(PROMPTS)), 2)[:, None, None]
        images[..., 1] = 200 * place // max(1, len(rows) - 1)
        store.save_images(point_name(int(row["iteration"] or 0)), images, 2)
