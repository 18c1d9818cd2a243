"""Reads requirements such as `torch>=2.6,<3` without `packaging`, which may be what is missing."""

from __future__ import annotations

import operator
import re
from collections.abc import Callable
from dataclasses import dataclass

_COMPARE: dict[str, Callable[[tuple[int, ...], tuple[int, ...]], bool]] = {
    ">=": operator.ge, "<=": operator.le, "==": operator.eq, "!=": operator.ne, ">": operator.gt, "<": operator.lt,
}  # fmt: skip


@dataclass(frozen=True)
class Requirement:
    """A distribution's normalised name and the bounds on its version, empty for any."""

    name: str
    bound: str


def parse(line: str) -> Requirement:
    """A line of a distribution's requirements; extras and markers are left out."""
    bare = re.sub(r"\[.*?\]", "", line.partition(";")[0]).strip()
    match = re.match(r"([A-Za-z0-9][A-Za-z0-9._-]*)\s*\(?([^()]*)\)?$", bare)
    if match is None:
        return Requirement(bare, "")
    bounds = sorted("".join(match[2].split()).split(","), reverse=True)  # metadata has them in no order: >= first
    return Requirement(re.sub(r"[-_.]+", "-", match[1]).lower(), ",".join(bounds))


def fits(version: str, bound: str) -> bool:
    """Whether a version lies within bounds; only its release numbers count, `2.13.0+cpu` is 2.13."""
    for part in bound.split(",") if bound else []:
        match = re.match(r"(>=|<=|==|!=|>|<)(.+)", part)
        if match is not None and not _COMPARE[match[1]](release(version), release(match[2])):
            return False
    return True


def release(version: str) -> tuple[int, ...]:
    """The release numbers, without trailing zeros: (2, 13) for `2.13.0+cpu`."""
    match = re.match(r"\d+(\.\d+)*", version)
    numbers = [int(number) for number in match[0].split(".")] if match else []
    while numbers and numbers[-1] == 0:
        numbers.pop()
    return tuple(numbers)
