"""The command line: parse, call, print. Every command's work is done elsewhere; nothing heavy is imported up here."""

from __future__ import annotations

import logging
import os
import sys
from contextlib import suppress
from enum import StrEnum
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, NoReturn

import typer
from typer.core import TyperCommand, TyperGroup

from grpo_bench import __version__
from grpo_bench.builtin import BASELINE, PREFERENCE
from grpo_bench.commands.bundle import bundle, verify
from grpo_bench.commands.claims import claims
from grpo_bench.commands.compare import compare
from grpo_bench.commands.diagnose import diagnose
from grpo_bench.commands.options import (
    ConfigFile,
    Device,
    Plugins,
    Recipe,
    Results,
    Sets,
    Steps,
    Workload,
    load_plugins,
    print_json,
    results_folder,
    say_given_twice,
)
from grpo_bench.commands.pareto import pareto
from grpo_bench.commands.report import report
from grpo_bench.commands.sweep import sweep
from grpo_bench.errors import PluginFailed, UserError, nearest, out_of_memory, reason
from grpo_bench.guard import interrupted_in, supervised
from grpo_bench.isolated.commands import app as rewards_app
from grpo_bench.scaffold.commands import app as new_app
from grpo_bench.terminal.streams import OutputLost, watched_streams
from grpo_bench.workloads.pretraining.designs import DESIGNS

if TYPE_CHECKING:
    from grpo_bench.config import Table
    from grpo_bench.training.run import Outcome

# Results go to stdout, everything else to stderr; no library may phone home or chat.
for _name, _value in {
    "HF_HUB_DISABLE_TELEMETRY": "1",
    "RAY_USAGE_STATS_ENABLED": "0",
    "TRANSFORMERS_VERBOSITY": "error",
    "DIFFUSERS_VERBOSITY": "error",
    # Threads wait for each other by spinning, 300,000 rounds unless told otherwise. Beside any other busy process that
    # makes a run 40 times slower (52 instead of 2,100 NFE/s, measured); a short spin costs an idle machine nothing.
    "GOMP_SPINCOUNT": "20000",
}.items():
    os.environ.setdefault(_name, _value)

EXIT_FAILED, EXIT_USER_ERROR, EXIT_DIVERGED, EXIT_INTERRUPTED = 1, 2, 3, 130


class _Commands(TyperGroup):
    """Commands, any of which may call plugins: what those raise to end the program does not end it in silence."""

    def resolve_command(  # type: ignore[override]
        self, ctx: typer.Context, args: list[str]
    ) -> tuple[str | None, object, list[str]]:
        """Find the command, and say which option is given twice that has one value."""
        name, command, rest = super().resolve_command(ctx, args)
        if isinstance(command, TyperCommand):
            say_given_twice(command, ctx, rest)
        return name, command, rest

    def invoke(self, ctx: typer.Context) -> object:  # type: ignore[override]
        """Run the command; it leaves by typer's own `Exit`, and by no SystemExit of its own."""
        try:
            return super().invoke(ctx)
        except SystemExit as error:
            raise PluginFailed(f"a plugin ended the program by SystemExit({error.code!r})") from error
        except KeyboardInterrupt as error:
            _leave(f"interrupted{interrupted_in(error)}", EXIT_INTERRUPTED)


app = typer.Typer(
    name="grpo-bench",
    cls=_Commands,
    help="Which online-RL method buys the most reward for a diffusion or flow model, per unit of cost?",
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"]},
)
RUN, RESULTS, BUILD = "Run", "Results", "Build and mend"


class Kind(StrEnum):
    """What `list` lists."""

    METHODS = "methods"
    REWARDS = "rewards"
    WORKLOADS = "workloads"
    RECIPES = "recipes"


def _version(value: bool) -> None:
    if value:
        typer.echo(f"grpo-bench {__version__}")
        raise typer.Exit


@app.callback()
def _options(
    version: Annotated[
        bool, typer.Option("--version", callback=_version, is_eager=True, help="Print the version and exit.")
    ] = False,
) -> None:
    """Options before any command."""


