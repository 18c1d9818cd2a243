"""What a study shows, in words and tables: the verdict first, then every label's figures, then what to know of them."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

from rich.box import SIMPLE_HEAD
from rich.table import Table
from rich.text import Text

from grpo_bench.analysis.axes import TITLES, Axis
from grpo_bench.analysis.coverage import measured_coverage
from grpo_bench.analysis.means import means
from grpo_bench.analysis.report.verdict import NO_VERDICT, below_floor, differences_cover, mean_sentence
from grpo_bench.analysis.report.words import many
from grpo_bench.analysis.words import FEWEST_SEEDS
from grpo_bench.terminal.tables import stdout_console
from grpo_bench.terminal.text import NOTHING, count, duration, plain

if TYPE_CHECKING:
    from collections.abc import Sequence

    from rich.console import Console

    from grpo_bench.analysis.contrasts import Contrast
    from grpo_bench.analysis.statistics import Estimate
    from grpo_bench.analysis.study import Study
    from grpo_bench.analysis.summary import AxisSummary, MethodSummary, Stretch, ViewSummary

WIDTH = 160
WORDS = {
    "better": "bold green", "worse": "bold red", "gain": "green", "loss": "red", "exploratory": "dim",
}  # fmt: skip
MOST_LEADERS = 3
"""On one axis, named in turn."""
SHOWN = 12
"""Missing cells and ended runs named one by one."""


def frontier_console() -> Console:
    """Stdout, wide enough for the tables: a terminal that is not breaks lines itself, and no number is cut."""
    console = stdout_console()
    console.width = max(console.width, WIDTH)
    return console


def print_study(study: Study, summaries: Sequence[ViewSummary], axis: Axis, console: Console) -> None:
    """A study: for each view its verdict, its tables over `axis`, and what qualifies them."""
    title = f": {study.title}" if study.title not in ("", study.name) else ""
    console.print(Text.assemble(plain(study.name, "bold cyan", 64), plain(title, limit=200)), soft_wrap=True)
    if not any(summary.methods for summary in summaries):
        console.print(Text(f"No run of {study.name} is finished, so there is nothing to compare yet.\n"))
    for summary in summaries:
        _print_view(summary, axis, console)
    for mean in means(study, summaries):
        console.print(plain(mean_sentence(mean)), soft_wrap=True)
    for line in study_notes(study):
        console.print(plain(line), soft_wrap=True)
    console.print()


def _print_view(summary: ViewSummary, axis: Axis, console: Console) -> None:
    where = f"{summary.workload}, reward {summary.reward}, {summary.protocol} protocol, tier {summary.tier}"
    console.print()
    console.print(plain(where, "bold"), soft_wrap=True)
    if summary.methods:
        for line in verdict(summary, axis):
            console.print(plain(line), soft_wrap=True)
        if summary.contrasts:
            _print_table(f"Gold at the full budget less {summary.baseline}'s, by seed", _contrasts(summary), console)
        _print_table("Gold, held out, at the budget", _gains(summary.methods), console)
        _print_table(f"Area under the curve over {axis}, and what was spent (medians)", _costs(summary, axis), console)
        if summary.choices:
            _print_table("Every label at the learning rate that its own trials chose", _rates(summary), console)
    for line in (*qualifications(summary, axis), *ended_lines(summary)):
        console.print(plain(line, "dim"), soft_wrap=True)


def verdict(summary: ViewSummary, axis: Axis) -> list[str]:
    """What the primary contrasts decide, and who is on the frontier, over `axis` in full and the others in short."""
    lines = _decided(summary)
    for found in summary.axes:
        if found.axis == axis:
            lines += [_stretch(stretch, axis) for stretch in found.frontier]
    others = [f"{one.axis}: {_leaders(one)}" for one in summary.axes if one.axis != axis]
    if others:
        lines.append(f"Highest mean gold over {'; over '.join(others)}.")
    return lines


def _decided(summary: ViewSummary) -> list[str]:
    """One sentence a verdict that the primary contrasts have reached."""
    primary = [contrast for contrast in summary.contrasts if contrast.primary]
    if not primary:
        return ["No primary contrast was named, so every comparison below is exploratory."]
    base = primary[0].baseline
    groups = {
        "better": f"Better than {base} in gold at the full budget",
        "better, correctness not shown": f"Better than {base}, and not shown to be more often correct",
        "better in appeal only": f"Better than {base} in appeal only",
        "worse": f"Worse than {base} in gold at the full budget",
        "no difference that matters": f"No difference from {base} that matters (margin {primary[0].margin:.3f})",
        "not shown to differ": f"Not shown to differ from {base}",
        **{word: f"No verdict against {base}, since {reason}" for word, reason in NO_VERDICT.items()},
        "too few seeds": f"Too few seeds to compare with {base} (fewer than {FEWEST_SEEDS} in common)",
        "exploratory": f"One learning rate for all decides nothing (RULES.md, section 3); less {base}",
    }
    lines = []
    for word, sentence in groups.items():
        named = [_named(contrast) for contrast in primary if contrast.verdict == word]
        if named:
            lines.append(f"{sentence}: {', '.join(named)}.")
    return lines


def _named(contrast: Contrast) -> str:
    name, decided = contrast.decided_by
    p = "" if math.isnan(decided) else f", {name} {_p(decided)}"
    return f"{contrast.label} ({_signed(contrast.difference.mean)}{p})"


def _stretch(stretch: Stretch, axis: Axis) -> str:
    first, last = _amount(stretch.first), _amount(stretch.last)
    costs = f"at {last} {axis}" if first == last else f"from {first} to {last} {axis}"
    ahead = f"ahead in {stretch.ahead} of {stretch.seeds} common seeds at its end"
    lead = f", {_bracket(stretch.margin, signed=True)} over {stretch.runner_up}" if stretch.runner_up else ""
    return f"Frontier {costs}: {stretch.label}, {ahead}{lead}."


def _leaders(found: AxisSummary) -> str:
    """The leaders in order of cost; the last with its seeds."""
    names = [stretch.label for stretch in found.frontier]
    last = found.frontier[-1]
    ahead = f"ahead in {last.ahead} of {last.seeds} seeds at the cut"
    if len(names) > MOST_LEADERS:
        return f"{last.label} ({ahead}, after {len(names) - 1} changes of the lead)"
    return f"{', then '.join(names)} ({ahead})"


def _contrasts(summary: ViewSummary) -> Table:
    other = "these prompts, this noise" if summary.two_way else "Bonferroni"
    equal = any(math.isfinite(one.equivalence_p) for one in summary.contrasts)
    tests = ("Holm's p", "of equivalence") if equal else ("Holm's p",)
    table = _table(
        "seeds", "difference [95%]", f"[{other}]", *tests, "permutation p (floor)", "correlation", word="verdict"
    )
    for one in summary.contrasts:
        result = one.result
        low, high = result.bonferroni if one.two_way is None else (result.difference.low, result.difference.high)
        shown = one.primary or one.two_way is not None
        wide = f"[{_signed(low)}, {_signed(high)}]" if shown and not math.isnan(low) else NOTHING
        floor = NOTHING
        if not math.isnan(result.permutation_p):
            floor = f"{_p(result.permutation_p)} ({_p(result.permutation_floor)})"
        tested = (_p(one.holm_p), _p(one.equivalence_p)) if equal else (_p(one.holm_p),)
        cells = (
            str(one.seeds), _bracket(one.difference, signed=True), wide, *tested, floor,
            _number(result.correlation, 2),
        )  # fmt: skip
        verdict = Text(one.verdict, style=WORDS.get(one.verdict, ""))
        table.add_row(plain(one.label, limit=64), verdict, *map(Text, cells))
    return table


def _gains(methods: Sequence[MethodSummary]) -> Table:
    table = _table("seeds", "gold [95%]", "gain [95%]", "proxy gain", word="learned")
    for one in methods:
        cells = (str(len(one.seeds)), _bracket(one.gold), _bracket(one.gain, signed=True), _signed(one.proxy_gain.mean))
        learned = Text(one.learned, style=WORDS.get(one.learned, ""))
        table.add_row(plain(one.label, limit=64), learned, *map(Text, cells))
    return table


def _costs(summary: ViewSummary, axis: Axis) -> Table:
    """The area under the curve over the axis, and what the runs spent."""
    compared = [f"less {summary.baseline}'s [95%]"] if summary.baseline else []
    table = _table("area [95%]", *compared, "nfe", "reward calls", "updates", "seconds")
    for one in summary.methods:
        cells = [_bracket(one.area[axis]) if axis in one.area else NOTHING]
        if summary.baseline:
            difference = one.area_difference.get(axis)
            cells.append(_bracket(difference, signed=True) if difference else NOTHING)
        cells += [count(one.costs.get(name, math.nan)) for name in ("nfe", "reward_calls", "updates")]
        cells.append(duration(one.costs["seconds"]) if "seconds" in one.costs else "shared")
        table.add_row(plain(one.label, limit=64), *map(Text, cells))
    return table


def _rates(summary: ViewSummary) -> Table:
    """What each label's trials chose, what the proxy alone would have, and how sensitive the label is to its rate."""
    table = _table("rate", "factor", "by the proxy", "gain of the best", "of x1", "least", "trials", "nfe", word="")
    for one in summary.choices:
        choice = one.choice
        gains = {float(factor): gain for factor, gain in choice.gains.items() if gain is not None}
        best = math.nan if choice.best_gain is None else choice.best_gain
        cells = (
            f"{one.rate:.3g}" if math.isfinite(one.rate) else NOTHING,
            _factor(choice.factor) if choice.bracketed else f"{_factor(choice.factor)} (not bracketed)",
            _factor(choice.proxy_factor), _signed(best), _signed(gains.get(1.0, math.nan)),
            _signed(min(gains.values(), default=math.nan)), str(one.trials), count(one.nfe),
        )  # fmt: skip
        table.add_row(plain(choice.label, limit=64), *map(Text, cells))
    return table


