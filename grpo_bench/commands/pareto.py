"""`grpo-bench pareto`: who is on the frontier, in words, tables and plots."""

from __future__ import annotations

import os
from collections.abc import Sequence
from concurrent.futures import BrokenExecutor
from contextlib import ExitStack
from enum import StrEnum
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from grpo_bench.commands.options import Plugins, load_plugins, print_json
from grpo_bench.errors import UserError, nearest

if TYPE_CHECKING:
    from concurrent.futures import Executor, Future

    from grpo_bench.analysis.plots.style import Format
    from grpo_bench.analysis.study import Study, View
    from grpo_bench.analysis.summary import ViewSummary
    from grpo_bench.forest.sketch import Sketch

    Summarised = tuple[Study, Sequence[ViewSummary]]


MOST_PROCESSES = 8


class Cost(StrEnum):
    """What a table is over (`analysis.axes.AXES`)."""

    NFE = "nfe"
    ROLLOUT_NFE = "rollout-nfe"
    REWARD_CALLS = "reward-calls"
    UPDATES = "updates"
    SECONDS = "seconds"


def pareto(
    folder: Annotated[Path, typer.Argument(metavar="DIR", help="Folder of runs, or of such folders.")],
    cost: Annotated[Cost, typer.Option(help="What the tables are over; plots are drawn over all.")] = Cost.NFE,
    out: Annotated[Path | None, typer.Option("--out", "-o", help="Folder for the plots; default: DIR/plots.")] = None,
    formats: Annotated[str, typer.Option("--format", help="Of the plots: pdf, png or both.")] = "pdf,png",
    references: Annotated[
        bool, typer.Option("--references", help="Print references measured from these runs, for a suite's file.")
    ] = False,
    plugin: Plugins = None,
    json: Annotated[bool, typer.Option("--json", help="Print every figure as one JSON line.")] = False,
) -> None:
    """Say who is on the Pareto frontier and how sure that is, and draw it over every cost."""
    from grpo_bench.analysis.study import studies
    from grpo_bench.analysis.summary import summaries
    from grpo_bench.store.names import clean_text
    from grpo_bench.store.run import PLOTS
    from grpo_bench.terminal.waiting import waiting

    chosen = _formats(formats)
    load_plugins(plugin)
    with ExitStack() as stack:
        pool = None if references else stack.enter_context(_processes())
        with waiting("reading the runs", quiet=json):
            found = [(study, summaries(study)) for study in studies(folder)]
        if references:
            typer.echo(_references([view for study, _ in found for view in study.views]), nl=False)
            return
        target = out or folder / PLOTS
        if not json:
            _print(found, cost)
        try:
            with waiting("drawing", quiet=json):
                notes = _draw(found, target, chosen, pool)
        except BrokenExecutor as error:
            raise UserError(
                "a process that draws was killed, often for want of memory; close what else runs, and try again"
            ) from error
    if json:
        print_json([_json(study, summaries) for study, summaries in found])
        return
    for note in notes:
        typer.echo(f"not drawn: {clean_text(note)}")
    typer.echo(f"plots: {target}")


def _processes() -> Executor:
    """As many processes as there are usable cores, which load what drawing needs while the runs are being read."""
    from concurrent.futures import ProcessPoolExecutor
    from multiprocessing import get_context

    from grpo_bench.analysis.plots import warm

    usable = getattr(os, "sched_getaffinity", None)
    cores = len(usable(0)) if usable else os.cpu_count() or 1
    pool = ProcessPoolExecutor(
        min(cores, MOST_PROCESSES), mp_context=get_context("spawn"), initializer=_end_with_parent
    )
    pool.submit(warm)
    return pool


def _end_with_parent() -> None:
    """Let a process end as soon as the command does, however that ended: a killed one cannot tell its processes."""
    import threading
    from multiprocessing import parent_process

    parent = parent_process()

    def wait() -> None:
        if parent is not None:
            parent.join()
            os._exit(1)

    threading.Thread(target=wait, daemon=True).start()


def _draw(found: Sequence[Summarised], out: Path, formats: Sequence[Format], pool: Executor | None) -> list[str]:
    """Draw the plots and the forests; a sentence for each that cannot be drawn."""
    from grpo_bench.analysis.plots import draw_studies, view_folder

    notes: list[str] = []
    forests: list[Future[None]] = []
    for study, _ in found:
        for view in study.views:
            sketches = _sketches(study, view, notes)
            if sketches and pool:
                path = view_folder(out, study, view) / "forests"
                forests.append(pool.submit(_draw_forests, sketches, path, tuple(formats)))
    drawn = draw_studies(found, out, formats, pool=pool)
    for forest in forests:
        forest.result()
    return [*drawn.notes, *notes]


