"""Where a study's runs come from: machine, versions, commands; and what is missing or could not be read."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping

from grpo_bench.analysis.report.words import NOTHING, Cell, Head, Table, clean
from grpo_bench.analysis.study import Curve, Study


def environment(study: Study) -> Table:
    """Each fact about the machine and the software, with how many runs say so where they do not agree."""
    curves = _curves(study)
    facts: dict[str, Counter[str]] = {}
    for curve in curves:
        for name, value in _facts(curve).items():
            facts.setdefault(name, Counter())[value] += 1
    rows = []
    for name, values in facts.items():
        if len(values) == 1 and values.total() == len(curves):
            text = next(iter(values))
        else:
            text = "; ".join(f"{value} ({count} of {len(curves)} runs)" for value, count in values.most_common(4))
        rows.append((Cell(name), Cell(text)))
    heads = (Head("what", numeric=False), Head("as recorded by the runs", numeric=False))
    return Table(f"Environment of {len(curves)} runs", heads, tuple(rows), labels=False)


def _curves(study: Study) -> list[Curve]:
    parts = (curve for view in study.views for curve in (*view.curves, *view.unfinished, *view.bases, *view.tuning))
    return list({curve.record.run: curve for curve in parts}.values())


def _facts(curve: Curve) -> dict[str, str]:
    record, versions = curve.record, curve.record.versions
    torch, packages = _table(versions.get("torch")), _table(versions.get("packages"))
    variables = _table(versions.get("variables"))
    facts: dict[str, object] = {
        "device": record.device,
        "timed": "yes" if record.timed else "no: it shared its machine, and its seconds compare nothing",
        "CPU": versions.get("cpu"),
        "cores (usable)": versions.get("cpu_usable"),
        "threads of torch": torch.get("threads"),
        "OMP_NUM_THREADS": variables.get("OMP_NUM_THREADS"),
        "memory": _memory(versions.get("memory_bytes")),
        "platform": versions.get("platform"),
        "Python": versions.get("python"),
        **packages,
        "CUDA": torch.get("cuda"),
        "deterministic algorithms": torch.get("deterministic_algorithms"),
        "commit": _commit(versions),
        "rules version": record.rules_version,
        "numerics version": record.numerics_version,
    }
    return {name: clean(value, 120) for name, value in facts.items() if value not in (None, "")}


def _commit(versions: Mapping[str, object]) -> str:
    commit = versions.get("commit")
    if not commit:
        return ""
    return f"{commit} with changes that are not committed" if versions.get("dirty") else str(commit)


def _memory(value: object) -> str:
    return f"{value / 2**30:.0f} GiB" if isinstance(value, int | float) else ""


def _table(value: object) -> dict[str, object]:
    return dict(value) if isinstance(value, dict) else {}


def missing(study: Study) -> Table | None:
    """Cells of the suite that have no run."""
    if not study.missing:
        return None
    heads = (Head("method", numeric=False), Head("seed"), Head("part", numeric=False), Head("reward", numeric=False),
             Head("run", numeric=False))  # fmt: skip
    rows = tuple(
        (
            Cell(cell.label),
            Cell(str(cell.seed), order=cell.seed),
            Cell(cell.part if cell.factor == 1 else f"{cell.part}, rate × {cell.factor:.3g}"),
            Cell(clean(cell.reward)),
            Cell(cell.run),
        )
        for cell in study.missing
    )
    return Table(f"Cells of the suite that have no run yet: {len(rows)}", heads, rows)


def notes(studies: Iterable[Study]) -> tuple[str, ...]:
    """What was left out and why, each said once."""
    return tuple(dict.fromkeys(clean(note) for study in studies for note in study.notes))


def commands(study: Study) -> tuple[str, ...]:
    """What to type to get these runs and this page again."""
    folder = clean(study.folder)
    told = []
    if study.suite:
        told.append(f"grpo-bench sweep suites/{study.suite.suite}.toml --results {folder}")
    else:
        told += [f"grpo-bench run --config {folder}/{curve.record.run}/config.toml" for curve in _curves(study)[:1]]
    return (*told, f"grpo-bench pareto {folder}", f"grpo-bench report {folder} -o report.html")


def digest(study: Study) -> str:
    """The suite file that the runs were made from."""
    return study.suite.digest if study.suite else NOTHING
