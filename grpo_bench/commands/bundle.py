"""`grpo-bench bundle` and `grpo-bench verify`: results as one file that can be sent, and checked."""

from __future__ import annotations

from enum import StrEnum
from pathlib import Path
from typing import Annotated

import typer

from grpo_bench.commands.options import print_json


class Images(StrEnum):
    """Of which runs images are taken."""

    MEDIAN = "median"
    ALL = "all"
    NONE = "none"


def bundle(
    folder: Annotated[Path, typer.Argument(metavar="DIR", help="Folder of runs, or of such folders.")],
    out: Annotated[Path | None, typer.Option("--out", "-o", help="Zip to write; default: DIR's name.zip.")] = None,
    images: Annotated[Images, typer.Option(help="Of the median seed's runs, of all, or none.")] = Images.MEDIAN,
) -> None:
    """Pack a folder's points, configs, suites and a few images into one zip, with hashes and every figure."""
    from grpo_bench.bundles.write import write_bundle
    from grpo_bench.terminal.bundles import print_bundled
    from grpo_bench.terminal.tables import stdout_console

    path = out or Path(f"{folder.resolve().name or 'results'}.zip")
    print_bundled(write_bundle(folder, path, images.value), stdout_console())


def verify(
    file: Annotated[Path, typer.Argument(metavar="FILE.zip", help="A bundle.")],
    json: Annotated[bool, typer.Option("--json", help="Print what was found as one JSON line only.")] = False,
) -> None:
    """Check a bundle: nothing is unpacked to the disk, and every figure is computed again from the points.

    Exit code 1 if something does not fit, 2 if the file is no bundle at all.
    """
    from grpo_bench.bundles.verify import verify_bundle
    from grpo_bench.terminal.bundles import print_verified, verified_json
    from grpo_bench.terminal.tables import stdout_console

    found = verify_bundle(file)
    if json:
        print_json(verified_json(found))
    else:
        print_verified(found, stdout_console())
    if found.problems:
        raise typer.Exit(1)
