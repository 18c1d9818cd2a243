"""Numbers, times and untrusted text as short, harmless pieces of a terminal line."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from itertools import pairwise

from rich.text import Text

from grpo_bench.store.names import clean_text

BARS = "▁▂▃▄▅▆▇█"
NOTHING = "–"

Row = Mapping[str, float | None]


def plain(text: str, style: str = "", limit: int = 500) -> Text:
    """Untrusted text as one line that is shown as it is: controls are dropped and markup is never parsed."""
    return Text(clean_text(text, limit), style=style)


def value(row: Row, name: str) -> float:
    """A number of a stored point, NaN where the point has none."""
    number = row.get(name)
    return math.nan if number is None else float(number)


def score(number: float) -> str:
    """A reward with four decimals (two when large), a dash for NaN."""
    if not math.isfinite(number):
        return NOTHING
    return f"{number:.4f}" if abs(number) < 100 else f"{number:,.2f}"


def change(number: float) -> str:
    """A signed difference of two rewards."""
    if not math.isfinite(number):
        return NOTHING
    return f"{number:+.4f}" if abs(number) < 100 else f"{number:+,.2f}"


def count(number: float) -> str:
    """A whole number with thousands separated, a dash for NaN."""
    return f"{number:,.0f}" if math.isfinite(number) else NOTHING


def duration(seconds: float) -> str:
    """`41 s`, `3 min 05 s`, `2 h 14 min`, `3 d 4 h`; a dash for NaN."""
    if not math.isfinite(seconds):
        return NOTHING
    whole = max(0, round(seconds))
    if whole < 60:
        return f"{whole} s"
    if whole < 3600:
        return f"{whole // 60} min {whole % 60:02d} s"
    if whole < 86400:
        return f"{whole // 3600} h {whole % 3600 // 60:02d} min"
    return f"{whole // 86400} d {whole % 86400 // 3600} h"


def sparkline(values: Sequence[float], width: int) -> str:
    """A history as at most `width` bars, each the mean of an equal share; NaN is left out, a constant is level."""
    finite = [number for number in values if math.isfinite(number)]
    bars = min(width, len(finite))
    if not bars:
        return ""
    edges = [len(finite) * bar // bars for bar in range(bars + 1)]
    means = [math.fsum(finite[first:last]) / (last - first) for first, last in pairwise(edges)]
    low, high = min(means), max(means)
    if high - low <= 1e-9 * max(abs(low), abs(high)):
        return BARS[3] * bars
    return "".join(BARS[round((mean - low) / (high - low) * (len(BARS) - 1))] for mean in means)


def spent(row: Row, kind: str) -> float:
    """What a stored point has spent on a budget's axis."""
    return value(row, {"iterations": "iteration"}.get(kind, kind.replace("-", "_")))
