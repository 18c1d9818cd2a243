"""`grpo-bench diagnose`: how good each method's gradient is for what it costs, and where the reward is decided."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from grpo_bench.commands.options import Device, Plugins, Results, Sets, load_plugins, print_json, results_folder
from grpo_bench.errors import UserError, nearest

if TYPE_CHECKING:
    from collections.abc import Mapping

    from grpo_bench.analysis.study import View
    from grpo_bench.config import RunConfig
    from grpo_bench.sweeping.suite import Suite

FOLDER = Path("results/diagnosis")


def diagnose(
    workload: Annotated[str, typer.Argument(help="Registered workload, such as shapes.")],
    methods: Annotated[str, typer.Option(help="Labels of the suite, or methods: NAME,NAME.")],
    suite: Annotated[
        str | None, typer.Option(help="Suite that has the labels; default: the shipped one named as the workload.")
    ] = None,
    reward: Annotated[str | None, typer.Option(help="Differentiable reward that is trained on.")] = None,
    policy: Annotated[
        str | None, typer.Option(help="A run (name or folder) whose last policy is taken; default: the base.")
    ] = None,
    potential: Annotated[
        bool, typer.Option("--potential/--no-potential", help="Where the reward is decided, too.")
    ] = True,
    seed: Annotated[int, typer.Option(min=0, help="Seed of prompts and noise.")] = 0,
    runs: Annotated[
        Path | None,
        typer.Option(help="Folder of the suite's runs: figures beside their gains, and who leads at what price."),
    ] = None,
    plots: Annotated[
        Path | None, typer.Option(help="Folder of figures; default: the data's name without .json.")
    ] = None,
    out: Annotated[
        Path | None, typer.Option("--out", "-o", help="Data; default results/diagnosis/WORKLOAD.json.")
    ] = None,
    set_: Sets = None,
    device: Device = None,
    plugin: Plugins = None,
    results: Results = None,
    json: Annotated[bool, typer.Option("--json", help="Print the figures as one JSON line only.")] = False,
) -> None:
    """Measure gradient quality and exploration potential at one policy; what is stored already is not done again."""
    from grpo_bench.terminal.diagnosis import diagnosis_json, print_diagnosis
    from grpo_bench.terminal.tables import stdout_console
    from grpo_bench.terminal.waiting import waiting

    load_plugins(plugin)
    configs = label_configs(workload, methods, suite, reward, set_ or [], seed=seed, device=device)
    path = out or FOLDER / f"{workload}.json"
    with waiting("loading", quiet=json) as show:
        from grpo_bench.gradients.diagnose import diagnose as measure
        from grpo_bench.store.run import RunStore

        run = None if policy is None else RunStore.open(policy, results_folder(results))
        diagnosis, found = measure(configs, path, run, potential=potential, told=show)
    view, ranks, drawn = None, None, None
    if runs is not None or plots is not None:
        from grpo_bench.analysis.plots.diagnosis import draw_diagnosis, ranks_at

        view = None if runs is None else _view(runs, workload, diagnosis.reward)
        ranks = ranks_at(found, view) if view else None
        drawn = draw_diagnosis(diagnosis, view, plots or path.with_suffix(""))
    if json:
        print_json(diagnosis_json(found, view, ranks))
        return
    print_diagnosis(found, view, ranks, stdout_console())
    typer.echo(f"data: {path}")
    if drawn is not None:
        typer.echo("\n".join([*(f"plot: {file}" for file in drawn.files), *drawn.notes]))


def _view(folder: Path, workload: str, reward: str) -> View:
    """The runs of a results folder that go with a diagnosis: of equal settings, not a paper's own.

    Raises:
        UserError: there are none, or several such suites.
    """
    from grpo_bench.analysis.study import studies

    views = [view for study in studies(folder) for view in study.views]
    fitting = [
        view for view in views if (view.workload, view.reward) == (workload, reward) and view.protocol != "paper"
    ]
    if len(fitting) != 1:
        raise UserError(
            f"{folder} has {len(fitting)} sets of runs on {workload} with reward {reward}, and one is wanted; give the "
            "folder of one suite"
        )
    return fitting[0]


def label_configs(
    workload: str,
    methods: str,
    suite: str | None,
    reward: str | None,
    sets: list[str],
    *,
    seed: int,
    device: str | None,
) -> Mapping[str, RunConfig]:
    """The settings of each label that was named, as the suite or else the recipe `controlled` has them.

    Raises:
        UserError: an unknown workload, suite, label or method, or one label twice.
    """
    from grpo_bench.registry import WORKLOADS
    from grpo_bench.sweeping.suite import find_suite, load_suite, shipped

    WORKLOADS.get(workload)
    named = suite or (workload if workload in shipped() else None)
    read = load_suite(find_suite(named)) if named else None
    labels = [label.strip() for label in methods.split(",")]
    for label in labels:
        if labels.count(label) > 1:
            raise UserError(f"--methods has {label!r} {labels.count(label)} times; name each once")
    return {label: _config(read, workload, label, reward, sets, seed=seed, device=device) for label in labels}


def _config(
    suite: Suite | None,
    workload: str,
    label: str,
    reward: str | None,
    sets: list[str],
    *,
    seed: int,
    device: str | None,
) -> RunConfig:
    from grpo_bench.config import RunConfig, merge, parse_set, validated
    from grpo_bench.registry import METHODS
    from grpo_bench.resolve import flags, resolve
    from grpo_bench.sweeping.cells import label_config

    trained = dict(reversed(suite.scenes)).get(workload) if suite is not None else None
    over = flags(reward=reward, seed=seed, device=device)
    for assignment in sets:
        over = merge(over, parse_set(assignment))
    if suite is not None and label in suite.methods:
        if trained is None:
            raise UserError(f"suite {suite.name!r} has no workload {workload!r}; {nearest(workload, suite.workloads)}")
        config = label_config(suite, workload, reward or trained, label)
        return validated(RunConfig, merge(config.model_dump(exclude_none=True), over))
    known = [entry.name for entry in METHODS.entries()]
    if label not in known:
        raise UserError(
            f"no method or label is named {label!r}; {nearest(label, {*known, *(suite.methods if suite else ())})}"
        )
    own = flags(method=label, workload=workload, reward=trained)
    return resolve(merge(own, over), "controlled", None, None)
