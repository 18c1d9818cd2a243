"""`plan` calls a method's credit once, for the picture: what a plugin does wrong there is one sentence."""

from __future__ import annotations

from pathlib import Path

from running import cli_here, sentence

PLUGIN = """
import numpy as np

from grpo_bench import Credit, Method, Rollout, UserError, chains


class Crooked(Method):
    '''Flat, with a mistake in its credit.'''

    name = "crooked"

    def plan(self, iteration, rng, schedule):
        return chains(schedule.sigmas, 2, np.arange(schedule.steps) < schedule.steps - 1)

    def credit(self, rollout: Rollout) -> Credit:
        return self.shares(rollout)

    def shares(self, rollout):
        {mistake}
"""


def plan(tmp_path: Path, mistake: str) -> str:
    file = tmp_path / "crooked.py"
    file.write_text(PLUGIN.format(mistake=mistake))
    return sentence(cli_here("plan", "crooked", "--plugin", str(file)))


def test_an_exception_of_a_plugins_credit_names_the_method_the_error_and_its_line(tmp_path: Path) -> None:
    said = plan(tmp_path, "return np.zeros(3)[rollout.forest.nodes]")
    assert said.startswith("method 'crooked' fails in credit on example rewards: IndexError: index 22 is out of bounds")
    assert said.endswith("(crooked.py, line 19); correct it")


def test_a_plugins_own_sentence_stays_as_it_is(tmp_path: Path) -> None:
    assert plan(tmp_path, "raise UserError('credit needs a group of three')") == "credit needs a group of three"