@app.command(rich_help_panel=RUN)
def run(
    method: Annotated[str | None, typer.Option(help="Registered method (grpo-bench list methods).")] = None,
    reward: Annotated[str | None, typer.Option(help="Reward to train on, or NAME:WEIGHT,NAME:WEIGHT.")] = None,
    workload: Workload = None,
    model: Annotated[str | None, typer.Option(help="Folder or hub id of a diffusers pipeline.")] = None,
    prompts: Annotated[Path | None, typer.Option(help="Prompt file: one a line, CSV, TSV, JSON or JSONL.")] = None,
    seed: Annotated[int | None, typer.Option(min=0, help="Seed of prompts, noise and windows.")] = None,
    budget: Annotated[
        str | None,
        typer.Option(help="KIND=AMOUNT: nfe, rollout-nfe, reward-calls, updates, seconds or iterations."),
    ] = None,
    steps: Steps = None,
    recipe: Recipe = None,
    config: ConfigFile = None,
    set_: Sets = None,
    device: Device = None,
    plugin: Plugins = None,
    results: Results = None,
    again: Annotated[bool, typer.Option("--again", help="Run anew even if this run is finished.")] = False,
    resume: Annotated[str | None, typer.Option(help="Go on with an unfinished run (its name or folder).")] = None,
    untimed: Annotated[bool, typer.Option("--untimed", help="The device is shared: no plot over seconds.")] = False,
    log: Annotated[str | None, typer.Option(help="Also log to: tensorboard.")] = None,
    quiet: Annotated[bool, typer.Option("--quiet", "-q", help="Print one JSON line only.")] = False,
    verbose: Annotated[bool, typer.Option("--verbose", "-v", help="Log what happens to stderr.")] = False,
) -> None:
    """Train a model with one method, measure it, and store the run."""
    from grpo_bench.resolve import flags, resolve

    typed = {"--method": method, "--reward": reward, "--workload": workload, "--model": model, "--prompts": prompts,
             "--seed": seed, "--budget": budget, "--steps": steps, "--recipe": recipe, "--config": config,
             "--set": set_, "--device": device, "--again": again or None}  # fmt: skip
    _log_to_stderr(verbose)
    load_plugins(plugin)
    if resume is not None:
        given = [flag for flag, value in typed.items() if value]
        if given:
            raise UserError(f"--resume goes on with the run's own settings, so {given[0]} cannot be given with it")
        resolved = None
    else:
        over = flags(method=method, reward=reward, workload=workload, model=model, prompts=prompts, seed=seed,
                     budget=budget, steps=steps, device=device)  # fmt: skip
        resolved = resolve(over, recipe, config, set_)
    from grpo_bench.terminal.running import carry_out

    folder = results_folder(results)
    outcome = carry_out(resolved, resume, folder, again=again, timed=not untimed, log=log, quiet=quiet)
    _finish(outcome, quiet=quiet)


@app.command("list", rich_help_panel=RUN)
def list_(
    kind: Annotated[Kind, typer.Argument(help="What to list.")],
    plugin: Plugins = None,
    verbose: Annotated[bool, typer.Option("--verbose", "-v", help="Versions and import errors too.")] = False,
) -> None:
    """List what is installed: name, one line, paper, where it came from."""
    from grpo_bench import registry
    from grpo_bench.config import recipes
    from grpo_bench.terminal.tables import print_entries, print_recipes, stdout_console

    load_plugins(plugin)
    if kind is Kind.RECIPES:
        print_recipes(recipes(), stdout_console())
        return
    entries = {
        Kind.METHODS: registry.METHODS.entries,
        Kind.REWARDS: registry.REWARDS.entries,
        Kind.WORKLOADS: registry.WORKLOADS.entries,
    }[kind]()
    print_entries(kind.value, entries, verbose=verbose, console=stdout_console())


@app.command(rich_help_panel=RUN)
def plan(
    method: Annotated[list[str], typer.Argument(help="Registered method; several with --compare.")],
    compare: Annotated[bool, typer.Option("--compare", help="Several side by side; --set NAME.KEY=V for one.")] = False,
    steps: Steps = None,
    workload: Workload = None,
    recipe: Recipe = None,
    config: ConfigFile = None,
    set_: Sets = None,
    plugin: Plugins = None,
    seed: Annotated[int | None, typer.Option(min=0, help="Seed of random windows.")] = None,
    baseline: Annotated[str, typer.Option(help="Method to compare one method's costs with.")] = BASELINE,
    png: Annotated[Path | None, typer.Option(help="Also draw the forest into this picture.")] = None,
    json: Annotated[bool, typer.Option("--json", help="Print the costs a prompt as one JSON line only.")] = False,
) -> None:
    """Draw a method's forest and print its exact costs a prompt, or those of several; runs nothing."""
    from grpo_bench.registry import METHODS
    from grpo_bench.resolve import flags, resolve
    from grpo_bench.terminal.tables import comparison_json, plan_json, print_comparison, print_plan, stdout_console
    from grpo_bench.training.preview import check_names, check_shared, own_settings, preview

    load_plugins(plugin)
    check_names(method, compare=compare, recipe=recipe)
    resolved = [
        resolve(flags(method=name, steps=steps, workload=workload, seed=seed), recipe, config,
                own_settings(set_ or [], name, method) if compare else set_)
        for name in method
    ]  # fmt: skip
    if compare:
        check_shared(resolved)
    METHODS.get(baseline)
    sketches = [preview(one) for one in resolved]
    if png is not None:
        from grpo_bench.forest.picture import draw_png

        draw_png(sketches, png)
    if json:
        print_json(comparison_json(sketches) if compare else plan_json(sketches[0]))
        return
    if compare:
        print_comparison(sketches, console=stdout_console())
    else:
        other = resolved[0].model_copy(update={"method": type(resolved[0].method)(name=baseline)})
        print_plan(sketches[0], preview(other), console=stdout_console())
    if png is not None:
        typer.echo(f"picture: {png}")