def _factor(factor: float | None) -> str:
    return NOTHING if factor is None else f"{factor:.3g}"


def qualifications(summary: ViewSummary, axis: Axis) -> list[str]:
    """What a reader of the figures must know: where they are cut, what noise alone does, what intervals cover."""
    lines = []
    for one in summary.axes:
        if one.axis == axis:
            lines.append(
                f"Over {TITLES[axis]} the view is cut at {_amount(one.cut)}, the least that any of its "
                f"{many(one.runs, 'run')} spent."
            )
    if summary.methods and not any(one.axis == axis for one in summary.axes):
        why = "none had its device to itself" if axis == "seconds" else "one spent none between two of its points"
        lines.append(f"Nothing of this view may be read over {axis}: {why}.")
    untimed = next((one.untimed for one in summary.axes if one.axis == "seconds"), 0)
    if untimed:
        lines.append(f"In no figure over seconds, because they shared their device: {many(untimed, 'run')}.")
    if summary.floor:
        lines.append(
            f"Noise floor: {summary.floor.evaluations} evaluations of the untrained base lie up to "
            f"{summary.floor.gold:.4f} apart in gold ({summary.floor.share:.4f} as a hypervolume); no smaller change "
            "is called a gain."
        )
        lines += [line for line in (below_floor(summary),) if line]
    elif summary.methods and not summary.two_way:
        lines.append("Noise floor: not measured; it takes evaluations of the untrained base under other noise.")
    lines += _coverage(summary)
    if summary.methods and not summary.frozen:
        lines.append("The references of hypervolume and targets come from these runs: no suite froze them.")
    return lines


