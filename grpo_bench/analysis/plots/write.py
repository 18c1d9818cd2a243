"""A study's plots as files: OUT/STUDY/VIEW/NAME.pdf and .png, and beside them data.json with every number drawn.

Collecting is cheap and done first; drawing is most of the time, and can be shared among processes.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from concurrent.futures import Executor
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, get_args

from grpo_bench.analysis.axes import AXES
from grpo_bench.analysis.plots import contrasts, curves, gap, panels, pareto, phases, tuning
from grpo_bench.analysis.plots.style import Format, Styles, encode, house_style
from grpo_bench.palette import label_styles
from grpo_bench.store.atomic import saving, write_bytes, write_text

if TYPE_CHECKING:
    from matplotlib.figure import Figure

    from grpo_bench.analysis.study import Study, View
    from grpo_bench.analysis.summary import ViewSummary
from grpo_bench.analysis.summary import plain as exact

FORMATS: tuple[Format, ...] = get_args(Format)
DIGITS = 10
"""Significant ones of a stored number."""
DATA = "data.json"

Plotted = pareto.Pareto | curves.Curves | phases.Phases | gap.Gap | contrasts.Contrasts | tuning.Tuning | panels.Panels


@dataclass(frozen=True)
class Drawn:
    """What was written, and in a sentence each what was not and why."""

    files: tuple[Path, ...]
    notes: tuple[str, ...]


@dataclass(frozen=True, eq=False)
class _Task:
    """One plot to be drawn, perhaps by another process."""

    path: Path
    """Without a suffix."""
    data: Plotted
    styles: Styles
    formats: tuple[Format, ...]


def draw_studies(
    found: Sequence[tuple[Study, Sequence[ViewSummary]]],
    out: Path,
    formats: Sequence[Format] = FORMATS,
    *,
    pool: Executor | None = None,
) -> Drawn:
    """Draw every plot of the studies that their runs allow, into OUT/STUDY/VIEW; a summary a view, in their order.

    The work is shared by the processes of `pool`, where one is given. Raises `UserError` if the disk refuses.
    """
    files: list[Path] = []
    notes: list[str] = []
    tasks: list[_Task] = []
    for study, summaries in found:
        styles = study_styles(study)
        for view, summary in zip(study.views, summaries, strict=True):
            folder = view_folder(out, study, view)
            with saving("the plots", folder):
                folder.mkdir(parents=True, exist_ok=True)
            plots = collect(view, summary)
            notes += [f"{study.name}/{view.name}: {note}" for note in _notes(view, plots)]
            tasks += [_Task(folder / name, data, styles, tuple(formats)) for name, data in plots.items()]
            files.append(save_data(plot_data(view, summary, plots), folder / DATA))
    written = map(_draw_one, tasks) if pool is None else pool.map(_draw_one, tasks)
    files += [path for paths in written for path in paths]
    return Drawn(tuple(sorted(files)), tuple(notes))


def view_folder(out: Path, study: Study, view: View) -> Path:
    """Where the plots of a view lie."""
    return out / study.name / view.name


def study_styles(study: Study) -> Styles:
    """One style a label, the same in all of the study's views."""
    return label_styles({label: view.method(label) for view in study.views for label in view.all_labels})


def collect(view: View, summary: ViewSummary) -> dict[str, Plotted]:
    """The numbers of each plot that the view's runs allow, by the plot's name."""
    title = view.title
    found: dict[str, Plotted | None] = {}
    for axis in AXES:
        found[f"pareto-{axis}"] = pareto.collect(view, summary, axis, title)
        found[f"curves-{axis}"] = curves.collect(view, summary, axis, title)
    over_nfe = found["curves-nfe"]
    assert over_nfe is None or isinstance(over_nfe, curves.Curves)
    found["phases"] = phases.collect(view, summary, title)
    found["gap"] = gap.collect(over_nfe)
    found["contrasts"] = contrasts.collect(summary, title)
    found["tuning"] = tuning.collect(view, title)
    found["images"] = panels.collect(view, title)
    return {name: data for name, data in found.items() if data is not None}


def plot_data(view: View, summary: ViewSummary, found: Mapping[str, Plotted] | None = None) -> dict[str, object]:
    """Every number drawn, by the plot's name: plain values, rounded, so that a redraw can be compared with a file."""
    drawn = collect(view, summary) if found is None else found
    return {name: plain(data.plotted() if isinstance(data, panels.Panels) else data) for name, data in drawn.items()}


def save_data(data: Mapping[str, object], path: Path) -> Path:
    """Write what `plot_data` gave, a line a plot; raises UserError when the disk refuses."""
    lines = [f"{json.dumps(name)}: {json.dumps(plotted, allow_nan=False)}" for name, plotted in data.items()]
    write_text(path, "{\n" + ",\n".join(lines) + "\n}\n", "the plots' numbers")
    return path


def plain(value: object) -> object:
    """`summary.plain` with floats rounded to DIGITS significant digits."""
    return exact(value, DIGITS)


def _notes(view: View, found: Mapping[str, Plotted]) -> list[str]:
    """A sentence for each plot that a reader may miss."""
    notes = []
    if not view.curves:
        return ["no run is finished, so nothing is drawn"]
    if not view.on("seconds"):
        notes.append("no run was timed, so nothing is drawn over seconds")
    if view.gold_is_proxy:
        notes.append("the runs trained on gold, so there is no gap to draw")
    if "images" not in found:
        notes.append("no images are stored, so there is no panel of them")
    return notes


def warm() -> None:
    """What a fresh process must load before it can draw; worth doing while the runs are being read."""
    import matplotlib.backends.backend_agg
    import matplotlib.backends.backend_pdf
    import matplotlib.figure  # noqa: F401


def _draw_one(task: _Task) -> tuple[Path, ...]:
    with house_style():
        return save_figure(_figure(task.data, task.styles), task.path, task.formats)


def save_figure(figure: Figure, path: Path, formats: Sequence[Format]) -> tuple[Path, ...]:
    """Write a figure as PATH.FORMAT for each of the formats; raises UserError when the disk refuses."""
    written = []
    for form in formats:
        target = path.with_name(f"{path.name}.{form}")
        write_bytes(target, encode(figure, form), "the plot")
        written.append(target)
    return tuple(written)


def _figure(data: Plotted, styles: Styles) -> Figure:
    match data:
        case pareto.Pareto():
            return pareto.draw(data, styles)
        case curves.Curves():
            return curves.draw(data, styles)
        case phases.Phases():
            return phases.draw(data)
        case gap.Gap():
            return gap.draw(data, styles)
        case contrasts.Contrasts():
            return contrasts.draw(data, styles)
        case tuning.Tuning():
            return tuning.draw(data, styles)
        case panels.Panels():
            return panels.draw(data)
