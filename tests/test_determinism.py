"""Runs are in torch's deterministic mode, and so is what measures them; no memory is read before it is written."""

from __future__ import annotations

import argparse
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch
from running import Make, benchmark_module, run, same_images, same_points
from tinysd import make_sd

from grpo_bench.config import Table
from grpo_bench.training.determinism import deterministic


def modes() -> tuple[bool, bool]:
    """Whether deterministic kernels are asked for, and whether memory is filled before it is written to."""
    return torch.are_deterministic_algorithms_enabled(), torch.utils.deterministic.fill_uninitialized_memory


@pytest.fixture(autouse=True)
def ordinary() -> Iterator[None]:
    """Torch as it starts, and afterwards as other tests left it."""
    before = modes()
    torch.use_deterministic_algorithms(False)
    torch.utils.deterministic.fill_uninitialized_memory = True
    yield
    torch.use_deterministic_algorithms(before[0], warn_only=True)
    torch.utils.deterministic.fill_uninitialized_memory = before[1]


def test_a_run_is_deterministic_and_fills_nothing(make: Make, results: Path) -> None:
    run(make(budget={"iterations": 1.0}), results)
    assert modes() == (True, False)


def test_the_benchmark_of_the_engine_measures_that_mode() -> None:
    engine = benchmark_module("engine")
    arguments = argparse.Namespace(threads=0, device="cpu", dtype="fp32", model="", size="shapes", set=[])
    engine.prepare(arguments, "tree")
    assert modes() == (True, False)


KINDS: dict[str, Table] = {
    "chains": {},
    "a tree": {"method": {"name": "tree", "branching": 2, "window": 2}, "sampling": {"guidance": 2.0}},
    "the forward process": {"method": {"name": "nft", "group": 2}, "training": {"ema_decay": 0.9}},
    "adapters and a KL": {"model": {"trainable": "lora", "dtype": "bf16"}, "objective": {"beta": 0.1}},
    "a diffusion model": {"model": {"policy": "sd"}, "sampling": {"kernel": "ddim"}},
}


QUICK = ("chains", "a tree")


@pytest.mark.parametrize("kind", [pytest.param(k, marks=() if k in QUICK else pytest.mark.slow) for k in KINDS])
def test_no_memory_is_read_before_it_is_written(
    make: Make, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, kind: str
) -> None:
    # given a run, and the same one while torch fills all uninitialised memory with NaN
    over = {"budget": {"iterations": 2.0}, **KINDS[kind]}
    if kind == "a diffusion model":
        over["model"] = {"policy": "sd", "path": str(make_sd(tmp_path / "sd"))}
    chosen = make(**over)
    plain = run(chosen, tmp_path / "plain").store

    def filling() -> None:
        deterministic()
        torch.utils.deterministic.fill_uninitialized_memory = True

    monkeypatch.setattr("grpo_bench.training.run.deterministic", filling)
    filled = run(chosen, tmp_path / "filled").store
    assert modes() == (True, True)

    # then points and images are the same to the last bit, and no NaN has ended it
    assert plain.record.status == filled.record.status == "done"
    same_points(plain, filled)
    same_images(plain, filled)
