"""results/README.md from the reference results: every figure in it is computed from stored points. One JSON line.

    python benchmarks/findings.py [--write]

The text is results/README.md.jinja; `--write` renders it. tests/test_reference_findings.py fails when the two differ.
"""

from __future__ import annotations

import argparse
import json
import math
from pathlib import Path

import jinja2

from grpo_bench.analysis.axes import Axis
from grpo_bench.analysis.claims import judge, read_claims
from grpo_bench.analysis.coverage import measured_coverage
from grpo_bench.analysis.statistics import Estimate, Paired, paired, t_interval
from grpo_bench.analysis.study import Curve, Study, View, studies
from grpo_bench.analysis.summary import ViewSummary, summarise

ROOT = Path(__file__).parent.parent
REFERENCE = ROOT / "results" / "reference"
TEMPLATE, PAGE = ROOT / "results" / "README.md.jinja", ROOT / "results" / "README.md"


def signed(estimate: Estimate) -> str:
    """`+0.208 (+0.170 to +0.246)`."""
    if math.isnan(estimate.low):
        return f"{estimate.mean:+.3f}"
    return f"{estimate.mean:+.3f} ({estimate.low:+.3f} to {estimate.high:+.3f})"


def p_value(p: float) -> str:
    """A p value in two digits; nothing where there is none."""
    return "" if math.isnan(p) else f"{p:.2g}"


def render(reference: Path = REFERENCE) -> str:
    """The page.

    Raises:
        UserError: a reference folder is missing or damaged.
    """
    folder = {study.name: study for study in studies(reference)}
    main, timed = folder["shapes"], folder["shapes-timed"]
    controlled, paper = (summary(main, protocol) for protocol in ("controlled", "paper"))
    environment = jinja2.Environment(
        undefined=jinja2.StrictUndefined, trim_blocks=True, lstrip_blocks=True, keep_trailing_newline=True
    )
    environment.filters |= {"signed": signed, "p": p_value}
    return environment.from_string(TEMPLATE.read_text(encoding="utf-8")).render(
        main=main,
        controlled=controlled,
        paper=paper,
        timed=summary(timed, "controlled"),
        claims=judge(read_claims().claim, list(folder.values())),
        coverage=measured_coverage,
        between=lambda one, other: pair(main, one, other).difference,
        correlation=lambda one, other: pair(main, one, other).correlation,
        place=lambda label, axis: place(controlled, label, axis),
        setting=lambda label, key: of(main, label)[0].table("method")[key],
        tuning={factor: ranking(controlled, factor) for factor in sorted({row.factor for row in controlled.tuning})},
        gap=lambda label: gap(main, label),
        tuned=lambda label, factor: next(
            row.gain.mean for row in controlled.tuning if row.label == label and round(row.factor, 2) == factor
        ),
        each=lambda label, factor: sorted(
            curve.gain()
            for curve in controlled_view(main).tuning
            if curve.label == label and round(curve.factor, 2) == factor
        ),
    )


def summary(study: Study, protocol: str) -> ViewSummary:
    """The figures of a study's view."""
    return next(summarise(view) for view in study.views if view.protocol == protocol)


def controlled_view(study: Study) -> View:
    """The study's runs under equal settings."""
    return next(view for view in study.views if view.protocol == "controlled")


def of(study: Study, label: str) -> tuple[Curve, ...]:
    """A label's runs under equal settings."""
    return controlled_view(study).of(label)


def pair(study: Study, one: str, other: str) -> Paired:
    """Two labels' final gold, on the seeds that both have: exploratory."""
    finals = [{curve.seed: curve.final("gold") for curve in of(study, label)} for label in (one, other)]
    seeds = sorted(finals[0].keys() & finals[1].keys())
    return paired(*([final[seed] for seed in seeds] for final in finals))


def place(summary: ViewSummary, label: str, axis: Axis) -> int:
    """A label's place by mean gold where the view over an axis is cut."""
    ranked = sorted(summary.methods, key=lambda method: -method.gold_at[axis].mean)
    return 1 + [method.label for method in ranked].index(label)


def gap(study: Study, label: str) -> Estimate:
    """How much more a label's proxy rose than its gold."""
    return t_interval([curve.gain("proxy") - curve.gain() for curve in of(study, label)])


def ranking(summary: ViewSummary, factor: float) -> str:
    """Labels by gain at a learning rate's factor, best first."""
    rows = sorted((row for row in summary.tuning if row.factor == factor), key=lambda row: -row.gain.mean)
    return ", ".join(f"{row.label} {row.gain.mean:+.3f}" for row in rows)


def main() -> None:
    """Print whether the page is what the points give; write it if asked."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--write", action="store_true", help="write results/README.md")
    page = render()
    if parser.parse_args().write:
        PAGE.write_text(page, encoding="utf-8")
    same = PAGE.is_file() and PAGE.read_text(encoding="utf-8") == page
    print(json.dumps({"page": str(PAGE.relative_to(ROOT)), "characters": len(page), "up_to_date": same}))


if __name__ == "__main__":
    main()
