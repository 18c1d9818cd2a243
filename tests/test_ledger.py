"""The ledger counts what it is told, times each phase once, and survives a resume to the last bit."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Iterator
from itertools import accumulate

import numpy as np
import pytest

from grpo_bench.metering.ledger import BUDGET_KINDS, PHASES, Counts, Ledger, LedgerMismatch, check

TIMES = {f"{phase}_seconds" for phase in PHASES}
COLUMNS = TIMES | {
    "iteration", "nfe", "rollout_nfe", "train_nfe", "reference_nfe", "eval_nfe", "setup_nfe", "reward_calls",
    "updates", "images", "decodes", "trained_edges", "seconds", "peak_memory_bytes",
}  # fmt: skip


class Trace:
    """A clock that reads 0, 1, 3, 6, ... and a device whose synchronisations are written down beside its readings."""

    def __init__(self) -> None:
        self.events: list[str] = []
        self._times: Iterator[int] = accumulate(range(100))

    def clock(self) -> float:
        self.events.append("clock")
        return float(next(self._times))

    def synchronize(self) -> None:
        self.events.append("sync")


def filled() -> Ledger:
    """A ledger after one iteration, all numbers different so that a swapped column shows."""
    trace = Trace()
    ledger = Ledger(trace.synchronize, trace.clock, lambda: 4096)
    ledger.charge("rollout", 240)
    ledger.charge("train", 216)
    ledger.charge("reference", 7)
    ledger.charge("eval", 1000)
    ledger.charge("setup", 5)
    ledger.count_reward("shapes", 24)
    ledger.count_reward("jpeg", 2)
    ledger.count("images", 24)
    ledger.count("decodes", 25)
    ledger.count("updates", 2)
    ledger.count("trained_edges", 217)
    ledger.count("iterations")
    for phase in PHASES:
        with ledger.phase(phase):
            pass
    return ledger


def test_nfe_is_rollout_plus_reference_plus_three_times_train() -> None:
    # flat at T=10, G=24 (240 rollout, 216 train) and 7 reference: 240 + 7 + 3 * 216 by hand
    assert filled().nfe == 895


def test_a_row_has_exactly_the_published_columns_with_their_values() -> None:
    row = filled().row()
    assert set(row) == COLUMNS
    # the k-th phase lasts 2k + 1 ticks of Trace's clock: 1, 3, 5, ... in the order of PHASES
    assert row == {
        "iteration": 1, "nfe": 895, "rollout_nfe": 240, "train_nfe": 216, "reference_nfe": 7, "eval_nfe": 1000,
        "setup_nfe": 5, "reward_calls": 26, "updates": 2, "images": 24, "decodes": 25, "trained_edges": 217,
        "seconds": 36.0, "plan_seconds": 1.0, "rollout_seconds": 3.0, "decode_seconds": 5.0, "reward_seconds": 7.0,
        "credit_seconds": 9.0, "train_seconds": 11.0, "eval_seconds": 13.0, "io_seconds": 15.0, "setup_seconds": 17.0,
        "peak_memory_bytes": 4096,
    }  # fmt: skip


def test_every_budget_kind_reads_its_own_counter() -> None:
    spent = {kind: filled().amount(kind) for kind in BUDGET_KINDS}
    assert spent == {
        "nfe": 895, "rollout-nfe": 240, "reward-calls": 26, "updates": 2, "seconds": 36.0, "iterations": 1,
    }  # fmt: skip


def test_reward_calls_are_kept_by_name() -> None:
    assert filled().reward_calls == {"shapes": 24, "jpeg": 2}


def test_a_phase_waits_for_the_device_before_each_reading_of_the_clock() -> None:
    trace = Trace()
    ledger = Ledger(trace.synchronize, trace.clock)
    with ledger.phase("train"):
        trace.events.append("work")
    assert trace.events == ["sync", "clock", "work", "sync", "clock"]


def test_a_phase_that_raises_still_accounts_its_time_and_lets_the_next_begin() -> None:
    ledger = Ledger(clock=Trace().clock)
    with pytest.raises(KeyboardInterrupt), ledger.phase("rollout"):
        raise KeyboardInterrupt
    with ledger.phase("rollout"):
        pass
    assert ledger.seconds_in("rollout") == 1.0 + 3.0


def test_a_device_that_fails_in_the_block_reports_the_first_failure() -> None:
    calls: list[str] = []

    def synchronize() -> None:
        calls.append("sync")
        if len(calls) > 1:
            raise RuntimeError("the device is lost")

    ledger = Ledger(synchronize, Trace().clock)
    with pytest.raises(FloatingPointError, match="first"), ledger.phase("train"):
        raise FloatingPointError("first")
    assert ledger.seconds_in("train") == 1.0


def test_a_failure_of_the_last_synchronisation_is_not_swallowed() -> None:
    # given a device whose kernels fail asynchronously: the block ends well, the wait does not
    calls: list[str] = []

    def synchronize() -> None:
        calls.append("sync")
        if len(calls) == 2:
            raise RuntimeError("illegal memory access")

    with pytest.raises(RuntimeError, match="illegal memory access"), Ledger(synchronize).phase("train"):
        pass


def test_nested_phases_are_an_error_that_names_both() -> None:
    ledger = Ledger(clock=Trace().clock)
    with (
        pytest.raises(RuntimeError, match="'decode' was entered inside 'rollout'"),
        ledger.phase("rollout"),
        ledger.phase("decode"),
    ):
        pass
    assert ledger.seconds_in("decode") == 0.0


def test_peak_memory_is_the_largest_reading() -> None:
    readings = iter([3, 9, 4])
    ledger = Ledger(memory=lambda: next(readings))
    for _ in range(3):
        with ledger.phase("train"):
            pass
    assert ledger.peak_memory_bytes == 9


def test_counts_are_whole_and_only_go_up() -> None:
    ledger = Ledger()
    with pytest.raises(ValueError, match="only counts up, got -1"):
        ledger.charge("train", -1)
    with pytest.raises(TypeError):
        ledger.charge("train", 1.5)  # type: ignore[arg-type]
    with pytest.raises(ValueError, match="unknown role 'warmup'"):
        ledger.charge("warmup", 1)  # type: ignore[arg-type]
    ledger.charge("train", np.int64(3))  # type: ignore[arg-type]
    assert type(ledger.row()["train_nfe"]) is int
    assert ledger.evaluations("train") == 3


def test_a_state_survives_json_to_the_last_bit() -> None:
    # given times that are no short decimals
    ledger = filled()
    times = iter([0.1, 0.1 + 0.2, 1 / 3, 1e9 / 7])
    odd = Ledger(clock=lambda: next(times), memory=lambda: 1)
    odd.load_state_dict(ledger.state_dict())
    with odd.phase("train"):
        pass
    with odd.phase("io"):
        pass
    # when it goes through a file
    again = Ledger()
    again.load_state_dict(json.loads(json.dumps(odd.state_dict())))
    # then nothing moved, the old peak is kept, and it goes on counting
    assert again.row() == odd.row()
    assert again.reward_calls == odd.reward_calls
    assert again.peak_memory_bytes == 4096
    again.charge("rollout", 1)
    assert again.evaluations("rollout") == 241


@pytest.mark.parametrize("damage", [{"nfe": {}}, {"extra": 1}, {"peak_memory_bytes": 1.5}, {"counters": None}])
def test_a_damaged_state_is_refused_and_changes_nothing(damage: dict[str, object]) -> None:
    ledger = filled()
    before = ledger.row()
    with pytest.raises(ValueError, match="state"):
        ledger.load_state_dict({**Ledger().state_dict(), **damage})  # type: ignore[dict-item]
    assert ledger.row() == before


def test_a_difference_of_one_evaluation_is_an_engine_bug_that_names_it() -> None:
    ledger = filled()
    before = ledger.counts()
    ledger.charge("train", 13)
    ledger.charge("rollout", 202)
    ledger.count("images", 27)
    ledger.count("trained_edges", 39)
    counted = ledger.counts() - before
    check(Counts(rollout_nfe=202, train_nfe=13, trained_edges=39, images=27), counted)
    with pytest.raises(LedgerMismatch, match=r"engine bug: train_nfe was declared as 12 .* counted as 13"):
        check(Counts(rollout_nfe=202, train_nfe=12, trained_edges=39, images=27), counted)


def test_the_ledger_does_not_import_torch() -> None:
    code = "import sys, grpo_bench.metering.ledger, grpo_bench.metering.environment; sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0
