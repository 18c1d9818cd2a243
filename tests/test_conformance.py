"""`grpo-bench check`: what it prints, its exit codes, what it says about a stranger's broken plugin; and its parts."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
from running import cli_here, sentence

from grpo_bench.conformance.cost import random_forest
from grpo_bench.conformance.finding import Finding, Worst, findings
from grpo_bench.conformance.scenes import Scene, play
from grpo_bench.conformance.source import check_source
from grpo_bench.conformance.subject import Subject
from grpo_bench.conformance.suite import CHECKS, check_method
from grpo_bench.errors import UserError
from grpo_bench.registry import METHODS

HEAD = """
import numpy as np
from grpo_bench import Credit, Method, MethodConfig, chains, leaf_credit

class Mine(Method[MethodConfig]):
    \"\"\"A stranger's method.\"\"\"

    name = "mine"

    def plan(self, iteration, rng, schedule):
        return chains(schedule.sigmas, 6, np.arange(schedule.steps) < schedule.steps - 1)
"""


def plugin(folder: Path, *lines: str, head: str = HEAD) -> str:
    """A plugin file: the method above and more lines of its class."""
    path = folder / "mine.py"
    path.write_text(head + "".join(f"    {line}\n" for line in lines), encoding="utf-8")
    return str(path)


def test_a_sound_method_passes_line_by_line() -> None:
    done = cli_here("check", "tree", "--fast")
    assert done.returncode == 0, done.stdout
    lines = done.stdout.splitlines()
    assert lines[0] == "tree"
    assert all(line.startswith(("  PASS  ", "  skip  ")) for line in lines[1:-1])
    # and each of the checks is there, with its figure and bound where it counts something
    names = [line.split()[1] for line in lines[1:-1]]
    checks = ["ratio", "zero-sum", "identity", "monotone", "gradient", "cost", "ascent", "resume", "source"]
    assert {*checks, "descendants", "scale", "process"} <= set(names)
    (gradient,) = (line.split() for line in lines if line.startswith("  PASS  gradient "))
    assert float(gradient[2]) <= float(gradient[4]) == 1e-5
    assert "0 failed" in lines[-1]


def test_what_does_not_apply_says_why() -> None:
    found = [finding for family in ("identity", "ratio") for finding in CHECKS[family](Subject("nft", fast=True))]
    assert {finding.check for finding in found if finding.passed is None} == {"identity", "ratio", "noise"}
    assert all(finding.sentence for finding in found)


def test_a_broken_plugin_is_told_what_it_broke(tmp_path: Path) -> None:
    # given a third party's file whose advantages are not centred
    path = plugin(
        tmp_path,
        "def credit(self, rollout):",
        "    credit = leaf_credit(rollout)",
        "    return Credit(credit.advantage_NP + 0.07, credit.group_NP)",
    )
    # when it is checked by its file alone
    done = cli_here("check", "--plugin", path, "--fast")
    # then the exit code is 1, the failing check is named, and the sentence has the values and the fix
    assert done.returncode == 1, done.stderr
    assert done.stderr == ""
    said = " ".join(done.stdout.split())
    assert "FAIL zero-sum 0.42 > 1e-06" in said
    assert re.search(
        r"credit: the advantages of group (\d+) \(depth \1\) of prompt \d sum to 0\.42, but a declared group sums to "
        "zero; declare -1 for nodes outside any group, or centre the advantages inside each group",
        said,
    )


def test_an_exception_out_of_a_plugin_is_a_failure_with_its_line(tmp_path: Path) -> None:
    path = plugin(tmp_path, "def credit(self, rollout):", "    return rollout.rewards['aesthetics']")
    done = cli_here("check", "--plugin", path, "--fast")
    assert done.returncode == 1
    said = " ".join(done.stdout.split())
    assert "FAIL credit" in said
    assert "credit raised KeyError: 'aesthetics'" in said and "mine.py, line 13)" in said
    assert "Traceback" not in done.stdout + done.stderr


def test_a_plan_that_raises_skips_the_rest_but_not_its_source(tmp_path: Path) -> None:
    head = HEAD.replace("return chains", "import time; 1 / 0; return chains")
    done = cli_here("check", "--plugin", plugin(tmp_path, head=head), "--fast")
    said = " ".join(done.stdout.split())
    assert done.returncode == 1
    assert "plan raised ZeroDivisionError" in said
    assert "needs a plan that works" in said
    assert "mine.py, line 11: it imports time; a method has no clock" in said


def test_a_method_that_cannot_be_made_is_a_failure(tmp_path: Path) -> None:
    path = plugin(tmp_path, "def __init__(self, config):", "    raise ValueError('no GPU')")
    done = cli_here("check", "--plugin", path, "--fast")
    assert done.returncode == 1
    assert "__init__ raised ValueError: no GPU" in " ".join(done.stdout.split())


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["nosuch"], "no method is named 'nosuch'"),
        (["tre"], "did you mean 'tree'?"),
        ([], "check needs a method; name one"),
        (["flat", "--all"], "--all checks every method as it comes"),
        (["flat", "--set", "method.grp=8"], "did you mean 'method.group'?"),
        (["flat", "--set", "training.prompts=8"], "method.* and sampling.* only, not 'training'"),
        (["flat", "--set", "sampling.kernel=ddim"], "kernel ddim is for models that predict epsilon"),
        (["flat", "--set", "method.name=tree"], "given as check's argument"),
        (["--plugin", "nowhere.py"], "plugin file 'nowhere.py' does not exist"),
    ],
)
def test_bad_arguments_are_one_sentence(arguments: list[str], words: str) -> None:
    assert words in sentence(cli_here("check", *arguments))


def test_a_plugin_that_cannot_be_imported_keeps_its_sentence(tmp_path: Path) -> None:
    path = plugin(tmp_path, head="import nothing_of_this_name\n")
    assert "cannot be imported: ModuleNotFoundError" in sentence(cli_here("check", "--plugin", path))


@pytest.fixture
def only_two() -> Iterator[None]:
    """A registry of one sound method and one that cannot be loaded."""
    sources, before = type(METHODS)._sources, dict(METHODS._plugins)
    tree = sources(METHODS)["tree"]

    def broken() -> type:
        raise ImportError("no module named 'gone'")

    METHODS._plugins.clear()
    type(METHODS)._sources = lambda self: {"tree": tree} | self._plugins if self is METHODS else sources(self)  # type: ignore[method-assign]
    METHODS.add("gone", broken, origin="a-plugin")
    yield
    type(METHODS)._sources = sources  # type: ignore[method-assign]
    METHODS._plugins.clear()
    METHODS._plugins.update(before)


@pytest.mark.slow
def test_all_reports_a_broken_entry_and_hides_no_other(only_two: None) -> None:
    done = cli_here("check", "--all", "--fast")
    assert done.returncode == 1
    said = " ".join(done.stdout.split())
    assert "method 'gone' from a-plugin cannot be loaded: ImportError" in said
    # and the table at the end has a row for either
    rows = [line.split() for line in done.stdout.splitlines()]
    assert ["gone", "0", "1", "0", "load"] in rows
    assert next(row for row in rows if row[:1] == ["tree"] and len(row) > 1)[2] == "0"


@pytest.mark.parametrize(
    ("name", "settings"),
    [
        ("flat", {"group": 2, "shared_noise": True, "train_fraction": 0.6, "std_eps": 1e-4, "ddof": 1}),
        ("flat", {"std": "global"}),
        ("tempflow", {"branching": 2, "roots": 1}),
        ("tempflow", {"branching": "none"}),
        ("tree", {"backup": "softmax"}),
        ("branch", {"fusion": "softmax"}),
        ("branch", {"prune_width": "parent-top1"}),
        ("branch", {"prune_width": "extreme", "prune_depth": 2}),
        ("ddpo", {"group": 4, "buffer": 8, "min_count": 8}),
    ],
)
def test_a_methods_other_settings_pass_what_they_claim(name: str, settings: dict[str, object]) -> None:
    subject = Subject(name, settings, fast=True)
    found = [finding for family in ("plan", "credit", "order", "cost") for finding in CHECKS[family](subject)]
    assert [finding for finding in found if finding.passed is False] == []


def test_groups_are_declared_where_advantages_sum_to_zero() -> None:
    # softmax weights are no plain mean, so that tree and branch declare no group then, and are not asked
    for name, key in (("tree", "backup"), ("branch", "fusion")):
        scored = play(Subject(name, {key: "softmax"}), Scene())
        assert all((s.credit.group_NP == -1).all() for s in scored)


@pytest.mark.slow
def test_keep_on_an_edge_that_is_not_trained_is_no_fault(tmp_path: Path) -> None:
    path = plugin(
        tmp_path,
        "def credit(self, rollout):",
        "    credit = leaf_credit(rollout)",
        "    return Credit(credit.advantage_NP, credit.group_NP, np.ones(credit.advantage_NP.shape, dtype=bool))",
    )
    done = cli_here("check", "--plugin", path, "--fast", "--json")
    # and --json is one line with every finding
    assert (done.returncode, len(done.stdout.splitlines())) == (0, 1)
    (found,) = json.loads(done.stdout).values()
    assert {"check", "passed", "figure", "bound", "sentence"} == set(found[0])
    assert [finding for finding in found if finding["passed"] is False] == []


def test_a_figure_that_is_no_number_is_worse_than_any() -> None:
    worst = Worst("x", 1.0)
    for figure in (0.5, float("nan"), 0.7):
        worst.see(figure, f"off by {figure}")
    finding = worst.finding("fine", "nothing")
    assert finding.passed is False and finding.sentence == "off by nan"
    assert Worst("x", 1.0).finding("fine", "nothing") == Finding("x", None, "nothing")


def test_what_was_found_before_an_exception_is_kept() -> None:
    def check(subject: Subject) -> Iterator[Finding]:
        yield Finding("first", True, "fine")
        raise ValueError("two\nlines")

    found = findings("second", check, Subject("flat"))
    assert [finding.check for finding in found] == ["first", "second"]
    assert found[1].sentence == "the engine could not use what the method gave it: ValueError: two lines"


def test_an_unknown_method_is_an_error_and_no_finding() -> None:
    with pytest.raises(UserError, match="no method is named 'nosuch'"):
        list(check_method(Subject("nosuch")))


def test_random_forests_differ_and_are_valid() -> None:
    rng = np.random.default_rng(0)
    forests = [random_forest(rng) for _ in range(30)]
    assert len({(forest.nodes, forest.trained_edges) for forest in forests}) > 15
    assert {forest.steps for forest in forests} == {1, 2, 3, 4, 5}


def test_source_looks_at_the_methods_a_class_is_derived_from() -> None:
    (finding,) = check_source(Subject("guard"))
    assert finding.sentence == "grpo_bench_methods.guard, grpo_bench_methods.flat"


@pytest.mark.slow
@pytest.mark.timeout(900)
@pytest.mark.parametrize("name", METHODS.names())
def test_every_registered_method_passes_in_full(name: str) -> None:
    found = list(check_method(Subject(name)))
    assert [finding for finding in found if finding.passed is False] == []
    assert any("shapes" in finding.sentence for finding in found if finding.check == "gradient")
