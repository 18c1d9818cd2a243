"""Images: what each label makes of eight prompts at the first, the middle and the last point of its median run."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from grpo_bench.analysis.panels import first_middle_last
from grpo_bench.analysis.plots.style import EM, LINE, QUIET, RIGHT, SMALL, WIDTH, page, short
from grpo_bench.errors import UserError
from grpo_bench.store.images import pixels_digest

if TYPE_CHECKING:
    from matplotlib.figure import Figure

    from grpo_bench.analysis.study import Curve, View

Images = NDArray[np.uint8]

NAMES, TITLE, BETWEEN = 70.0, 14.0, 3.0


@dataclass(frozen=True, eq=False)
class Strip:
    """One row: the chosen prompts' first images at one point of one run."""

    label: str
    """Empty for the base, which is every label's first point."""
    run: str
    seed: int
    nfe: float
    images: Images
    """(8, H, W, 3)."""
    digest: str
    """sha256 of them, which stands for them among the plotted data."""


@dataclass(frozen=True, eq=False)
class Panels:
    """What the panel shows."""

    title: str
    prompts: tuple[str, ...]
    strips: tuple[Strip, ...]

    def plotted(self) -> dict[str, object]:
        """As plain values, the images by their hashes."""
        keys = ("label", "run", "seed", "nfe", "digest")
        rows = [{key: getattr(strip, key) for key in keys} for strip in self.strips]
        return {"title": self.title, "prompts": list(self.prompts), "strips": rows}


def collect(view: View, title: str) -> Panels | None:
    """The images of each label's median run; None where none has any.

    The prompts are the evaluation's first eight, and the image is each prompt's first: nobody chose them.
    A first point that all labels share, the untrained base, is shown once.
    """
    prompts: tuple[str, ...] = ()
    strips: list[Strip] = []
    for label in view.labels:
        run = view.median(label)
        try:
            named, rows = _rows(run)
        except UserError:
            continue
        if not rows or (prompts and named != prompts):
            continue  # never stored, or drawn for others
        prompts = named
        strips += rows
    firsts = {strip.digest for strip in strips if strip.nfe == 0}
    if len(firsts) == 1:
        base = next(strip for strip in strips if strip.nfe == 0)
        alike = Strip("", base.run, base.seed, 0.0, base.images, base.digest)
        strips = [alike, *(strip for strip in strips if strip.nfe > 0)]
    return Panels(title, prompts, tuple(strips)) if strips else None


def _rows(run: Curve) -> tuple[tuple[str, ...], list[Strip]]:
    """The prompts, and a strip each of the first, the middle and the last point that have images.

    Raises:
        UserError: the images are damaged.
    """
    nfe_at = dict(zip((int(when) for when in run.points["iteration"]), run.cost("nfe"), strict=True))
    prompts: tuple[str, ...] = ()
    strips = []
    for panel in first_middle_last(run.folder):
        first = panel.images_PIHWC[:, 0]
        prompts, nfe = panel.prompts, float(nfe_at.get(panel.iteration, 0.0))
        strips.append(Strip(run.label, run.record.run, run.seed, nfe, first, pixels_digest(first)))
    return prompts, strips


def draw(data: Panels) -> Figure:
    """A row a strip, a column a prompt; the prompts in words below."""
    count = len(data.prompts)
    side = (WIDTH - NAMES - RIGHT) / count
    high = side * data.strips[0].images.shape[1] / data.strips[0].images.shape[2]
    tops, top = [], TITLE + LINE
    for place, strip in enumerate(data.strips):
        top += BETWEEN if place and strip.label != data.strips[place - 1].label else 0
        tops.append(top)
        top += high
    lines = _prompts(data.prompts)
    drawn = page(top + 6 + LINE * len(lines))
    drawn.text(4, 7, data.title)
    for place in range(count):
        drawn.text(NAMES + side * (place + 0.5), TITLE + 3, str(place + 1), size=SMALL, colour=QUIET, align="center")
    named: set[str] = set()
    for strip, row in zip(data.strips, tops, strict=True):
        picture = drawn.panel(NAMES, row, WIDTH - NAMES - RIGHT, high)
        picture.imshow(_joined(strip.images), aspect="auto", interpolation="nearest")
        picture.set_axis_off()
        middle = row + high / 2
        if not strip.label:
            drawn.fitted(4, middle, "untrained", NAMES - 6)
            continue
        before = len(named)
        if strip.label not in named:
            drawn.fitted(4, middle - 4, strip.label, NAMES - 6)
            named.add(strip.label)
        under = 4 if len(named) != before and high >= 2 * LINE else 0
        drawn.text(4, middle + under, f"seed {strip.seed}, {strip.nfe:,.0f} nfe", size=SMALL - 1, colour=QUIET)
    for place, line in enumerate(lines):
        drawn.text(4, top + 8 + LINE * place, line, size=SMALL, colour=QUIET)
    return drawn.figure


def _joined(images_BHWC: Images) -> Images:
    """Side by side with a white line between them, (H, W', 3)."""
    line = np.full((images_BHWC.shape[1], 1, 3), 255, np.uint8)
    pieces = [part for image in images_BHWC for part in (image, line)][:-1]
    return np.concatenate(pieces, axis=1)


def _prompts(prompts: tuple[str, ...]) -> list[str]:
    """The numbered prompts as lines of the page's width, each cut short at one."""
    room = int((WIDTH - 8) / (EM * SMALL))
    lines, line = [], ""
    for place, prompt in enumerate(prompts, 1):
        piece = f"{place} {short(prompt, room - 4)}"
        if line and len(line) + 3 + len(piece) > room:
            lines.append(line)
            line = piece
        else:
            line = f"{line} \N{MIDDLE DOT} {piece}" if line else piece
    return [*lines, line]
