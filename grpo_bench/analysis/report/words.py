"""Numbers, intervals and tables as the report prints them; what is not known is a dash."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

from grpo_bench.analysis.statistics import Estimate
from grpo_bench.store.names import clean_text

NOTHING = "–"


@dataclass(frozen=True)
class Cell:
    """One cell of a table."""

    text: str
    note: str = ""
    """Set small below it, such as an interval."""
    order: float | None = None
    """What the column sorts by; None: by the text, and a dash comes last."""
    marked: bool = False
    """Whether it differs from the baseline's."""


@dataclass(frozen=True)
class Head:
    """One column's heading."""

    text: str
    title: str = ""
    """What it means, in a line."""
    numeric: bool = True


@dataclass(frozen=True)
class Table:
    """A table that the reader can sort; the first cell of a row is its name."""

    caption: str
    heads: tuple[Head, ...]
    rows: tuple[tuple[Cell, ...], ...]
    labels: bool = True
    """Whether rows are named by labels, which have a colour."""


def score(number: float) -> str:
    """A score with three decimals, fewer where it is large."""
    return _signed(number, "")


def change(number: float) -> str:
    """A difference of two scores, with its sign."""
    return _signed(number, "+")


def correlation(number: float) -> str:
    """A correlation with two decimals."""
    return f"{number:.2f}".replace("-", "−") if math.isfinite(number) else NOTHING


def amount(number: float) -> str:
    """A count with thousands separated."""
    return f"{number:,.0f}" if math.isfinite(number) else NOTHING


def p_value(number: float) -> str:
    """A p value with three decimals, or that it is below them."""
    if not math.isfinite(number):
        return NOTHING
    return "< 0.001" if number < 0.001 else f"{number:.3f}"


def span(low: float, high: float, *, signed: bool = False) -> str:
    """The ends of an interval; empty where there is none."""
    if not (math.isfinite(low) and math.isfinite(high)):
        return ""
    one = change if signed else score
    return f"{one(low)} to {one(high)}"


def estimate(value: Estimate, *, signed: bool = False) -> Cell:
    """A mean above its interval."""
    text = change(value.mean) if signed else score(value.mean)
    return Cell(text, span(value.low, value.high, signed=signed), finite(value.mean))


def number(value: float, text: str) -> Cell:
    """A number with a text of its own."""
    return Cell(text, order=finite(value))


def finite(value: float) -> float | None:
    """The value, or None for NaN and infinity."""
    return float(value) if math.isfinite(value) else None


def clean(text: object, limit: int = 500) -> str:
    """Untrusted text as one line without controls; the template escapes what is left."""
    return clean_text(str(text), limit)


def many(number: int, what: str) -> str:
    """`1 run`, `2 runs`."""
    return f"{number} {what}" if number == 1 else f"{number} {what}s"


def listed(names: Sequence[str]) -> str:
    """`a`, `a and b`, `a, b and c`."""
    return " and ".join([", ".join(names[:-1]), names[-1]] if len(names) > 1 else names)


def _signed(number: float, sign: str) -> str:
    if not math.isfinite(number):
        return NOTHING
    digits = 3 if abs(number) < 100 else 1
    return f"{number:{sign}.{digits}f}".replace("-", "−")
