"""`grpo-bench new`: writes the first files of a plugin."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

app = typer.Typer(help="Write the first files of your own plugin.", no_args_is_help=True)


@app.callback()
def _kinds() -> None:
    """What to write comes first, so that other kinds can follow."""


@app.command()
def method(
    name: Annotated[str, typer.Argument(help="The method's name, such as late-noise.")],
    output: Annotated[Path, typer.Option(help="Folder of the two files.")] = Path(),
) -> None:
    """A small method that runs and passes `check` as it is, and its test: for you to change."""
    from grpo_bench.scaffold.writer import new_method, what_next

    typer.echo(what_next(new_method(name, output)))
