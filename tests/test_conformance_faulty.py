"""A stranger's faulty methods: each is named by the check that is there for its kind of fault, and sound ones pass."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
from running import cli_here
from thrift import thrifty

from grpo_bench.conformance.finding import Finding, findings
from grpo_bench.conformance.subject import Subject
from grpo_bench.conformance.suite import CHECKS
from grpo_bench.registry import METHODS, load_plugin

FAULTY = Path(__file__).with_name("faulty.py")
STAYED = "stay where it was"
PROCESS = "in another process (another PYTHONHASHSEED"

CASES = [
    ("first-child", "descendants", "descendants", STAYED),
    ("first-leaf", "descendants", "descendants", STAYED),
    ("sibling", "descendants", "descendants", "made the edge's advantage fall"),
    ("parent", "descendants", "descendants", STAYED),
    ("mostly-parent", "descendants", "descendants", "not those of its relatives"),
    ("next-chain", "descendants", "descendants", "an edge follows the rewards of the images below it"),
    ("parity", "descendants", "descendants", "made the edge's advantage fall"),
    ("early-nothing", "descendants", "descendants", STAYED),
    ("next-prompt", "descendants", "descendants", "of the same prompt and iteration"),
    ("next-prompt-inside", "descendants", "descendants", "of the same prompt and iteration"),
    ("stale", "descendants", "descendants", "is this the credit of an earlier iteration's rewards?"),
    ("stale-early", "descendants", "descendants", "is this the credit of an earlier iteration's rewards?"),
    ("hashed", "process", "process", f"it is another one {PROCESS}"),
    ("set-order", "process", "process", f"it is another one {PROCESS}"),
    ("address", "process", "process", "weights: of iteration"),
    ("faint", "cost", "weights", "use keep_NP to drop an edge"),
    ("process-number", "process", "process", "plan: of iteration"),
    ("class-memory", "process", "process", "what a module or a class remembers"),
    ("times-ten", "scale", "scale", "a learning rate of the method's own"),
    ("tenth", "scale", "scale", "is 0.1 in iteration 0"),
    ("heavy", "scale", "scale", "is 10 in iteration 0"),
    ("loss-times-ten", "scale", "scale", "is 10 in iteration 0"),
    ("warm-up", "scale", "scale", "in iteration 1000"),
    ("compound", "scale", "scale", "a schedule of the learning rate"),
    ("forward-times-ten", "scale", "scale", "forward_loss"),
    ("every-tenth", "scale", "scale", "in iteration 5 the loss on the whole pulls against the rewards"),
    ("words", "credit", "alike", "neither a prompt's words nor its place may matter"),
    ("first-prompts-std", "order", "local", "other rewards of prompt 0 changed"),
    ("writes-rewards", "credit", "credit", "read-only"),
    ("adds-a-reward", "credit", "credit", "mappingproxy"),
    ("writes-log-probs", "credit", "credit", "read-only"),
    ("writes-batch", "ratio", "ratio", "wrote into batch.advantage"),
    ("writes-behind", "ratio", "ratio", "wrote into batch.weight"),
    ("writes-forward", "ascent", "ascent", "wrote into batch.x_0"),
    ("ratio-of-one", "trust", "trust", "must move with the log-prob"),
    ("unclipped", "trust", "trust", "still pulls the way that the advantage points"),
    ("one-of-two-rewards", "credit", "rewards", "the second alone tells images apart"),
    ("without-weights", "credit", "rewards", "exchanging the weights changes no advantage"),
    ("widening-clip", "scale", "scale", "clip_scale: it is 1 in iteration 0 and 2 in iteration 1"),
    ("penalty-upside-down", "trust", "trust", "a penalty grows with the distance"),
    ("late-leaves", "credit", "equal", "all images got the same reward"),
    ("keeps-by-others", "order", "local", "or whether it is kept"),
    ("large-latents", "scale", "scale", "a learning rate of the method's own"),
    ("many-prompts", "scale", "scale", "a learning rate of the method's own"),
    ("strided-another-split", "descendants", "descendants", "an edge follows the rewards of the images"),
    ("strided-one-end", "descendants", "descendants", "an edge follows the rewards of the images"),
    ("last-step", "plan", "plan", "the last step is deterministic in every method"),
    ("last-step-of-a-tree", "plan", "plan", "the last step is deterministic in every method"),
    ("last-step-trained", "plan", "plan", "trained is True for it"),
]
"""(method, the family of checks, the check that must fail, words of its sentence)."""

SOUND = ("sound-chains", "sound-tree", "sound-siblings", "sound-ranks", "sound-strided", "sound-jumps")


@pytest.fixture(scope="module", autouse=True)
def plugin() -> Iterator[None]:
    """The plugin file, registered for this module only."""
    before = dict(METHODS._plugins)
    load_plugin(str(FAULTY))
    yield
    METHODS._plugins.clear()
    METHODS._plugins.update(before)


def failed(name: str, family: str) -> dict[str, Finding]:
    found = findings(family, CHECKS[family], Subject(name, fast=True))
    return {finding.check: finding for finding in found if finding.passed is False}


QUICK = [place for place, case in enumerate(CASES) if case[1] != "process" or case[0] == "set-order"]
"""Those that need no process of their own, and one that does."""


@pytest.mark.parametrize(("name", "family", "check", "words"), thrifty(CASES, *QUICK, ids=[case[0] for case in CASES]))
def test_a_faulty_method_is_told_what_it_broke(name: str, family: str, check: str, words: str) -> None:
    found = failed(name, family)
    assert check in found, found
    assert words in found[check].sentence


@pytest.mark.parametrize("name", thrifty(SOUND, 1))
@pytest.mark.parametrize("family", ["plan", "credit", "order", "descendants", "scale", "process", "ratio"])
def test_what_they_are_derived_from_is_sound(name: str, family: str) -> None:
    # a tree whose siblings are compared declares no group, and neither do most others
    assert failed(name, family) == {}


def test_no_faulty_method_is_left_out() -> None:
    added = {name for name in METHODS.names() if "faulty" in METHODS.get(name).__module__}
    assert added == {case[0] for case in CASES} | set(SOUND)


def test_a_module_given_by_name_is_played_in_another_process_too(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    # given a package with a helper, which only a search path leads to
    package = tmp_path / "a_package"
    package.mkdir()
    (package / "__init__.py").write_text("")
    (package / "helper.py").write_text("GROUP = 6\n")
    (package / "method.py").write_text(
        "import numpy as np\n"
        "from grpo_bench import *\n"
        "from .helper import GROUP\n"
        "class Mine(Method[MethodConfig]):\n"
        "    '''From a package.'''\n"
        "    name = 'from-a-package'\n"
        "    def plan(self, iteration, rng, schedule):\n"
        "        return chains(schedule.sigmas, GROUP, np.arange(schedule.steps) < schedule.steps - 1)\n"
    )
    monkeypatch.syspath_prepend(str(tmp_path))
    done = cli_here("check", "--plugin", "a_package.method", "--fast")
    assert done.returncode == 0, done.stdout
    assert "PASS  process" in done.stdout
