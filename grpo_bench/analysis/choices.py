"""What a tuned suite's trials choose, computed from their points: by a sweep for its record, and again by readers."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

from grpo_bench.analysis.curve import Curve
from grpo_bench.analysis.rate import Gain, Trial, choose, spread
from grpo_bench.errors import UserError
from grpo_bench.store.suite import CellRecord, ChoiceRecord, SuiteRecord


def choice_record(
    label: str, workload: str, reward: str, setting: str, gold: Sequence[Trial], proxy: Sequence[Trial]
) -> ChoiceRecord:
    """What a label's trials choose for one setting by what they gained in gold, and by the proxy alone.

    Raises:
        UserError: they are not all there, or none that the rule would have made (`analysis.rate`).
    """
    seeds = sorted({trial.seed for trial in gold})
    choice = choose(gold, seeds)
    means = spread(gold, seeds)
    return ChoiceRecord(
        label=label,
        workload=workload,
        reward=reward,
        setting=setting,
        factor=choice.factor,
        best=choice.best,
        bracketed=choice.bracketed,
        reason=choice.reason,
        proxy_factor=choose(proxy, seeds).factor,
        gains={f"{factor:.6g}": None if math.isinf(mean) else mean for factor, mean in means.items()},
    )


@dataclass(frozen=True)
class Contradiction:
    """A label on one workload and reward whose rate is not what its trials choose: no verdict may rest on it."""

    label: str
    workload: str
    reward: str
    said: str
    """One sentence."""


def contradictions(suite: SuiteRecord, curves: Mapping[str, Curve]) -> Iterator[Contradiction]:
    """Of a tuned suite, the choices that its trials do not give, and the reported runs that none gives."""
    if suite.protocol != "tuned":
        return
    for stored in suite.choices:
        where = f"{suite.suite}: the choice of {stored.setting} for {stored.label} on {stored.workload}"
        said = ""
        try:
            found = _computed(suite, stored, curves)
            if not _alike(stored, found):
                said = f"{where} is {_said(stored)}, and its trials give {_said(found)}"
        except UserError as error:
            said = f"{where} cannot be computed again ({error})"
        if said:
            yield Contradiction(stored.label, stored.workload, stored.reward, said)
    yield from _unchosen(suite, curves)


def _unchosen(suite: SuiteRecord, curves: Mapping[str, Curve]) -> Iterator[Contradiction]:
    """One for each label that has a reported run at other factors than its stored choices are."""
    chosen: dict[tuple[str, str, str], dict[str, float]] = {}
    for one in suite.choices:
        if one.factor is not None:
            chosen.setdefault((one.label, one.workload, one.reward), {})[one.setting] = one.factor
    seen = set()
    for cell in suite.cells:
        scene = (cell.label, cell.workload, cell.reward)
        if cell.part != "main" or cell.protocol != "controlled" or cell.run not in curves or scene in seen:
            continue
        own = chosen.get(scene, {})
        if own.keys() != cell.factors.keys() or not all(_close(own[name], cell.factors[name]) for name in own):
            seen.add(scene)
            at, wanted = (", ".join(f"{name} x{f:.6g}" for name, f in found.items()) for found in (cell.factors, own))
            yield Contradiction(
                *scene,
                f"{suite.suite}: {cell.label} on {cell.workload} was run at {at or 'its own settings'}, and what is "
                f"stored as chosen is {wanted or 'nothing'}",
            )


def _computed(suite: SuiteRecord, stored: ChoiceRecord, curves: Mapping[str, Curve]) -> ChoiceRecord:
    scene = (stored.label, stored.workload, stored.reward)
    trials = [
        cell for cell in suite.cells if cell.part == "tuning" and (cell.label, cell.workload, cell.reward) == scene
    ]
    own = [cell for cell in trials if cell.setting == stored.setting]
    # The trial at factor 1 of a later setting may be one of an earlier setting: then it stands in the suite once.
    again = {(_effective(cell), cell.seed): cell for cell in trials}
    before = own[0].factors if own else {}
    for seed in sorted({cell.seed for cell in own}):
        at_one = again.get((_effective_of({**before, stored.setting: 1.0}), seed))
        if at_one is not None and at_one not in own:
            own.append(at_one.model_copy(update={"factor": 1.0}))
    gold = [Trial(cell.factor, cell.seed, _gain(curves, cell, "gold")) for cell in own]
    proxy = [Trial(cell.factor, cell.seed, _gain(curves, cell, "proxy")) for cell in own]
    return choice_record(*scene, stored.setting, gold, proxy)


def _gain(curves: Mapping[str, Curve], cell: CellRecord, name: str) -> Gain:
    curve = curves.get(cell.run)
    if curve is None:
        raise UserError(f"its trial {cell.run} is not here")
    if curve.record.status == "diverged":
        return "diverged"
    read = None if curve.unfinished else curve.by_prompt(name)
    if read is None:
        raise UserError(f"its trial {cell.run} cannot be read: {curve.unfinished or 'nobody here knows its judge'}")
    return read.gain


def _effective(cell: CellRecord) -> tuple[tuple[str, float], ...]:
    return _effective_of({**cell.factors, cell.setting: cell.factor})


def _effective_of(factors: Mapping[str, float]) -> tuple[tuple[str, float], ...]:
    return tuple(sorted((name, round(factor, 9)) for name, factor in factors.items() if factor != 1))


def _alike(one: ChoiceRecord, other: ChoiceRecord) -> bool:
    first, second = one.model_dump(exclude={"reason", "gains"}), other.model_dump(exclude={"reason", "gains"})
    same = all(_close(first[name], second[name]) for name in first)
    gains = one.gains.keys() == other.gains.keys()
    return same and gains and all(_close(one.gains[factor], other.gains[factor]) for factor in one.gains)


def _close(one: object, other: object) -> bool:
    if isinstance(one, float) and isinstance(other, float):
        return math.isclose(one, other, rel_tol=1e-6, abs_tol=1e-9)
    return one == other


def _said(choice: ChoiceRecord) -> str:
    if choice.factor is None:
        return "none"
    gained = "" if choice.best_gain is None else f" (best gain {choice.best_gain:+.4f})"
    return f"{choice.factor:.6g}{'' if choice.bracketed else ', not bracketed'}{gained}"
