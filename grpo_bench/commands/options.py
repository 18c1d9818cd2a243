"""Options and small steps that commands share."""

from __future__ import annotations

import json
import os
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer
from typer.core import TyperOption

from grpo_bench.store.names import clean_text

if TYPE_CHECKING:
    from typer.core import TyperCommand

Plugins = Annotated[list[str] | None, typer.Option("--plugin", help="A .py file or module that defines methods.")]
Sets = Annotated[list[str] | None, typer.Option("--set", help="KEY=VALUE, such as method.group=16. Repeatable.")]
Results = Annotated[Path | None, typer.Option(help="Folder of runs; default $GRPO_BENCH_RESULTS, else ./results/runs.")]
Workload = Annotated[str | None, typer.Option(help="What to train on: model, prompts, judge, budget.")]
Recipe = Annotated[str | None, typer.Option(help="Start from a paper's settings (grpo-bench list recipes).")]
ConfigFile = Annotated[Path | None, typer.Option("--config", help="TOML file of settings, laid over the recipe.")]
Device = Annotated[str | None, typer.Option(help="cpu or cuda; default: cuda where torch sees it.")]
Steps = Annotated[int | None, typer.Option(help="Transitions from noise to image.")]

SETTINGS = {"--method": "method.name", "--reward": "reward.name", "--model": "model.path", "--steps": "sampling.steps",
            "--workload": "workload", "--prompts": "prompts", "--seed": "seed", "--device": "device"}  # fmt: skip
"""The setting that an option is short for; `--budget` names its own."""


def say_given_twice(command: TyperCommand, ctx: typer.Context, words: Sequence[str]) -> None:
    """Say on standard error which setting is given several times, as an option, by --set or as both, and what stands.

    Of one option the last, as in any shell tool, and --set over an option. What else is wrong with the words, the
    command says.
    """
    from collections import Counter

    own = type(ctx)(command, info_name=command.name, parent=ctx)
    try:
        values, _, order = command.make_parser(own).parse_args(args=list(words))
    except Exception:
        return
    options = [one for one in order if isinstance(one, TyperOption) and not one.multiple and not one.is_flag]
    for option, times in Counter(options).items():
        if times > 1:
            said = clean_text(str(values[option.name or ""]), 80)
            typer.echo(f"grpo-bench: {option.opts[0]} is given {times} times; the last stands: {said}", err=True)
    pairs = [str(word).partition("=") for word in values.get("set_") or ()]
    last = {key.strip(): clean_text(value, 80) for key, _, value in pairs}
    for key, times in Counter(key.strip() for key, _, _ in pairs).items():
        if times > 1:
            said = clean_text(key, 80)
            typer.echo(f"grpo-bench: --set {said} is given {times} times; the last stands: {last[key]}", err=True)
    for option in {one.opts[0]: one for one in options}.values():
        key = SETTINGS.get(option.opts[0], "")
        if key in last:
            typer.echo(f"grpo-bench: --set {key}={last[key]} stands over {option.opts[0]}", err=True)


def results_folder(results: Path | None) -> Path:
    """`--results`, else the environment's, else ./results/runs."""
    return results or Path(os.environ.get("GRPO_BENCH_RESULTS") or "results/runs")


def load_plugins(plugins: list[str] | None) -> list[str]:
    """The names of the methods and rewards that the plugins define."""
    from grpo_bench.registry import load_plugin

    return [name for plugin in plugins or [] for name in load_plugin(plugin)]


def print_json(value: object) -> None:
    """One line of JSON on stdout."""
    typer.echo(json.dumps(value))
