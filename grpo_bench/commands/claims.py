"""`grpo-bench claims`: what a folder's runs say of published sentences."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from grpo_bench.commands.options import print_json


def claims(
    folder: Annotated[Path, typer.Argument(metavar="DIR", help="Folder of runs, or of such folders.")],
    file: Annotated[Path | None, typer.Option("--file", help="TOML of claims; default: the shipped ones.")] = None,
    json: Annotated[bool, typer.Option("--json", help="Print the verdicts as one JSON line only.")] = False,
) -> None:
    """Judge published claims by stored runs: reproduced, refuted or inconclusive, or the direction at a lower tier."""
    from grpo_bench.analysis.claims import SHIPPED, judge, read_claims
    from grpo_bench.analysis.study import studies
    from grpo_bench.terminal.claims import claims_json, print_claims
    from grpo_bench.terminal.tables import stdout_console

    found = studies(folder)
    for note in (note for study in found for note in study.notes):
        typer.echo(f"grpo-bench: {note}", err=True)
    judged = judge(read_claims(file or SHIPPED).claim, found)
    if json:
        print_json(claims_json(judged))
    else:
        print_claims(judged, stdout_console())
