"""A finished run as two pictures: its learning curve, and images of the base above those of the trained policy.

Drawn from stored points and images only, without a display; both files appear whole or not at all.
"""

from __future__ import annotations

import io
import math
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from grpo_bench.errors import UserError
from grpo_bench.media import as_shown
from grpo_bench.store.atomic import write_bytes
from grpo_bench.store.names import clean_text
from grpo_bench.store.run import point_name

if TYPE_CHECKING:
    from matplotlib.axes import Axes

    from grpo_bench.analysis.grid import Images
    from grpo_bench.store.points import Row
    from grpo_bench.store.run import RunStore

COMPONENTS = ("reward/shapes-correctness", "reward/shapes-appeal")
"""Parts of the built-in reward, drawn thin beside it."""
# Okabe and Ito's colours, told apart by every kind of eye; each line also has its own dashes
GOLD, PROXY, PARTS, QUIET = "#0072B2", "#D55E00", ("#009E73", "#A65E8A"), "#777777"


def draw_outcome(store: RunStore) -> tuple[Path, Path]:
    """Write `curve.png` and `grid.png` into the run's folder and return their paths.

    Raises:
        UserError: the run has no point yet, its points or images are damaged, or the disk refuses.
    """
    record, rows = store.record, store.rows()
    if not rows:
        raise UserError(
            f"the run {record.run} has no point to draw yet: go on with grpo-bench run --resume {record.run}"
        )
    curve, grid = store.folder / "curve.png", store.folder / "grid.png"
    title = f"{record.method} on {record.workload}, reward {record.reward}, seed {record.seed}"
    learning_curve(rows, curve, title, gold_is_proxy=record.gold_is_proxy)
    prompts = store.load_prompts()
    base, final = (_first_images(store, int(row["iteration"] or 0), len(prompts)) for row in (rows[0], rows[-1]))
    image_grid(base, final, prompts, grid)
    return curve, grid


def learning_curve(rows: Sequence[Row], path: Path, title: str, *, gold_is_proxy: bool) -> None:
    """Held-out scores against nfe (below) and seconds of training (above), as a PNG of 1080 x 760 pixels.

    Gold thick, the proxy where it is another reward, the parts of `shapes` thin, the base's gold as a level line.

    Raises:
        UserError: the disk refuses.
    """
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    figure = Figure(figsize=(5.4, 3.8), dpi=200, facecolor="white", layout="constrained")
    FigureCanvasAgg(figure)
    axes = figure.add_subplot()
    nfe = _column(rows, "nfe")
    ends = []
    for name, label, colour, width, dashes in _lines(rows, gold_is_proxy=gold_is_proxy):
        scores = _column(rows, name)
        axes.plot(nfe, scores, color=colour, linewidth=width, linestyle=dashes, marker="o", markersize=1.2 + width)
        known = [score for score in scores if math.isfinite(score)]
        if known:
            ends.append((known[-1], f"{label} {known[-1]:.3f}", colour))
    base = _column(rows, "gold")[0]
    if math.isfinite(base):
        axes.axhline(base, color=QUIET, linewidth=0.8, zorder=0)
        ends.append((base, f"base {base:.3f}", QUIET))
    _dress(axes, rows, title)
    figure.draw_without_rendering()
    _label_ends(axes, ends)
    sink = io.BytesIO()
    figure.savefig(sink, format="png", metadata={"Software": None})
    write_bytes(path, sink.getvalue(), "the learning curve")


def image_grid(base: Images, final: Images, prompts: Sequence[str], path: Path) -> None:
    """Images of the base above those of the trained policy, from the same noise, captioned, as a PNG.

    Args:
        base: uint8 (P, H, W, 3), one image a prompt, of which 8 prompts spread evenly are drawn; or (P, I, H, W, 3),
            of which each prompt gets a band of its own.
        final: the same shape.
        prompts: P untrusted texts.

    Raises:
        ValueError: other shapes.
        UserError: the disk refuses.
    """
    from grpo_bench.analysis.grid import bands, paint
    from grpo_bench.store.images import encode_png

    write_bytes(path, encode_png(paint(bands(base, final, prompts))), "the image grid")


