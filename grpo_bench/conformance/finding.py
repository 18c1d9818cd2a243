"""What a check says: one line with a figure and its bound, or one sentence about what the method broke."""

from __future__ import annotations

import math
import traceback
from collections.abc import Callable, Iterable
from dataclasses import dataclass

from grpo_bench.conformance.subject import Subject
from grpo_bench.errors import PluginFailed


@dataclass(frozen=True)
class Finding:
    """One line of `grpo-bench check`.

    `passed` is None where the check does not apply; `sentence` then says why. `figure` is the worst value that was met,
    to be at most `bound` (at least, where `at_least`). The sentence of a failure is for the method's author.
    """

    check: str
    passed: bool | None
    sentence: str
    figure: float | None = None
    bound: float | None = None
    at_least: bool = False


Check = Callable[[Subject], Iterable[Finding]]


class Worst:
    """The largest of many deviations, with the sentence that belongs to it; a NaN is worse than any number."""

    def __init__(self, check: str, bound: float) -> None:
        self._check, self._bound = check, bound
        self._figure, self._sentence = 0.0, ""
        self._seen = 0

    def see(self, figure: float, sentence: str) -> None:
        """Note a deviation and what it would mean if it were the worst."""
        self._seen += 1
        if not (figure <= self._figure or math.isnan(self._figure)):
            self._figure, self._sentence = float(figure), sentence

    def finding(self, done: str, nothing: str) -> Finding:
        """Pass, saying what was `done`; skip, because of `nothing`, if nothing was seen; or fail with the sentence."""
        if not self._seen:
            return Finding(self._check, None, nothing)
        passed = self._figure <= self._bound
        return Finding(self._check, passed, done if passed else self._sentence, self._figure, self._bound)


def findings(name: str, check: Check, subject: Subject) -> list[Finding]:
    """What a check finds; an exception out of the plugin is a failure that names its type, its message and its line."""
    found: list[Finding] = []
    try:
        for finding in check(subject):
            found.append(finding)
    except (Exception, SystemExit) as error:
        found.append(Finding(name, False, blame(subject, error)))
    return found


def blame(subject: Subject, error: BaseException) -> str:
    """One sentence about an exception: where in the method's own source it came from, its type and its message."""
    if isinstance(error, PluginFailed) and error.__cause__ is not None:  # as a run says it; here its origin is wanted
        error = error.__cause__
    said = " ".join(f"{type(error).__name__}: {error}".split())[:500]
    own = [frame for frame in traceback.extract_tb(error.__traceback__) if frame.filename in subject.files]
    if not own:
        return f"the engine could not use what the method gave it: {said}"
    return f"{own[-1].name} raised {said} ({own[-1].filename}, line {own[-1].lineno})"
