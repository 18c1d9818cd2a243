"""What all plots share: a page measured in points, type, colours, and files that come out the same twice."""

from __future__ import annotations

import io
import math
import warnings
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal

from grpo_bench.palette import Style
from grpo_bench.store.names import clean_text

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

Format = Literal["pdf", "png"]
Styles = Mapping[str, Style]

WIDTH = 245.0
"""Of a page in points: 3.4 inches, a column of a two-column paper."""
LEFT, RIGHT = 34.0, 5.0
"""Room for the numbers on the left, and none on the right."""
SIZE, SMALL = 7.0, 6.0
LINE = 9.0
EM = 0.56
"""Of the type's size: the width of a usual letter."""
DPI = 200
INK, QUIET, FAINT = "#222222", "#6B6B6B", "#E6E6E6"

_LINES: dict[str, str | tuple[float, tuple[float, ...]]] = {
    "solid": "-", "dash": (0, (4, 1.6)), "dot": (0, (1.2, 1.2)), "dashdot": (0, (5, 1.4, 1.2, 1.4)),
}  # fmt: skip
DASHES = tuple(_LINES.values())
"""For lines that belong to no label."""
_SIGNS = {
    "circle": "o", "square": "s", "triangle-up": "^", "diamond": "D", "triangle-down": "v", "cross": "P",
    "triangle-left": "<", "triangle-right": ">", "x": "X", "pentagon": "p", "hexagon": "h", "star": "*",
}  # fmt: skip


@contextmanager
def house_style() -> Iterator[None]:
    """Everything is made and written in here; a glyph that the typeface lacks is a box and no warning."""
    import matplotlib

    settings = matplotlib.rc_context(
        {
            "font.family": "DejaVu Sans",
            "font.size": SIZE,
            "text.parse_math": False,  # names and prompts are other people's text
            "axes.titlesize": SIZE,
            "axes.labelsize": SIZE,
            "axes.linewidth": 0.5,
            "axes.edgecolor": QUIET,
            "axes.labelcolor": INK,
            "axes.axisbelow": True,
            "xtick.labelsize": SMALL,
            "ytick.labelsize": SMALL,
            "xtick.color": QUIET,
            "ytick.color": QUIET,
            "xtick.major.size": 2.0,
            "ytick.major.size": 2.0,
            "xtick.major.width": 0.5,
            "ytick.major.width": 0.5,
            "xtick.major.pad": 2.0,
            "ytick.major.pad": 2.0,
            "lines.solid_capstyle": "round",
            "pdf.fonttype": 42,  # real fonts, which publishers ask for and readers can select
            "svg.hashsalt": "grpo-bench",
        }
    )
    with settings, warnings.catch_warnings():
        warnings.filterwarnings("ignore", message="Glyph .* missing")
        yield


@dataclass(frozen=True, eq=False)
class Page:
    """A figure with a canvas in points, the origin in the upper left corner, for whatever is no axes."""

    figure: Figure
    canvas: Axes
    height: float

    def panel(self, left: float, top: float, width: float, height: float) -> Axes:
        """Axes whose frame is that rectangle, with few lines."""
        box = (left / WIDTH, 1 - (top + height) / self.height, width / WIDTH, height / self.height)
        axes = self.figure.add_axes(box)
        axes.grid(axis="y", color=FAINT, linewidth=0.5)
        for side in ("top", "right"):
            axes.spines[side].set_visible(False)
        return axes

    def text(
        self,
        left: float,
        top: float,
        words: str,
        *,
        size: float = SIZE,
        colour: str = INK,
        align: Literal["left", "center", "right"] = "left",
        bold: bool = False,
        turn: float = 0.0,
    ) -> None:
        """One line, its middle at `top`; controls are dropped."""
        self.canvas.text(
            left, top, clean_text(words, 200), fontsize=size, color=colour, ha=align, va="center", rotation=turn,
            fontweight="bold" if bold else "normal", rotation_mode="default",
        )  # fmt: skip

    def foot(self, words: str) -> None:
        """What the marks mean, as the page's last line."""
        self.text(WIDTH / 2, self.height - 5, words, size=SMALL - 0.5, colour=QUIET, align="center")

    def fitted(self, left: float, top: float, words: str, width: float) -> None:
        """A label in at most `width` points: a little smaller, and then cut short, where it is longer."""
        size = min(SMALL, max(SMALL - 1, width / (EM * max(1, len(words)))))
        self.text(left, top, short_label(words, int(width / (EM * size))), size=size)

    def sample(self, left: float, top: float, style: Style, width: float = 15.0) -> None:
        """A short piece of a label's line with its sign."""
        stroke(self.canvas, [left, left + width], [top, top], style)
        sign(self.canvas, [left + width / 2], [top], style)