def _first_images(store: RunStore, iteration: int, prompts: int) -> Images:
    """The first image (P, H, W, 3) of every prompt at a point: the same noise at every point."""
    images = store.load_images(point_name(iteration))
    if not prompts or len(images) % prompts:
        raise UserError(f"{store.images} is damaged: {len(images)} images for {prompts} prompts; start the run anew")
    return as_shown(images.reshape(prompts, -1, *images.shape[1:])[:, 0])


def _column(rows: Sequence[Row], name: str) -> list[float]:
    """A column as floats, NaN where a point has no value."""
    values = (row.get(name) for row in rows)
    return [math.nan if value is None else float(value) for value in values]


def _lines(rows: Sequence[Row], *, gold_is_proxy: bool) -> list[tuple[str, str, str, float, str]]:
    """(column, label, colour, width, dashes) of each line, the parts first so that they lie below."""
    parts = [name for name in COMPONENTS if any(row.get(name) is not None for row in rows)]
    lines = [
        (name, name.removeprefix("reward/shapes-"), colour, 1.0, dashes)
        for name, colour, dashes in zip(parts, PARTS, ("--", ":"), strict=False)
    ]
    if not gold_is_proxy:
        lines.append(("proxy", "proxy", PROXY, 1.8, "-."))
    return [*lines, ("gold", "gold", GOLD, 2.2, "-")]


def _dress(axes: Axes, rows: Sequence[Row], title: str) -> None:
    """Title, two horizontal axes, and no more ink than needed."""
    from matplotlib.ticker import EngFormatter

    axes.set_title(clean_text(title, 70), fontsize=9.5, loc="left", pad=26, parse_math=False)
    axes.set_xlabel("nfe (rollout + reference + 3 x train)", fontsize=9)
    axes.set_ylabel("held-out score", fontsize=9)
    axes.xaxis.set_major_formatter(EngFormatter(sep=""))
    last = max(_column(rows, "nfe")[-1], 1.0)
    axes.set_xlim(-0.02 * last, 1.02 * last)
    axes.margins(y=0.12)
    _widen(axes, _column(rows, "gold")[0])
    axes.grid(axis="y", color="#e6e6e6", linewidth=0.6)
    axes.set_axisbelow(True)
    axes.tick_params(labelsize=8, length=2, color=QUIET)
    for side in ("top", "right"):
        axes.spines[side].set_visible(False)
    _seconds_axis(axes, rows)


def _widen(axes: Axes, base: float) -> None:
    """A height of at least a twentieth of the base score, so that mere noise does not look like a gain."""
    bottom, top = axes.get_ylim()
    lacking = 0.05 * abs(base) - (top - bottom)
    if lacking > 0:
        axes.set_ylim(bottom - lacking / 2, top + lacking / 2)


def _seconds_axis(axes: Axes, rows: Sequence[Row]) -> None:
    """Round seconds of training, marked above at the nfe that had been spent by then."""
    import numpy as np
    from matplotlib.ticker import MaxNLocator

    seconds, nfe = np.array(_column(rows, "seconds")), np.array(_column(rows, "nfe"))
    if len(rows) < 2 or not np.isfinite(seconds).all() or not (np.diff(seconds) > 0).all():
        return
    ticks = [tick for tick in MaxNLocator(5).tick_values(0, seconds[-1]) if seconds[0] <= tick <= seconds[-1]]
    above = axes.secondary_xaxis("top")
    above.set_ticks(np.interp(ticks, seconds, nfe).tolist(), [f"{tick:g} s" for tick in ticks])
    above.tick_params(labelsize=8, length=2, color=QUIET, labelcolor=QUIET)
    above.spines["top"].set_visible(False)


def _label_ends(axes: Axes, ends: Sequence[tuple[float, str, str]]) -> None:
    """Name each line at its right end, moved apart where the ends are closer than a line of text."""
    bottom, top = axes.get_ylim()
    gap, place = 0.058, -math.inf
    for score, label, colour in sorted(ends):
        place = max((score - bottom) / (top - bottom), place + gap)
        axes.annotate(
            label, (1.02, place), xycoords="axes fraction", va="center", fontsize=8.5, color=colour, parse_math=False,
            annotation_clip=False,
        )  # fmt: skip
