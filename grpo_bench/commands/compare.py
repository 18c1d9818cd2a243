"""`grpo-bench compare`: two runs side by side."""

from __future__ import annotations

from typing import Annotated

import typer

from grpo_bench.commands.options import Results, print_json, results_folder


def compare(
    run_a: Annotated[str, typer.Argument(metavar="RUN_A", help="A run's name or folder.")],
    run_b: Annotated[str, typer.Argument(metavar="RUN_B", help="Another's.")],
    results: Results = None,
    json: Annotated[bool, typer.Option("--json", help="Print the comparison as one JSON line only.")] = False,
) -> None:
    """Two runs side by side: settings, what was equal, scores, and gold at equal cost; one seed each."""
    from grpo_bench.analysis.comparison import compare_runs
    from grpo_bench.store.run import RunStore
    from grpo_bench.terminal.compared import compared_json, print_compared
    from grpo_bench.terminal.tables import stdout_console

    folder = results_folder(results)
    found = compare_runs(RunStore.open(run_a, folder), RunStore.open(run_b, folder))
    if json:
        print_json(compared_json(found))
    else:
        print_compared(found, stdout_console())
