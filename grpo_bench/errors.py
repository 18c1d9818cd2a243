"""The errors a person sees, and the offer of the nearest name when one is mistyped."""

from __future__ import annotations

import difflib
from collections.abc import Iterable


class UserError(Exception):
    """Bad input. The message is one sentence for the person who typed it: the rule, the value, the fix."""


class RewardFailed(Exception):
    """A reward's own process died, hung or answered nonsense; the run ends with status `failed` and can be resumed."""


class Diverged(Exception):
    """The policy or a reward produced a NaN or an Inf; the run ends with status `diverged`."""


def nearest(name: str, known: Iterable[str]) -> str:
    """A clause that offers the closest of `known` (or all of them, if few) for the mistyped `name`."""
    known = sorted(known)
    close = difflib.get_close_matches(name, known, n=1, cutoff=0.5)
    if close:
        return f"did you mean {close[0]!r}?"
    return "known: " + ", ".join(known) if known else "none is installed"
