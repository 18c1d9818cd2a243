"""Input that nobody can mean, or nobody can hold, is one sentence: never a traceback, never an endless wait."""

from __future__ import annotations

import time
from pathlib import Path

import numpy as np
import pytest
import torch
from running import Make, cli_here, sentence
from running import run as run_here

from grpo_bench.config import parse_set, read_toml
from grpo_bench.errors import UserError, out_of_memory, reason
from grpo_bench.forest.builders import branching, chains, trunk
from grpo_bench.forest.forest import MOST_NODES, Forest
from grpo_bench.store.names import parse_toml
from grpo_bench.sweeping.suite import load_suite

DEEP = {
    "lists": "a = " + "[" * 50_000 + "]" * 50_000,
    "tables": "a = " + "{a = " * 20_000 + "1" + "}" * 20_000,
    "keys": ".".join(["a"] * 20_000) + " = 1",
    "header": "[" + " . ".join(["a"] * 20_000) + "]",
    "inside": "a = {" + ".".join(['"a"'] * 20_000) + " = 1}",
}


@pytest.mark.parametrize("text", DEEP.values(), ids=DEEP)
def test_deep_toml_is_refused_at_once(tmp_path: Path, text: str) -> None:
    (tmp_path / "deep.toml").write_text(text)
    started = time.perf_counter()
    for read in (read_toml, load_suite):
        with pytest.raises(UserError, match=r"deep\.toml.* nested too deeply"):
            read(tmp_path / "deep.toml")
    assert time.perf_counter() - started < 5


@pytest.mark.parametrize("text", ["a = [0.1, 0.2, 0.3]", 'a.b.c = "x.y.z"', "[a.b]\nc = 1.5"])
def test_ordinary_toml_is_not_deep(text: str) -> None:
    assert list(parse_toml(text)) == ["a"]
    assert parse_toml("a = [" + ", ".join(["0.5"] * 1000) + "]")["a"] == [0.5] * 1000


@pytest.mark.parametrize("assignment", [".".join(["a"] * 5000) + "=1", "method." + "." * 100 + "=1"])
def test_a_deep_key_of_set_is_refused(assignment: str) -> None:
    with pytest.raises(UserError, match="parts between its dots"):
        parse_set(assignment)


def test_a_deep_value_of_set_is_a_text() -> None:
    value = "[" * 5000 + "]" * 5000
    assert parse_set(f"method.group={value}") == {"method": {"group": value}}


@pytest.mark.parametrize("command", [["plan"], ["run", "--budget", "iterations=1", "--method"], ["check", "--fast"]])
@pytest.mark.parametrize(
    ("method", "setting"),
    [
        ("tree", "method.branching=100000"),
        ("branch", "method.branching=300"),
        ("mix", "method.group=300000000"),
        ("tempflow", "method.roots=1000000000000000000000"),
    ],
)
def test_a_forest_that_nobody_can_hold_is_refused(
    tmp_path: Path, command: list[str], method: str, setting: str
) -> None:
    started = time.perf_counter()
    done = cli_here(*command, method, "--set", setting)
    assert done.returncode == 1 if command[0] == "check" else 2
    said = done.stdout if command[0] == "check" else sentence(done)
    assert str(MOST_NODES) in " ".join(said.split())
    assert "Traceback" not in done.stdout + done.stderr
    assert time.perf_counter() - started < 20


@pytest.mark.parametrize("method", ["flat", "ddpo", "nft", "guard"])
@pytest.mark.parametrize("group", [300_000_000, 10**30])
def test_a_group_that_nobody_can_hold_is_refused(method: str, group: int) -> None:
    started = time.perf_counter()
    assert "group" in sentence(cli_here("plan", method, "--set", f"method.group={group}"))
    assert time.perf_counter() - started < 10


SIGMAS = np.linspace(1, 0, 5)
NOISY = np.array([True, True, True, False])


