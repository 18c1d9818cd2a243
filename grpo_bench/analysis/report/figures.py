"""What the page's figures are drawn from: every finished run's counters and scores, for the page to compute with.

The page knows one way from counters to a figure, for the five axes and for costs of the reader's own: a cost a point,
each run resampled to the same 20 costs, then means and attainment over seeds. A test compares it with `summary`.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping

from scipy import stats

from grpo_bench.analysis.axes import COLUMNS, TITLES
from grpo_bench.analysis.hypervolume import COSTS
from grpo_bench.analysis.report.words import clean
from grpo_bench.analysis.statistics import LEVEL
from grpo_bench.analysis.study import Curve, Study, View
from grpo_bench.analysis.summary import ViewSummary
from grpo_bench.palette import Style, label_styles

Json = dict[str, object]

QUANTITIES = {
    "gold": "gold, held out",
    "proxy": "proxy (the reward trained on), held out",
    "gap": "proxy less gold",
    "diversity": "diversity of a prompt's images",
    "vendi": "Vendi score of a prompt's images",
    "base_distance": "distance from the base policy",
}
"""What a learning curve may show; `gap` is computed by the page."""
_SCORES = ("gold", "proxy", "diversity", "vendi", "base_distance")
_DARK = (0x16, 0x18, 0x1C)
_CONTRAST = 4.5


def styles(found: Iterable[Study]) -> dict[str, Style]:
    """One style a label for all figures of a page."""
    views = [view for study in found for view in study.views]
    return label_styles({label: view.method(label) for view in views for label in view.all_labels})


def ink_classes(drawn: Mapping[str, Style]) -> dict[str, str]:
    """The class of the page's style sheet that has each label's colour."""
    return {label: f"ink-{place}" for place, label in enumerate(drawn)}


def view_data(view: View, summary: ViewSummary, drawn: Mapping[str, Style]) -> Json:
    """A view's runs as plain values for the page's script: finite numbers only, texts without controls."""
    place = {label: index for index, label in enumerate(view.labels)}
    inks = ink_classes(drawn)
    sizes = {len(view.of(label)) for label in view.labels} | {len(view.of(view.baseline))}
    return {
        "labels": [_label(label, drawn[label], inks[label]) for label in view.labels],
        "baseline": place.get(view.baseline, -1),
        "base": _round(summary.references.base),
        "floor": _round(summary.floor.gold) if summary.floor else None,
        "costs": COSTS,
        "axes": [{"key": one.axis, "column": COLUMNS[one.axis], "title": TITLES[one.axis]} for one in summary.axes],
        "quantities": [{"key": key, "title": title} for key, title in QUANTITIES.items() if _offered(view, key)],
        "t": {n: _round(float(stats.t.ppf((1 + LEVEL) / 2, n - 1))) for n in range(2, max(sizes, default=0) + 1)},
        "runs": [_run(curve, place[curve.label]) for curve in view.curves],
    }


def dark(colour: str) -> str:
    """The colour, mixed with white until thin lines of it can be seen on the page's dark ground (contrast 4.5)."""
    channels = [int(colour[place : place + 2], 16) for place in (1, 3, 5)]
    for step in range(21):
        mixed = [round(channel + (255 - channel) * step / 20) for channel in channels]
        if (_luminance(mixed) + 0.05) / (_luminance(_DARK) + 0.05) >= _CONTRAST:
            break
    return "#" + "".join(f"{channel:02X}" for channel in mixed)


def _luminance(channels: Iterable[int]) -> float:
    """Relative luminance of sRGB (WCAG 2)."""
    linear = [
        value / 12.92 if value <= 0.04045 else ((value + 0.055) / 1.055) ** 2.4
        for value in (channel / 255 for channel in channels)
    ]
    return sum(weight * value for weight, value in zip((0.2126, 0.7152, 0.0722), linear, strict=True))


def _label(label: str, style: Style, ink: str) -> Json:
    return {
        "label": clean(label, 80),
        "ink": ink,
        "colour": style.colour,
        "dark": dark(style.colour),
        "dash": style.dash,
        "marker": style.marker + ("-open" if style.hollow else ""),
    }


def _offered(view: View, key: str) -> bool:
    if key == "gap":
        return not view.gold_is_proxy and _offered(view, "proxy")
    return bool(view.curves) and all(_finite(curve, key) for curve in view.curves)


def _finite(curve: Curve, key: str) -> bool:
    return key in curve.points.columns and all(map(math.isfinite, curve.column(key)))


def _run(curve: Curve, label: int) -> Json:
    columns = [column for column in (*COLUMNS.values(), *_SCORES) if _finite(curve, column)]
    table = {column: [_round(value) for value in curve.column(column)] for column in columns}
    return {"label": label, "seed": curve.seed, "timed": curve.record.timed, **table}


def _round(value: float) -> float:
    """Nine significant digits: more than a figure needs, and less than half the bytes."""
    rounded = float(f"{value:.9g}")
    return int(rounded) if rounded.is_integer() and abs(rounded) < 2**53 else rounded