def _coverage(summary: ViewSummary) -> list[str]:
    """What the intervals above cover, for each number of seeds in the tables."""
    lines = []
    if summary.two_way:
        lines.append(f"Differences, for other seeds and prompts: {differences_cover(summary)}.")
    for seeds in sorted({len(one.seeds) for one in summary.methods}):
        known = measured_coverage(seeds)
        if known is not None:
            lines.append(f"Intervals at {seeds} seeds: {known.sentence}.")
    return lines


def ended_lines(summary: ViewSummary) -> list[str]:
    """The runs that did not finish, with their reasons."""
    named = [
        f"{one.label} seed {one.seed} {_ended(one.status)}{f': {one.reason}' if one.reason else ''} ({one.run})"
        for one in summary.ended
    ]
    if not named:
        return []
    return [f"In no mean, because unfinished: {many(len(named), 'run')}.", *_most(named)]


def _ended(status: str) -> str:
    return {"running": "is running", "interrupted": "was interrupted"}.get(status, status)


def study_notes(study: Study) -> list[str]:
    """Missing cells, and what was left out and why."""
    lines = []
    if study.missing:
        named = [f"{cell.label} seed {cell.seed}" for cell in study.missing]
        more = f" and {len(named) - SHOWN} more" if len(named) > SHOWN else ""
        lines.append(f"Not yet run: {many(len(named), 'cell')} of the suite: {', '.join(named[:SHOWN])}{more}.")
    return [*lines, *_most(list(study.notes))]


def _most(lines: Sequence[str]) -> list[str]:
    more = [f"and {len(lines) - SHOWN} more"] if len(lines) > SHOWN else []
    return [*(f"  {line}" for line in lines[:SHOWN]), *more]


def _table(*headings: str, word: str = "") -> Table:
    """A table whose first column is labels and whose others are numbers.

    What is said of each label in a word stands beside it: a narrow terminal folds what is further on.
    """
    table = Table(box=SIMPLE_HEAD, pad_edge=False, padding=(0, 1))
    table.add_column("", overflow="fold")
    if word:
        table.add_column(word)
    for heading in headings:
        table.add_column(plain(heading, limit=80), justify="right")
    return table


def _print_table(title: str, table: Table, console: Console) -> None:
    console.print()
    console.print(plain(title), soft_wrap=True)
    console.print(table)


def _bracket(estimate: Estimate, *, signed: bool = False) -> str:
    """`0.601 [0.584, 0.619]`; without an interval the mean alone."""
    show = _signed if signed else _number
    if math.isnan(estimate.low):
        return show(estimate.mean)
    return f"{show(estimate.mean)} [{show(estimate.low)}, {show(estimate.high)}]"


def _number(number: float, digits: int = 3) -> str:
    return f"{number:.{digits}f}" if math.isfinite(number) else NOTHING


def _signed(number: float) -> str:
    return f"{number:+.3f}" if math.isfinite(number) else NOTHING


def _p(number: float) -> str:
    if math.isnan(number):
        return NOTHING
    return "<0.001" if number < 0.001 else f"{number:.3f}"


def _amount(number: float) -> str:
    return f"{number:,.0f}" if number >= 100 else f"{number:.3g}"
