"""`grpo-bench rewards`: makes, removes and shows the environments of rewards that need packages of their own."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated

import typer

from grpo_bench.errors import UserError, nearest

if TYPE_CHECKING:
    from grpo_bench.isolated.environment import Environment

app = typer.Typer(help="Environments of rewards that need packages of their own.", no_args_is_help=True)

Name = Annotated[str, typer.Argument(help="A reward that has an environment of its own (grpo-bench rewards status).")]
Plugins = Annotated[list[str] | None, typer.Option("--plugin", help="A .py file or module that defines rewards.")]


@app.command()
def install(name: Name, plugin: Plugins = None) -> None:
    """Make a reward's environment in the data folder, from files that pin every hash. Needs a network, and minutes."""
    from grpo_bench.isolated import environment as environments

    environment = _environment(name, plugin)
    standing = environments.state(name, environment) is environments.State.INSTALLED
    folder = environments.install(name, environment, lambda step: typer.echo(f"{name}: {step}", err=True))
    typer.echo(f"{name}: {'was installed already' if standing else 'installed'} in {folder}")


@app.command()
def uninstall(name: Name, plugin: Plugins = None) -> None:
    """Remove a reward's environment."""
    from grpo_bench.isolated import environment as environments

    _environment(name, plugin)
    removed = environments.uninstall(name)
    typer.echo(f"{name}: {'removed' if removed else 'was not installed'}")


@app.command()
def status(
    name: Annotated[str | None, typer.Argument(help="One reward; default: all that have an environment.")] = None,
    plugin: Plugins = None,
    json: Annotated[bool, typer.Option("--json", help="One JSON line only, with all versions.")] = False,
) -> None:
    """Show which environments are installed, where, and how large they are."""
    from grpo_bench.isolated import environment as environments

    chosen = {name: _environment(name, plugin)} if name else _environments(plugin)
    found = {one: environments.describe(one, environment) for one, environment in chosen.items()}
    if json:
        from json import dumps

        typer.echo(dumps(found))
        return
    for one, facts in found.items():
        size = f", {facts['bytes'] / 1e9:.1f} GB" if isinstance(facts["bytes"], int) and facts["bytes"] else ""
        typer.echo(f"{one}: {facts['state']}{size} ({facts['folder']})")


def _environments(plugins: list[str] | None) -> dict[str, Environment]:
    """The environments of all registered rewards, by the reward's name."""
    from grpo_bench.isolated.environment import Environment
    from grpo_bench.registry import REWARDS, load_plugin

    for plugin in plugins or []:
        load_plugin(plugin)
    kinds = {entry.name: REWARDS.get(entry.name) for entry in REWARDS.entries() if entry.error is None}
    declared = {name: getattr(kind, "environment", None) for name, kind in kinds.items()}
    return {name: environment for name, environment in declared.items() if isinstance(environment, Environment)}


def _environment(name: str, plugins: list[str] | None) -> Environment:
    known = _environments(plugins)
    if name not in known:
        raise UserError(f"no reward with an environment of its own is named {name!r}; {nearest(name, known)}")
    return known[name]
