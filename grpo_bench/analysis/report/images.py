"""Images of the median seed of every label, inlined: the first, the middle and the last point, eight prompts."""

from __future__ import annotations

import base64
import io
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
from markupsafe import Markup

from grpo_bench.analysis.panels import Panel, first_middle_last
from grpo_bench.analysis.report.words import clean, listed
from grpo_bench.errors import UserError

if TYPE_CHECKING:
    from grpo_bench.analysis.grid import Images
    from grpo_bench.analysis.study import View

MOST_BYTES = 8_000_000
"""Of all images of a report together, as they stand in the file."""
SIDES = (256, 192, 128, 96, 64, 48)
"""Widths that are tried, until the images fit."""
SMALL = 64
"""Up to this width images are stored exactly (PNG), beyond as JPEG."""


@dataclass(frozen=True)
class Picture:
    """One image as a data URI, which is ours and may be longer than foreign text."""

    source: Markup
    alt: str


@dataclass(frozen=True)
class Strip:
    """A row: one label at one point, an image a prompt."""

    label: str
    """Empty for the row of the untrained base, which all labels share."""
    when: str
    pictures: tuple[Picture, ...]


@dataclass(frozen=True)
class Gallery:
    """The images of a view."""

    prompts: tuple[str, ...]
    strips: tuple[Strip, ...]
    remarks: tuple[str, ...]
    """What is not shown, and why."""


@dataclass(frozen=True, eq=False)
class _Row:
    label: str
    when: str
    alt: str
    prompts: tuple[str, ...]
    images_PHWC: Images
    untrained: bool = False


def gallery(view: View, most_bytes: int) -> Gallery:
    """The view's images in at most `most_bytes` characters, smaller where they would not fit; damage is named."""
    rows: list[_Row] = []
    without, remarks = [], []
    for label in view.labels:
        run = view.median(label)
        try:
            shown = first_middle_last(run.folder)
        except UserError as error:
            remarks.append(clean(error))
            continue
        if not shown:
            without.append(label)
            continue
        rows += _rows(label, run.seed, shown)
    if without:
        remarks.append(f"No images were stored of {listed(without)}." if rows else "No images were stored.")
    rows = _base_once(rows)
    if not rows:
        return Gallery((), (), tuple(remarks))
    strips = _fitting(rows, most_bytes)
    if not strips:
        remarks.append("The images are left out: even small ones would make this file too large.")
    return Gallery(rows[0].prompts, strips, tuple(remarks))


def _rows(label: str, seed: int, shown: Sequence[Panel]) -> list[_Row]:
    """The first image of every prompt: one noise at all points and for all labels."""
    rows = []
    for place, panel in enumerate(shown):
        prompts = tuple(clean(prompt, 200) for prompt in panel.prompts)
        name = "first point" if place == 0 else "last point" if panel is shown[-1] else "middle point"
        when = f"seed {seed}, {name}, {panel.iteration} iterations"
        rows.append(_Row(label, when, f"{label}, {when}", prompts, panel.images_PIHWC[:, 0], panel.iteration == 0))
    return rows


def _base_once(rows: list[_Row]) -> list[_Row]:
    """Every label's first point is the same untrained base under the same noise: then it is shown once, on top."""
    first = [row for row in rows if row.untrained]
    if len(first) < 2 or not all(np.array_equal(row.images_PHWC, first[0].images_PHWC) for row in first):
        return rows
    base = first[0]
    once = _Row("", "first point, the same for all", "the untrained base", base.prompts, base.images_PHWC)
    return [once, *(row for row in rows if row not in first)]


def _fitting(rows: Sequence[_Row], most_bytes: int) -> tuple[Strip, ...]:
    largest = max(row.images_PHWC.shape[2] for row in rows)
    for side in (min(largest, SIDES[0]), *(side for side in SIDES[1:] if side < largest)):
        strips = tuple(_strip(row, side) for row in rows)
        if sum(len(picture.source) for strip in strips for picture in strip.pictures) <= most_bytes:
            return strips
    return ()


def _strip(row: _Row, side: int) -> Strip:
    pictures = (
        Picture(data_uri(image, side), f"{prompt}: {row.alt}")
        for image, prompt in zip(row.images_PHWC, row.prompts, strict=True)
    )
    return Strip(row.label, row.when, tuple(pictures))


def data_uri(image_HWC: Images, side: int) -> Markup:
    """An image at most `side` wide: exact where it is small, else as JPEG."""
    from PIL import Image

    picture = Image.fromarray(image_HWC)
    if picture.width > side:
        height = max(1, round(picture.height * side / picture.width))
        picture = picture.resize((side, height), Image.Resampling.LANCZOS)
    sink = io.BytesIO()
    if picture.width <= SMALL:
        picture.save(sink, format="PNG", optimize=True)
        kind = "png"
    else:
        picture.save(sink, format="JPEG", quality=85, optimize=True)
        kind = "jpeg"
    return inlined(sink.getvalue(), kind)


def inlined(data: bytes, kind: str) -> Markup:
    """A picture's file as a data URI."""
    return Markup(f"data:image/{kind};base64,{base64.b64encode(data).decode('ascii')}")
