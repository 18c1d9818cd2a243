"""A few images of a run, for people: its first prompts at some of its points, from full image sets or slim ones.

A bundle and the committed reference results keep slim sets only (`panel-000123` instead of `point-000123`): the first
`PROMPTS` prompts with all their images, and all prompts' texts. Where a run has both, the full sets are read.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from grpo_bench.errors import UserError
from grpo_bench.media import as_shown
from grpo_bench.store.atomic import saving
from grpo_bench.store.run import RunStore

if TYPE_CHECKING:
    from grpo_bench.analysis.grid import Images

PROMPTS = 8
"""Prompts that are shown: the first ones, the same for every run, chosen before anything was seen."""

_SET = re.compile(r"(point|panel)-(\d{6,})")


@dataclass(frozen=True)
class Panel:
    """Images of one point."""

    iteration: int
    prompts: tuple[str, ...]
    """At most `PROMPTS` untrusted texts."""
    images_PIHWC: Images
    """uint8 (prompts, images a prompt, H, W, 3); one noise a place, the same at every point."""


def panels(run_folder: Path, iterations: Sequence[int] | None = None) -> tuple[Panel, ...]:
    """The run's images of its first prompts at these iterations (by default at all that have some), in order.

    An iteration without images is left out; a run without any has no panel.

    Raises:
        UserError: images or prompts are damaged.
    """
    sets = _sets(run_folder)
    chosen = sorted(sets.keys() if iterations is None else sets.keys() & set(iterations))
    if not chosen:
        return ()
    store = RunStore(run_folder)
    prompts = store.load_prompts()
    return tuple(_panel(store, sets[iteration], iteration, prompts) for iteration in chosen)


def first_middle_last(run_folder: Path) -> tuple[Panel, ...]:
    """At most three panels: the first and the last point that have images, and the one halfway between them.

    Raises:
        UserError: images or prompts are damaged.
    """
    stored = sorted(_sets(run_folder))
    places = sorted({0, len(stored) // 2, len(stored) - 1}) if stored else []
    return panels(run_folder, [stored[place] for place in places])


def slim_images(run_folder: Path, target: Path, iterations: Sequence[int] | None = None) -> int:
    """Write slim image sets of a run into the run folder `target` (made where there is none), with all prompts' texts.

    Args:
        iterations: which points; by default the first, the middle and the last one that have images.

    Returns:
        How many sets were written; 0 for a run without images, which then gets no folder of them.

    Raises:
        UserError: images or prompts are damaged, or the disk refuses.
    """
    kept = first_middle_last(run_folder) if iterations is None else panels(run_folder, iterations)
    if not kept:
        return 0
    slim = RunStore(target)
    with saving("images", target):
        target.mkdir(parents=True, exist_ok=True)
    slim.save_prompts(RunStore(run_folder).load_prompts())
    for panel in kept:
        prompts, images, *shape = panel.images_PIHWC.shape
        slim.save_images(
            f"panel-{panel.iteration:06d}", panel.images_PIHWC.reshape(prompts * images, *shape), columns=images
        )
    return len(kept)


def _sets(run_folder: Path) -> dict[int, str]:
    """The image set of each iteration that has one; a full set is preferred to a slim one."""
    folder = run_folder / "images"
    names = sorted(path.name for path in folder.iterdir()) if folder.is_dir() else []
    found = [match for match in map(_SET.fullmatch, names) if match]
    return {int(match[2]): match[0] for match in found}  # panel- sorts before point-, which replaces it


def _panel(store: RunStore, name: str, iteration: int, prompts: Sequence[str]) -> Panel:
    images = as_shown(store.load_images(name))
    rows = len(prompts) if name.startswith("point") else min(PROMPTS, len(prompts))
    if not rows or len(images) % rows:
        raise UserError(
            f"{store.images / name} is damaged: {len(images)} images for {rows} prompts; start the run anew"
        )
    shown = images.reshape(rows, -1, *images.shape[1:])[:PROMPTS]
    return Panel(iteration, tuple(prompts[: len(shown)]), shown)
