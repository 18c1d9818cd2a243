"""`grpo-bench report`: all that a folder's runs say, as one HTML file to send."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer


def report(
    folder: Annotated[Path, typer.Argument(metavar="DIR", help="Folder of runs, or of such folders.")],
    out: Annotated[Path, typer.Option("--out", "-o", help="The file to write.")] = Path("report.html"),
    diagnosis: Annotated[
        list[Path] | None, typer.Option(help="A file of `diagnose`, shown beside its workload's runs. Repeatable.")
    ] = None,
) -> None:
    """Write one HTML file: verdict, tables, interactive figures, images, fairness; it needs no network."""
    from grpo_bench.analysis.report.page import write_report
    from grpo_bench.terminal.waiting import waiting

    with waiting("writing the report", quiet=False):
        size = write_report(folder, out, diagnosis or ())
    typer.echo(f"{out} ({size / 1e6:.1f} MB)")
