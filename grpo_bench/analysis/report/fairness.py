"""The fairness card: what each label was given and what it spent, each marked where it is not the baseline's."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass

from grpo_bench.analysis.diagnosis import by_step
from grpo_bench.analysis.report.words import NOTHING, Cell, Head, Table, amount, clean
from grpo_bench.analysis.study import Curve, View
from grpo_bench.analysis.summary import ViewSummary

_SETTINGS: tuple[tuple[str, str, str], ...] = (
    ("kernel", "sampling.kernel", "Transition rule of the stochastic steps"),
    ("noise", "sampling.noise", "Noise level of the kernel"),
    ("steps", "sampling.steps", "Transitions from noise to image"),
    ("guidance", "sampling.guidance", "Classifier-free guidance in rollout and training"),
    ("prompts", "training.prompts", "Prompts an iteration"),
    ("group", "method.group", "Images of a prompt that are compared; of a tree: its leaves, from the counters"),
    ("updates an iteration", "training.updates", "Optimiser steps an iteration"),
    ("learning rate", "training.learning_rate", "AdamW's"),
    ("clip", "objective.clip", "Half-width of the ratio clip; shared: the rule for the latent's size"),
    ("advantage clip", "objective.advantage_clip", "Advantages are clipped to plus or minus this"),
    ("KL", "objective.beta", "Weight of the KL to the reference policy"),
    ("EMA", "training.ema_decay", "Decay of the averaged weights that are evaluated; 0: none"),
)
_COUNTERS: tuple[tuple[str, str, str], ...] = (
    ("iterations", "iteration", "Rollouts, each with its updates"),
    ("updates made", "updates", "Optimiser steps in all"),
    ("rollout nfe", "rollout_nfe", "Network evaluations of the rollouts"),
    ("train nfe", "train_nfe", "Network evaluations with a backward pass; each counts three in nfe"),
    ("reference nfe", "reference_nfe", "Network evaluations of reference or old policies"),
    ("reward calls", "reward_calls", "Images scored in training"),
    ("nfe", "nfe", "Rollout + reference + 3 × train: what the budget counts"),
)
_CLIPPED = ("clipped", "clipped", "Edges outside the ratio clip, in per cent by step of the schedule")
SHARED_RULE = "shared rule"


@dataclass(frozen=True)
class Card:
    """What is equal for all labels, and a table of the rest."""

    same: tuple[str, ...]
    """`steps 10`, one a setting or counter that all labels share to the letter."""
    table: Table


def card(view: View, summary: ViewSummary) -> Card:
    """One row a label: its settings, then the counters of its last point (median over seeds)."""
    heads = [Head(name, title) for name, _, title in (*_SETTINGS, *_COUNTERS, _CLIPPED)]
    rows = {label: _row(view, summary, label) for label in view.labels}
    base = rows.get(view.baseline)
    cells = {label: _against(row, base) for label, row in rows.items()}
    apart = [place for place in range(len(heads)) if len({row[place].text for row in cells.values()}) > 1]
    same = [place for place in range(len(heads)) if place not in apart] if rows else []
    one = next(iter(cells.values()), [])
    return Card(
        tuple(f"{heads[place].text} {one[place].text}" for place in same if one[place].text != NOTHING),
        Table(
            "What each method was given, and what it had spent at its last point (median over seeds)",
            (Head("method", numeric=False), *(heads[place] for place in apart)),
            tuple((Cell(label), *(row[place] for place in apart)) for label, row in cells.items()),
        ),
    )


def _row(view: View, summary: ViewSummary, label: str) -> list[tuple[str, float | None]]:
    """(text, number) of each column."""
    costs = summary.method(label).costs
    curves = view.of(label)
    row = [_setting(curves, key, costs) for _, key, _ in _SETTINGS]
    for _, column, _ in _COUNTERS:
        value = costs.get(column, math.nan)
        row.append((amount(value), value if math.isfinite(value) else None))
    return [*row, _clipped(curves)]


def _clipped(curves: tuple[Curve, ...]) -> tuple[str, float | None]:
    shares = by_step(curves, "clipped")
    text = " ".join(f"{step}: {100 * share:.0f}" for step, share in shares.items())
    return text or NOTHING, max(shares.values(), default=None)


def _setting(curves: tuple[Curve, ...], key: str, costs: dict[str, float]) -> tuple[str, float | None]:
    values = list(dict.fromkeys(_text(_find(curve, key)) for curve in curves))
    if key == "method.group" and values == [""]:
        values = [_group(curves[0], costs)]
    if key == "objective.clip" and values == [""]:
        return SHARED_RULE, None
    text = " or ".join(values) or NOTHING
    try:
        return text, float(text)
    except ValueError:
        return text, None


def _group(curve: Curve, costs: dict[str, float]) -> str:
    """Images a prompt and iteration, of a method whose group is a tree's leaves."""
    prompts = _find(curve, "training.prompts")
    if not isinstance(prompts, int) or not costs.get("iteration"):
        return ""
    return f"{costs.get('images', 0) / costs['iteration'] / prompts:g}"


def _find(curve: Curve, key: str) -> object:
    section, name = key.split(".")
    table = curve.config.get(section)
    return table.get(name) if isinstance(table, dict) else None


def _text(value: object) -> str:
    if value is None:
        return ""
    return f"{value:g}" if isinstance(value, float) else clean(value, 40)


def _against(row: list[tuple[str, float | None]], base: list[tuple[str, float | None]] | None) -> list[Cell]:
    """The row's cells, marked where the baseline's differ: settings exactly, counters by more than 5%."""
    cells = []
    for place, (text, order) in enumerate(row):
        same: Callable[[str, str], bool] = _equal if place < len(_SETTINGS) else _near
        differs = base is not None and row is not base and not same(text, base[place][0])
        cells.append(Cell(text, order=order, marked=differs))
    return cells


def _equal(one: str, other: str) -> bool:
    return one == other


def _near(one: str, other: str) -> bool:
    """Whole iterations never spend a budget to the last evaluation."""
    try:
        first, second = (float(text.replace(",", "")) for text in (one, other))
    except ValueError:
        return one == other
    return abs(first - second) <= 0.05 * max(abs(first), abs(second))