@app.command(rich_help_panel=RESULTS)
def sample(
    run: Annotated[str, typer.Argument(help="A run's name or folder.")],
    prompt: Annotated[list[str], typer.Option(help="What to draw. Repeatable.")],
    images: Annotated[int, typer.Option(min=1, help="Images a prompt.")] = 4,
    seed: Annotated[int, typer.Option(min=0, help="Seed of the noise, the same for both policies.")] = 0,
    out: Annotated[Path | None, typer.Option(help="Picture to write; default: into the run's folder.")] = None,
    plugin: Plugins = None,
    results: Results = None,
) -> None:
    """Images from a run's base and its trained policy, side by side, from the same noise."""
    from grpo_bench.analysis.pictures import image_grid
    from grpo_bench.store.run import RunStore

    load_plugins(plugin)
    store = RunStore.open(run, results_folder(results))
    from grpo_bench.evaluation.compare import compare
    from grpo_bench.training.prepare import pick_device
    from grpo_bench.training.run import check_base, stored_config
    from grpo_bench.training.session import load_policy

    config = stored_config(store)
    check_base(store.record, config)
    policy = load_policy(config, pick_device())
    base, trained = compare(store, config, policy, tuple(prompt), images=images, seed=seed)
    path = out or store.folder / "sample.png"
    image_grid(base, trained, prompt, path)
    typer.echo(f"picture: {path}")


@app.command(rich_help_panel=RESULTS)
def score(
    run: Annotated[str, typer.Argument(help="A run's name or folder.")],
    reward: Annotated[str, typer.Option(help="Held-out rewards: NAME,NAME.")],
    set_: Sets = None,
    plugin: Plugins = None,
    results: Results = None,
    json: Annotated[bool, typer.Option("--json", help="Print the scores as one JSON line only.")] = False,
) -> None:
    """Score a run's stored images with rewards it did not train on; adds columns, and never overwrites one."""
    from grpo_bench.config import merge, parse_set
    from grpo_bench.store.run import RunStore
    from grpo_bench.terminal.scores import print_scores, scores_json
    from grpo_bench.terminal.tables import stdout_console
    from grpo_bench.terminal.waiting import waiting

    _log_to_stderr(False)
    load_plugins(plugin)
    store = RunStore.open(run, results_folder(results))
    tables: Table = {}
    for assignment in set_ or []:
        tables = merge(tables, parse_set(assignment))
    with waiting("loading", quiet=json) as show:
        from grpo_bench.evaluation.rescore import rescore, score_section
        from grpo_bench.training.prepare import pick_device
        from grpo_bench.training.run import stored_config

        names, section = score_section(reward, tables)
        report = rescore(store, stored_config(store), names, section, pick_device(), show)
    if json:
        print_json(scores_json(store, report))
    else:
        print_scores(store, report, stdout_console())


@app.command(rich_help_panel=BUILD)
def check(
    method: Annotated[str | None, typer.Argument(help="Registered method; default: those of --plugin.")] = None,
    all_: Annotated[bool, typer.Option("--all", help="Check every registered method.")] = False,
    fast: Annotated[bool, typer.Option("--fast", help="Closed forms only, in 10 s a method.")] = False,
    set_: Sets = None,
    plugin: Plugins = None,
    json: Annotated[bool, typer.Option("--json", help="Print the findings as one JSON line only.")] = False,
) -> None:
    """Check a method's mathematics and say what it breaks: ratios, credit, gradients, cost, ascent, resume, source.

    Exit code 1 if a check fails. The source is read, not confined: this finds mistakes and shortcuts, not malice.
    """
    from time import perf_counter

    from grpo_bench.terminal.verdict import (
        findings_json,
        print_finding,
        print_heading,
        print_summary,
        print_verdict,
        verdict_console,
    )

    _log_to_stderr(False)
    defined = load_plugins(plugin)
    from grpo_bench.conformance.choose import subjects, verdict

    console, results = verdict_console(quiet=json), {}
    for subject in subjects(method, everything=all_, defined=defined, sets=set_ or [], fast=fast):
        print_heading(subject.name, console)
        started = perf_counter()
        results[subject.name] = verdict(subject, lambda finding: print_finding(finding, console))
        print_verdict(results[subject.name], perf_counter() - started, console)
    if json:
        print_json({name: findings_json(found) for name, found in results.items()})
    elif len(results) > 1:
        print_summary(results, console)
    if any(finding.passed is False for found in results.values() for finding in found):
        raise typer.Exit(EXIT_FAILED)