@pytest.mark.parametrize("count", [MOST_NODES + 1, 10**12, 10**30])
def test_every_builder_counts_before_it_allocates(count: int) -> None:
    for build in (
        lambda: chains(SIGMAS, count, NOISY),
        lambda: branching(SIGMAS, {0: count}, NOISY),
        lambda: branching(SIGMAS, {0: 600, 1: 600}, NOISY),
        lambda: branching(SIGMAS, {}, NOISY, roots=count),
        lambda: trunk(SIGMAS, {1: count}),
    ):
        with pytest.raises(UserError, match=f"{MOST_NODES}"):
            build()


def test_a_plugins_own_forest_is_counted_too() -> None:
    nodes = MOST_NODES + 1
    with pytest.raises(UserError, match=f"has {nodes} nodes a prompt"):
        Forest(SIGMAS, np.full(nodes, -1), np.zeros(nodes, int), np.zeros(nodes, bool), np.zeros(nodes, bool))


@pytest.mark.parametrize(
    "setting",
    ["training.prompts=1000000000", "evaluation.images=10000000", "model.height=10000000", "model.lora_rank=1000000"],
)
def test_a_number_out_of_all_proportion_breaks_its_rule(setting: str) -> None:
    key = setting.partition("=")[0]
    assert sentence(cli_here("run", "--set", setting)).startswith(f"{key} = ")


def test_a_memory_request_that_cannot_be_met_ends_a_run_with_a_reason(make: Make, results: Path) -> None:
    # given images of 800 GB each: no machine has them, and the allocator says so at once
    config = make(
        workload="gaussian", prompts="", model={"path": "", "policy": "gaussian", "height": 65536, "width": 65536}
    )
    done = run_here(config, results)
    assert done.record.status == "failed"
    assert "out of memory" in done.record.reason and "\n" not in done.record.reason


@pytest.mark.parametrize("size", [1 << 48, 1 << 50])
def test_every_librarys_word_for_no_memory_is_understood(size: int) -> None:
    for ask in (lambda: np.empty(size), lambda: torch.empty(size), lambda: bytearray(size)):
        with pytest.raises((MemoryError, RuntimeError)) as caught:
            ask()
        assert out_of_memory(caught.value), caught.value
    assert not out_of_memory(RuntimeError("mat1 and mat2 shapes cannot be multiplied"))
    assert not out_of_memory(ValueError("out of memory"))


@pytest.mark.parametrize(
    ("said", "kept"),
    [
        ("Broken. Pass ignore_mismatched_sizes=True to go on.", "ValueError: Broken"),
        ("No code here; set trust_remote_code=True. Really", "ValueError: No code here; Really"),
        ("one\n two\x1b[1m three", "ValueError: one two three"),
    ],
)
def test_advice_for_programmers_is_left_out(said: str, kept: str) -> None:
    assert reason(ValueError(said)) == kept


BYTES = "\udcff"
"""How Python shows a byte that is no UTF-8, in a path or an argument."""


@pytest.mark.parametrize(
    "flags",
    [
        ["--model", f"m{BYTES}"],
        ["--prompts", f"p{BYTES}.txt"],
        ["--reward", BYTES],
        ["--method", BYTES],
        ["--recipe", BYTES],
        ["--plugin", f"p{BYTES}.py"],
        ["--plugin", BYTES],
        ["--config", f"c{BYTES}.toml"],
        ["--resume", BYTES],
        ["--set", f"method.group={BYTES}"],
        ["--set", f"{BYTES}=1"],
        ["--set", f"reward.hps.path=['{BYTES}']"],
    ],
    ids=str,
)
def test_names_that_are_not_utf8_are_one_sentence(tmp_path: Path, flags: list[str]) -> None:
    assert sentence(cli_here("run", *flags))


def test_results_in_a_folder_that_is_not_utf8_are_kept(make: Make, tmp_path: Path) -> None:
    done = run_here(make(), tmp_path / f"r{BYTES}")
    assert done.record.status == "done"
    assert done.store.rows() and done.store.points().shape[0] == len(done.store.rows())
