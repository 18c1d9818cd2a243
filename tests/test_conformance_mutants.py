"""Every built-in method broken in several ways: each mutant fails the check that is there to catch it, by name."""

from __future__ import annotations

from collections.abc import Iterator
from functools import cache
from pathlib import Path

import pytest

from grpo_bench.conformance.finding import Finding, findings
from grpo_bench.conformance.subject import Subject
from grpo_bench.conformance.suite import CHECKS
from grpo_bench.registry import METHODS, load_plugin

MUTANTS = Path(__file__).with_name("mutants.py")

CASES = [
    ("flat", "flat-sign", "order", "monotone", "raising the reward of leaf 0"),
    ("flat", "flat-distrusts", "order", "monotone", "above all others"),
    ("flat", "flat-leak", "order", "local", "use a prompt's own rewards only"),
    ("flat", "flat-unscaled", "credit", "affine", "divide by a std"),
    ("flat", "flat-uncentred", "credit", "zero-sum", "centre the advantages"),
    ("flat", "flat-last", "plan", "forest", "the last step"),
    ("flat", "flat-loss", "ascent", "direction", "the loss must fall as the log-prob rises"),
    ("flat", "flat-loss", "ascent", "ascent", "look for a sign"),
    ("flat", "flat-pooled", "gradient", "gradient", "micro-batches are cut anywhere"),
    ("flat", "flat-ratio", "ratio", "ratio", "log_ratio must be 0"),
    ("flat", "flat-nothing-kept", "credit", "shapes", "drops every trained edge"),
    ("flat", "flat-keep-by-edge", "credit", "shapes", "keep_NP holds bools, one a node and prompt"),
    ("flat", "flat-widened", "cost", "cost", "may narrow but not widen"),
    ("mix", "mix-late", "identity", "identity", "must equal"),
    ("mix", "mix-drift", "plan", "determinism", "must not change the method"),
    ("mix", "mix-last-of-window", "order", "support", "the better edge needs the larger advantage"),
    ("mix", "mix-halves", "credit", "zero-sum", "centre the advantages"),
    ("mix", "mix-fast", "identity", "identity", "must equal"),
    ("tree", "tree-parent", "order", "support", "the better edge needs the larger advantage"),
    ("tree", "tree-sum", "identity", "closed-form", "the mean of the z-scores"),
    ("tree", "tree-late", "identity", "identity", "must equal"),
    ("tree", "tree-global", "plan", "determinism", "draw every random number from that rng"),
    ("tree", "tree-mirrored", "order", "monotone", "raising the reward of leaf 0"),
    ("branch", "branch-parent", "order", "support", "the better edge needs the larger advantage"),
    ("branch", "branch-pooled", "identity", "closed-form", "over the nodes of its depth"),
    ("branch", "branch-late", "identity", "identity", "must equal"),
    ("branch", "branch-by-half", "credit", "zero-sum", "centre the advantages"),
    ("branch-mix", "branch-mix-late", "identity", "identity", "must equal"),
    ("branch-mix", "branch-mix-no-window", "identity", "identity", "must equal"),
    ("branch-mix", "branch-mix-sign", "order", "monotone", "raising the reward of leaf 0"),
    ("branch-mix", "branch-mix-leaf", "identity", "closed-form", "over the nodes of its depth"),
    ("tempflow", "tempflow-wide", "credit", "zero-sum", "centre the advantages"),
    ("tempflow", "tempflow-inverse", "identity", "closed-form", "noise level over the mean"),
    ("tempflow", "tempflow-zero", "cost", "weights", "use keep_NP to drop an edge"),
    ("tempflow", "tempflow-late", "identity", "identity", "must equal"),
    ("tempflow", "tempflow-sign", "ascent", "ascent", "look for a sign"),
    ("ddpo", "ddpo-forgets", "resume", "state", "put all that the method remembers into state_dict"),
    ("ddpo", "ddpo-forgets", "resume", "resume", "belongs into state_dict"),
    ("ddpo", "ddpo-arrays", "resume", "state", "that JSON can hold"),
    ("ddpo", "ddpo-declares", "credit", "zero-sum", "declare -1"),
    ("ddpo", "ddpo-by-place", "credit", "permutation", "place in the batch must not matter"),
    ("ddpo", "ddpo-local", "order", "local", "let the property local be False"),
    ("ddpo", "ddpo-distrusts", "order", "monotone", "above all others"),
    ("guard", "guard-no-bias", "identity", "closed-form", "check the bias"),
    ("guard", "guard-twice-the-bias", "identity", "closed-form", "check the bias"),
    ("guard", "guard-unscaled", "identity", "closed-form", "the factor std"),
    ("guard", "guard-no-step", "identity", "closed-form", "times the step's length"),
    ("guard", "guard-pooled-bias", "identity", "closed-form", "check the bias"),
    ("guard", "guard-asks-for-nothing", "ratio", "ratio", "log_ratio raised AssertionError"),
    ("nft", "nft-swapped", "ascent", "direction", "what was rewarded must become likelier"),
    ("nft", "nft-uncentred", "ascent", "direction", "neither good nor bad"),
    ("nft", "nft-one-sided", "identity", "closed-form", "on either side of the old velocity"),
    ("nft", "nft-frozen", "plan", "forest", "averages"),
    ("nft", "nft-hasty", "identity", "closed-form", "never falls"),
    ("nft", "nft-pooled", "gradient", "gradient", "micro-batches are cut anywhere"),
    ("nft", "nft-both", "plan", "forest", "trains none"),
]
"""(method, its mutant, the family of checks, the check that must fail, words of its sentence)."""