@app.command(rich_help_panel=BUILD)
def doctor(
    results: Results = None,
    json: Annotated[bool, typer.Option("--json", help="Print findings and facts as one JSON line only.")] = False,
) -> None:
    """Say what is installed and cached, what cannot work, and the command that mends it. Fails with exit code 1."""
    from grpo_bench.doctor.diagnosis import diagnose
    from grpo_bench.doctor.probes import examine
    from grpo_bench.terminal.health import health_json, print_health
    from grpo_bench.terminal.tables import stdout_console
    from grpo_bench.terminal.waiting import waiting

    with waiting("importing everything once, in another process", quiet=json):
        facts = examine(results_folder(results))
    findings = diagnose(facts)
    if json:
        print_json(health_json(facts, findings))
    else:
        print_health(findings, stdout_console())
    if any(finding.mark == "fail" for finding in findings):
        raise typer.Exit(EXIT_FAILED)


MODELS = (*DESIGNS, PREFERENCE)
"""What `pretrain` makes."""


@app.command(rich_help_panel=BUILD)
def pretrain(
    model: Annotated[str, typer.Argument(help=f"Shipped model to make: {', '.join(MODELS)}.")],
    output: Annotated[Path | None, typer.Option(help="New folder; default: MODEL-model.")] = None,
    steps: Annotated[int | None, typer.Option(min=1, help="Training steps; default: the shipped model's.")] = None,
    seed: Annotated[int, typer.Option(min=0, help="Seed of data and weights.")] = 0,
) -> None:
    """Make a shipped model again, from rendered captions."""
    if model not in MODELS:
        raise UserError(f"no shipped model is named {model!r}; {nearest(model, MODELS)}")
    from grpo_bench.terminal.display import show_pretraining

    print_json(show_pretraining(model, output or Path(f"{model}-model"), steps=steps, seed=seed))


for _command in (sweep, diagnose, pareto, report, claims, compare, bundle, verify):
    app.command(_command.__name__, rich_help_panel=RUN if _command in (sweep, diagnose) else RESULTS)(_command)
app.add_typer(new_app, name="new", rich_help_panel=BUILD)
app.add_typer(rewards_app, name="rewards", rich_help_panel=BUILD)


def main() -> NoReturn:
    """The `grpo-bench` program, in a process that is watched: a plugin that ends it is told of."""
    supervised(program)


def program() -> NoReturn:
    """All of it in this process: user errors are one sentence on stderr and exit code 2."""
    try:
        with watched_streams():
            app()
    except (UserError, PluginFailed) as error:
        logging.getLogger(__name__).info("its traceback", exc_info=error)  # seen with --verbose
        _leave(str(error), EXIT_USER_ERROR if isinstance(error, UserError) else EXIT_FAILED)
    except OutputLost as error:
        _leave(str(error), EXIT_FAILED)
    except Exception as error:
        if not out_of_memory(error):
            raise
        _leave(f"there is not the memory for it ({reason(error)}); ask for less", EXIT_FAILED)
    sys.exit(0)


def _leave(said: str, code: int) -> NoReturn:
    """One sentence on stderr, and the exit code."""
    from grpo_bench.store.names import clean_text

    with suppress(OSError):
        print(f"grpo-bench: {clean_text(said, 2000)}", file=sys.stderr, flush=True)  # noqa: T201
    sys.exit(code)


def _log_to_stderr(verbose: bool) -> None:
    logger = logging.getLogger("grpo_bench")
    logger.setLevel(logging.INFO)
    logger.propagate = False
    handler = logging.StreamHandler()
    handler.setLevel(logging.INFO if verbose else logging.WARNING)
    logger.addHandler(handler)


def _finish(outcome: Outcome, *, quiet: bool) -> None:
    """Print the result and leave with the status's exit code."""
    from grpo_bench.analysis.pictures import draw_outcome
    from grpo_bench.store.names import clean_text
    from grpo_bench.terminal.tables import outcome_json, print_outcome, stdout_console

    record = outcome.record
    if outcome.store.rows():
        try:
            draw_outcome(outcome.store)
        except UserError as error:  # a disk that is full, or that nobody may write: the result is there all the same
            typer.echo(f"grpo-bench: its pictures cannot be drawn: {clean_text(str(error))}", err=True)
    if quiet:
        print_json(outcome_json(outcome.store, fresh=outcome.fresh))
    else:
        print_outcome(outcome.store, stdout_console())
        if not outcome.fresh:
            typer.echo(
                f"This run had already ended ({record.status}); this is its stored result. Run it anew with --again."
            )
    codes = {"done": 0, "diverged": EXIT_DIVERGED, "interrupted": EXIT_INTERRUPTED}
    raise typer.Exit(codes.get(record.status, EXIT_FAILED))