def page(height: float) -> Page:
    """An empty page of `height` points."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    figure = Figure(figsize=(WIDTH / 72, height / 72), dpi=DPI, facecolor="white")
    FigureCanvasAgg(figure)
    canvas = figure.add_axes((0, 0, 1, 1))
    canvas.set(xlim=(0, WIDTH), ylim=(height, 0))
    canvas.set_axis_off()
    return Page(figure, canvas, height)


def stroke(
    axes: Axes, x: Sequence[float], y: Sequence[float], style: Style, *, width: float = 1.1, over: float = 3
) -> None:
    """A label's line."""
    axes.plot(x, y, color=style.colour, linestyle=_LINES[style.dash], linewidth=width, zorder=over)


def sign(
    axes: Axes, x: Sequence[float], y: Sequence[float], style: Style, *, size: float = 3.2, over: float = 4
) -> None:
    """A label's sign at each point."""
    face = "white" if style.hollow else style.colour
    axes.plot(
        x, y, linestyle="none", marker=_SIGNS[style.marker], markersize=size, markerfacecolor=face,
        markeredgecolor=style.colour, markeredgewidth=0.7, zorder=over,
    )  # fmt: skip


def legend(drawn: Page, styles: Styles, labels: Sequence[str], top: float) -> None:
    """Samples and names of `labels` in columns as wide as the longest needs, the first line's middle at `top`."""
    columns, width = _columns(labels)
    rows = legend_rows(labels)
    for place, label in enumerate(labels):
        left, line = 6 + (place // rows) * width, top + (place % rows) * LINE
        drawn.sample(left, line, styles[label])
        drawn.text(left + 19, line, short_label(label, 30 if columns > 1 else 60), size=SMALL)


def legend_rows(labels: Sequence[str]) -> int:
    """How many lines `legend` takes."""
    return math.ceil(len(labels) / _columns(labels)[0])


def _columns(labels: Sequence[str]) -> tuple[int, float]:
    longest = max((min(len(label), 30) for label in labels), default=1)
    columns = max(1, int((WIDTH - 8) // (longest * EM * SMALL + 30)))
    columns = min(columns, len(labels)) or 1
    return columns, (WIDTH - 8) / columns


def short(text: str, most: int) -> str:
    """Untrusted text on one line of at most `most` characters."""
    line = clean_text(text, 400).replace("\n", " ")
    return line if len(line) <= most else f"{line[: most - 1]}…"


def short_label(label: str, most: int) -> str:
    """A label in at most `most` characters: it loses its middle, since variants of a method differ at the end."""
    line = short(label, 400)
    kept = max(0, most - 1)
    return line if len(line) <= most else f"{line[: kept - kept // 2]}…{line[len(line) - kept // 2 :]}"


def amount(number: float) -> str:
    """A cost in few characters: 640, 64k, 1.25M."""
    rounded = float(f"{number:.3g}")
    for scale, letter in ((1e9, "G"), (1e6, "M"), (1e3, "k")):
        if abs(rounded) >= scale:
            return f"{rounded / scale:.3g}{letter}"
    return f"{rounded:.3g}"


def number_ticks(axes: Axes, which: Literal["x", "y"], most: int, *, costs: bool = False) -> None:
    """At most `most` round numbers; costs as `amount`."""
    from matplotlib.ticker import FuncFormatter, MaxNLocator

    axis = axes.xaxis if which == "x" else axes.yaxis
    axis.set_major_locator(MaxNLocator(most, steps=[1, 2, 2.5, 4, 5, 10]))
    if costs:
        axis.set_major_formatter(FuncFormatter(lambda value, _: amount(value)))
    else:
        axis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:.4g}".replace("-", "\N{MINUS SIGN}")))


def end_ticks(axes: Axes, end: float) -> None:
    """0 and the end of a cost axis, written inside the panel's width."""
    axes.set_xticks([0, end], ["0", amount(end)])
    first, last = axes.get_xticklabels()
    first.set_horizontalalignment("left")
    last.set_horizontalalignment("right")


def limits(values: Sequence[float], wider: Sequence[float] = (), *, least: float = 0.0) -> tuple[float, float]:
    """A range that holds `values` and, as far as they are near, `wider` (the ends of intervals).

    It spans `least` at least, so that mere noise does not look like a gain.
    """
    sound = [value for value in values if math.isfinite(value)] or [0.0]
    low, high = min(sound), max(sound)
    room = max(high - low, least) * 0.3 or 0.5
    ends = [value for value in wider if math.isfinite(value)]
    low, high = (
        min([low, *(max(end, low - room) for end in ends)]),
        max([high, *(min(end, high + room) for end in ends)]),
    )
    lacking = max(0.0, least - (high - low)) / 2
    low, high = low - lacking, high + lacking
    margin = 0.05 * (high - low) or 0.5
    return low - margin, high + margin


def encode(figure: Figure, form: Format) -> bytes:
    """The figure as a file's bytes: no date and no program's name in it, so that equal data give equal bytes."""
    sink = io.BytesIO()
    metadata: dict[str, None] = (
        {"CreationDate": None, "Creator": None, "Producer": None} if form == "pdf" else {"Software": None}
    )
    figure.savefig(sink, format=form, dpi=DPI, metadata=metadata)
    return sink.getvalue()
