"""Of cases that are alike and cost seconds each, one or two in the quick tests and the rest in the slow ones."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

import pytest
from _pytest.mark import ParameterSet


def thrifty(cases: Iterable[object], *quick: int, ids: Sequence[str] | None = None) -> list[ParameterSet]:
    """The cases as parameters, all slow but those whose places are `quick`; a tuple is one case of several values."""
    values = [case if isinstance(case, tuple) else (case,) for case in cases]
    names = ids or [None] * len(values)
    return [
        pytest.param(*value, id=name, marks=() if place in quick else pytest.mark.slow)
        for place, (value, name) in enumerate(zip(values, names, strict=True))
    ]
