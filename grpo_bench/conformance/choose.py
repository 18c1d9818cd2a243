"""Which methods `grpo-bench check` looks at, from its arguments; and the check of one, whatever is wrong with it."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence

from grpo_bench.config import Table, merge, parse_set, validated
from grpo_bench.conformance.finding import Finding
from grpo_bench.conformance.subject import Subject
from grpo_bench.conformance.suite import check_method
from grpo_bench.errors import UserError
from grpo_bench.registry import METHODS
from grpo_bench.sampling.kernels import check_kernel

SECTIONS = ("method", "sampling")


def subjects(
    method: str | None, *, everything: bool, defined: Sequence[str], sets: Sequence[str], fast: bool
) -> list[Subject]:
    """The named method, all of them, or those that the given plugins define.

    Raises:
        UserError: none or too much is named, an unknown name or setting, or a plugin that cannot be imported.
    """
    if everything and (method is not None or sets):
        raise UserError("--all checks every method as it comes, so give it no method and no --set")
    settings, sampling = _settings(sets)
    if everything:
        return [Subject(name, fast=fast) for name in METHODS.names()]
    names = [method] if method is not None else [name for name in defined if name in METHODS.names()]
    if not names:
        raise UserError("check needs a method; name one (grpo-bench list methods), or give --all or --plugin FILE")
    if settings and len(names) > 1:
        raise UserError(f"--set belongs to one method, but the plugin defines {', '.join(names)}; name one")
    chosen = [Subject(name, settings, sampling, fast=fast) for name in names]
    for subject in chosen:
        check_kernel(subject.config().sampling.kernel, "velocity")
        validated(
            subject.kind.Config, settings, "method"
        )  # an unknown name or setting is the person's error, not the method's
    return chosen


def verdict(subject: Subject, show: Callable[[Finding], None]) -> list[Finding]:
    """Every finding, shown as it is made. A method that cannot be loaded fails, and hides no other."""
    found: list[Finding] = []
    try:
        for finding in check_method(subject):
            found.append(finding)
            show(finding)
    except UserError as error:
        found.append(Finding("load", False, str(error)))
        show(found[-1])
    return found


def _settings(sets: Sequence[str]) -> tuple[Mapping[str, object], Mapping[str, object]]:
    """The tables [method] and [sampling] of `--set`."""
    table: Table = {}
    for assignment in sets:
        table = merge(table, parse_set(assignment))
    for name, value in table.items():
        if name not in SECTIONS or not isinstance(value, dict):
            raise UserError(f"check takes settings of method.* and sampling.* only, not {name!r}; leave it out")
    method, sampling = (table.get(name, {}) for name in SECTIONS)
    assert isinstance(method, dict) and isinstance(sampling, dict)
    if "name" in method:
        raise UserError("method.name is given as check's argument, not by --set")
    return method, sampling