SETTINGS: dict[str, dict[str, object]] = {
    # 24 new rewards fill a buffer of 16 every time; with 4, what was remembered counts.
    "ddpo-forgets": {"group": 4, "buffer": 8, "min_count": 8},
    "ddpo-by-place": {"group": 4, "buffer": 8, "min_count": 8},
    "ddpo-local": {"group": 4},
    # Only to be quick.
    "ddpo-arrays": {"group": 4},
    "flat-pooled": {"group": 4},
    "nft-pooled": {"group": 4, "draws": 4},
}
"""Settings of a mutant and of its method beside it."""


@pytest.fixture(scope="module", autouse=True)
def plugin() -> Iterator[None]:
    """The mutants, registered as a plugin file for this module only."""
    before = dict(METHODS._plugins)
    load_plugin(str(MUTANTS))
    yield
    METHODS._plugins.clear()
    METHODS._plugins.update(before)


@cache
def run(name: str, known_as: str, family: str, settings_of: str) -> list[Finding]:
    subject = Subject(name, SETTINGS.get(settings_of, {}), fast=True, known_as=known_as)
    return findings(family, CHECKS[family], subject)


@pytest.mark.parametrize(("method", "mutant", "family", "check", "words"), CASES, ids=[f"{c[1]}-{c[3]}" for c in CASES])
def test_a_mutant_fails_the_check_that_is_there_to_catch_it(
    method: str, mutant: str, family: str, check: str, words: str
) -> None:
    # given what the method itself is said about: it passes, or the check does not apply to it
    honest = {finding.check: finding for finding in run(method, method, family, mutant if mutant in SETTINGS else "")}
    assert not [finding for finding in honest.values() if finding.passed is False]

    # then the mutant fails that check, in words that name what is wrong
    found = {finding.check: finding for finding in run(mutant, method, family, mutant) if finding.passed is False}
    assert check in found, [finding.check for finding in found.values()]
    assert words in found[check].sentence


def test_every_method_has_three_mutants() -> None:
    assert all(len({c[1] for c in CASES if c[0] == method}) >= 3 for method in {c[0] for c in CASES})
    built_in = {name for name in METHODS.names() if METHODS.get(name).__module__.startswith("grpo_bench_methods.")}
    assert {c[0] for c in CASES} == built_in


def test_no_mutant_is_left_out() -> None:
    added = {name for name in METHODS.names() if "mutants" in METHODS.get(name).__module__}
    assert added == {c[1] for c in CASES}
