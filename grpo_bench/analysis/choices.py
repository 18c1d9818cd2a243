"""What a tuned suite's trials choose, computed from their points: by a sweep for its record, and again by readers."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence

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


def contradictions(suite: SuiteRecord, curves: Mapping[str, Curve]) -> Iterator[str]:
    """A sentence for each stored choice that the suite's trials do not give; `curves` by run."""
    for stored in suite.choices:
        where = f"{suite.suite}: the choice of {stored.setting} for {stored.label} on {stored.workload}"
        try:
            found = _computed(suite, stored, curves)
        except UserError as error:
            yield f"{where} cannot be computed again ({error})"
            continue
        if not _alike(stored, found):
            yield f"{where} is {_said(stored)}, and its trials give {_said(found)}"


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