def _print(found: Sequence[Summarised], cost: Cost) -> None:
    from grpo_bench.terminal.frontier import frontier_console, print_study

    console = frontier_console()
    for study, summaries in found:
        print_study(study, summaries, cost.value, console)


def _json(study: Study, summaries: Sequence[ViewSummary]) -> dict[str, object]:
    from dataclasses import asdict

    from grpo_bench.analysis.means import means
    from grpo_bench.analysis.summary import plain, to_json

    missing = [{"label": cell.label, "seed": cell.seed, "run": cell.run} for cell in study.missing]
    return {
        "study": study.name,
        "title": study.title,
        "suite": study.suite.digest if study.suite else None,
        "missing": missing,
        "notes": list(study.notes),
        "views": [to_json(summary) for summary in summaries],
        "means": [plain(asdict(mean)) for mean in means(study, summaries)],
    }


def _formats(text: str) -> tuple[Format, ...]:
    """The formats that were asked for, each once."""
    from grpo_bench.analysis.plots import FORMATS

    words = list(dict.fromkeys(word.strip().lower() for word in text.split(",")))
    for word in words:
        if word not in FORMATS:
            raise UserError(f"--format takes {' and '.join(FORMATS)}, not {word!r}; {nearest(word, FORMATS)}")
    return tuple(form for form in FORMATS if form in words)


def _references(views: Sequence[View]) -> str:
    """TOML to paste into a suite: a table for each workload and reward, from the controlled runs where there are any.

    Raises:
        UserError: two studies have runs of one workload and reward, or no run is finished.
    """
    from grpo_bench.analysis.reading import measured_references

    blocks: dict[str, str] = {}
    owners: dict[str, View] = {}
    for view in views:  # controlled views come first
        key = f"{view.workload}/{view.reward}"
        if not view.curves or (key in owners and owners[key].protocol != view.protocol):
            continue
        if key in blocks:
            raise UserError(f"several studies here have runs of {key}; give the folder of one of them")
        owners[key] = view
        measured = measured_references(view)
        costs = ", ".join(f"{axis} = {_toml(cost)}" for axis, cost in measured.costs.items())
        targets = ", ".join(f"{name} = {_toml(gold)}" for name, gold in measured.targets.items())
        blocks[key] = (
            f'[references."{key}"]\nbase = {_toml(measured.base)}\nbest = {_toml(measured.best)}\n'
            f"costs = {{ {costs} }}\ntargets = {{ {targets} }}\n"
        )
    if not blocks:
        raise UserError("no run here is finished, so there is nothing to take references from; run the suite first")
    return "\n".join(blocks.values())


def _toml(number: float) -> str:
    """Six significant digits, as a TOML float."""
    text = f"{float(f'{number:.6g}')!r}"
    return text if any(sign in text for sign in ".en") else f"{text}.0"


def _draw_forests(sketches: Sequence[Sketch], path: Path, formats: Sequence[Format]) -> None:
    """The forests side by side, as files named `path` with a suffix."""
    from grpo_bench.analysis.plots.style import encode, house_style
    from grpo_bench.forest.picture import forest_figure
    from grpo_bench.store.atomic import saving, write_bytes

    with saving("the plots", path.parent):
        path.parent.mkdir(parents=True, exist_ok=True)
    with house_style():
        figure = forest_figure(sketches)
        for form in formats:
            write_bytes(path.with_suffix(f".{form}"), encode(figure, form), "the forests")


def _sketches(study: Study, view: View, notes: list[str]) -> list[Sketch]:
    """The first forest of each label; labels of one method whose forests are alike share one."""
    from dataclasses import replace

    from grpo_bench.config import RunConfig, validated
    from grpo_bench.training.preview import preview

    titles: dict[bytes, list[str]] = {}
    sketches: dict[bytes, Sketch] = {}
    for label in view.labels:
        try:
            config = validated(RunConfig, view.of(label)[0].config)
            sketch = preview(config.model_copy(update={"seed": 0}))
        except UserError as error:
            notes.append(f"{study.name}/{view.name}: the forest of {label} ({error})")
            continue
        key = _shape(sketch)
        sketches.setdefault(key, sketch)
        titles.setdefault(key, []).append(label)
    return [replace(sketch, title=", ".join(titles[key])) for key, sketch in sketches.items()]


def _shape(sketch: Sketch) -> bytes:
    """What a picture of the forest shows: its method, its edges and which of them are trained."""
    forest = sketch.forest
    arrays = (forest.parent_N, forest.stochastic_N, forest.trained_N, sketch.kept_N)
    return b"|".join([sketch.name.encode(), *(array.tobytes() for array in arrays)])
