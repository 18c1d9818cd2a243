"""Pairs of images with captions under them, laid out in bands: the base's row above the trained policy's."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from grpo_bench.store.names import clean_text

if TYPE_CHECKING:
    from PIL import ImageDraw, ImageFont
    from PIL.Image import Image as Picture

Images = NDArray[np.uint8]

COLUMNS = 8
SMALLEST, LARGEST = 160, 256
"""Width of a drawn image in pixels: smaller ones are repeated a whole number of times, larger ones reduced."""
GAP, MARGIN, LABEL = 6, 16, 92
FONT, LINE, MOST_LINES = 18, 22, 4
INK, PALE = (34, 34, 34), (119, 119, 119)


@dataclass(frozen=True)
class Band:
    """Two rows of C images (C, H, W, 3), and captions, each under as many columns as its number says."""

    base: Images
    final: Images
    captions: tuple[tuple[str, int], ...]


def bands(base: Images, final: Images, prompts: Sequence[str]) -> list[Band]:
    """One band of 8 prompts spread evenly for images (P, H, W, 3); one band a prompt for (P, I, H, W, 3).

    Raises:
        ValueError: other shapes, or none at all.
    """
    if base.shape != final.shape or base.ndim not in (4, 5) or len(base) != len(prompts) or not base.size:
        raise ValueError(f"base {base.shape} and trained {final.shape} images of {len(prompts)} prompts do not match.")
    if base.ndim == 5:
        return [Band(base[i], final[i], ((prompt, base.shape[1]),)) for i, prompt in enumerate(prompts)]
    count = min(COLUMNS, len(prompts))
    chosen = [i * len(prompts) // count for i in range(count)]
    return [Band(base[chosen], final[chosen], tuple((prompts[i], 1) for i in chosen))]


def paint(drawn: Sequence[Band]) -> Images:
    """The bands under each other, uint8 (H, W, 3), black on white."""
    from PIL import Image, ImageDraw

    width, height = _tile_size(*drawn[0].base.shape[1:3])
    columns = max(len(band.base) for band in drawn)
    wrapped = [[(_wrap(text, span * (width + GAP) - GAP), span) for text, span in band.captions] for band in drawn]
    heights = [2 * height + GAP + MARGIN + LINE * max(len(lines) for lines, _ in texts) for texts in wrapped]
    canvas = Image.new(
        "RGB",
        (2 * MARGIN + LABEL + columns * (width + GAP) - GAP, MARGIN + sum(heights) + MARGIN * len(drawn)),
        "white",
    )
    pen, top = ImageDraw.Draw(canvas), MARGIN
    for band, texts, used in zip(drawn, wrapped, heights, strict=True):
        for row, (label, images) in enumerate((("base", band.base), ("trained", band.final))):
            y = top + row * (height + GAP)
            pen.text((MARGIN, y + height // 2), label, fill=INK, font=_font(), anchor="lm")
            for column, pixels in enumerate(images):
                canvas.paste(_tile(pixels, width, height), (MARGIN + LABEL + column * (width + GAP), y))
        _write(pen, texts, top + 2 * height + GAP + 8, width)
        top += used + MARGIN
    return np.asarray(canvas, dtype=np.uint8)


def _write(pen: ImageDraw.ImageDraw, texts: Sequence[tuple[list[str], int]], top: int, width: int) -> None:
    column = 0
    for lines, span in texts:
        for row, line in enumerate(lines):
            pen.text((MARGIN + LABEL + column * (width + GAP), top + row * LINE), line, fill=PALE, font=_font())
        column += span


def _tile_size(height: int, width: int) -> tuple[int, int]:
    """The drawn (width, height): whole multiples of small images, so that their pixels stay square and sharp."""
    if width < SMALLEST:
        factor = round(SMALLEST / width)
        return width * factor, height * factor
    reduced = min(width, LARGEST)
    return reduced, max(1, round(height * reduced / width))


def _tile(pixels: Images, width: int, height: int) -> Picture:
    from PIL import Image

    image = Image.fromarray(pixels)
    return image.resize((width, height), Image.Resampling.NEAREST if image.width < width else Image.Resampling.LANCZOS)


def _wrap(text: str, width: int) -> list[str]:
    """Untrusted text as at most MOST_LINES lines of `width` pixels; what does not fit ends in an ellipsis."""
    lines, line = [], ""
    for word in clean_text(text, 400).split():
        for piece in _pieces(word, width):
            joined = f"{line} {piece}" if line else piece
            if line and _font().getlength(joined) > width:
                lines.append(line)
                line = piece
            else:
                line = joined
    lines.append(line)
    if len(lines) <= MOST_LINES:
        return lines
    last = lines[MOST_LINES - 1]
    while last and _font().getlength(f"{last}…") > width:
        last = last[:-1]
    return [*lines[: MOST_LINES - 1], f"{last}…"]


def _pieces(word: str, width: int) -> list[str]:
    """A word cut where it alone is wider than the column."""
    pieces = [""]
    for character in word:
        if pieces[-1] and _font().getlength(pieces[-1] + character) > width:
            pieces.append("")
        pieces[-1] += character
    return pieces


@cache
def _font() -> ImageFont.FreeTypeFont:
    """The typeface that matplotlib brings along: the same picture on every machine."""
    import matplotlib
    from PIL import ImageFont

    return ImageFont.truetype(str(Path(matplotlib.get_data_path(), "fonts", "ttf", "DejaVuSans.ttf")), FONT)
