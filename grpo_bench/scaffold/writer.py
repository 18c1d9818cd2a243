"""A plugin and its test from the templates beside this file, as somebody's own files: nothing is ever overwritten."""

from __future__ import annotations

import importlib.util
import keyword
import os
import re
import shlex
from dataclasses import dataclass
from importlib.resources import files
from pathlib import Path
from string import Template

import grpo_bench
from grpo_bench.errors import UserError
from grpo_bench.registry import METHODS
from grpo_bench.store.atomic import write_text
from grpo_bench.store.names import clean_text

LONGEST = 32
BUDGET = 10_000
"""A few iterations of the new method on the built-in model: some seconds."""
NAME_PATTERN = r"[a-z][a-z0-9]*(-[a-z0-9]+)*"
IMPORTED = {*grpo_bench.__all__, "Field"}
"""Names that the plugin imports, or is likely to import next; its classes must not hide them."""


@dataclass(frozen=True)
class Scaffold:
    """The names of a new method: `late-noise` is the class `LateNoise` in `late_noise.py`, tested by its neighbour."""

    name: str
    folder: Path

    @property
    def module(self) -> str:
        """The plugin's module, as an entry point names it."""
        return self.name.replace("-", "_")

    @property
    def title(self) -> str:
        """The plugin's class."""
        return "".join(part.capitalize() for part in self.name.split("-"))

    @property
    def plugin(self) -> Path:
        """The plugin's file."""
        return self.folder / f"{self.module}.py"

    @property
    def test(self) -> Path:
        """Its test's file."""
        return self.folder / f"test_{self.module}.py"


def new_method(name: str, folder: Path) -> Scaffold:
    """Write a small method and its test into `folder`, which is made if need be; both files or neither.

    Raises:
        UserError: a name that is taken, that is no method's, or whose file or class would hide something; a file that
            exists; a folder that cannot be written.
    """
    _check_name(name)
    scaffold = Scaffold(name, folder)
    for path in (scaffold.plugin, scaffold.test):
        if os.path.lexists(path):
            raise UserError(f"{path} exists and is not overwritten; choose another name, or a folder with --output")
    _check_hides_nothing(scaffold)
    _write({scaffold.plugin: _fill("method.py.txt", scaffold), scaffold.test: _fill("test.py.txt", scaffold)}, folder)
    return scaffold


def what_next(scaffold: Scaffold) -> str:
    """How to run, check, draw, test and later install it: commands to copy."""
    name, plugin, test = scaffold.name, shlex.quote(str(scaffold.plugin)), shlex.quote(str(scaffold.test))
    return f"""\
wrote {scaffold.plugin} and {scaffold.test}

run it     grpo-bench run --method {name} --plugin {plugin} --budget nfe={BUDGET}
check it   grpo-bench check {name} --plugin {plugin} --fast
draw it    grpo-bench plan {name} --plugin {plugin}
test it    pytest {test}

To have it listed beside the built-in methods, without --plugin, name it in your own package's pyproject.toml:

[project.entry-points."grpo_bench.methods"]
{name} = "{scaffold.module}:{scaffold.title}\""""


def _check_name(name: str) -> None:
    if len(name) > LONGEST or not re.fullmatch(NAME_PATTERN, name):
        raise UserError(
            f"a method's name is at most {LONGEST} of a-z, 0-9 and single dashes between them, beginning with a "
            f"letter, not {clean_text(name, 80)!r}; such as late-noise"
        )
    if name in METHODS.names():
        raise UserError(f"a method named {name!r} is installed already (grpo-bench list methods); choose another name")


def _check_hides_nothing(scaffold: Scaffold) -> None:
    """A file in the folder that tests and plugins are run from comes before every installed module of that name."""
    module, hidden = scaffold.module, {scaffold.title, f"{scaffold.title}Config"} & IMPORTED
    if keyword.iskeyword(module) or importlib.util.find_spec(module) is not None:
        raise UserError(f"{module}.py would hide Python's {module!r} from whatever imports it; choose another name")
    if hidden:
        raise UserError(f"the class of {scaffold.name!r} would hide grpo-bench's {hidden.pop()}; choose another name")


def _fill(template: str, scaffold: Scaffold) -> str:
    text = (files("grpo_bench.scaffold") / template).read_text(encoding="utf-8")
    return Template(text).substitute(name=scaffold.name, module=scaffold.module, title=scaffold.title)


def _write(texts: dict[Path, str], folder: Path) -> None:
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise UserError(f"cannot make the folder {folder}: {error.strerror}; choose one with --output") from error
    written: list[Path] = []
    try:
        for path, text in texts.items():
            write_text(path, text, "the new method")
            written.append(path)
    except BaseException:
        for path in written:
            path.unlink(missing_ok=True)
        raise
