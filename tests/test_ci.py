"""`.ci/browser` runs the browser's tests wherever it can: it installs what is missing, or says what did not run."""

from __future__ import annotations

import os
import shutil
import subprocess
from pathlib import Path

import pytest
from running import ROOT

NEEDED = ("bash", "dirname", "touch", "chmod", "cat")


class Machine:
    """A machine whose only programs are those given: `make`, `id` and `apt-get` note what they are asked for."""

    def __init__(
        self, folder: Path, *installed: str, root: bool = True, apt: bool = True, offline: bool = False
    ) -> None:
        self.bin, self.asked = folder / "bin", folder / "asked"
        self.bin.mkdir()
        self.asked.touch()
        for program in NEEDED:
            found = shutil.which(program)
            assert found is not None
            (self.bin / program).symlink_to(found)
        self._program("id", f"echo {0 if root else 1000}")
        self._program("make", f'echo "make $*" >> {self.asked}')
        if apt:
            # A package brings the program of its name; the driver's is chromedriver.
            self._program(
                "apt-get",
                f'echo "apt-get $*" >> {self.asked}',
                *(["echo no network", "exit 100"] if offline else []),
                'for word in "$@"; do',
                f'  case "$word" in chromium) new={self.bin}/chromium;; chromium-driver) new={self.bin}/chromedriver;;',
                "  *) continue;; esac",
                '  touch "$new"; chmod +x "$new"',
                "done",
            )
        for program in installed:
            self._program(program, "true")

    def _program(self, name: str, *lines: str) -> None:
        (self.bin / name).write_text("\n".join(["#!/bin/bash", *lines, ""]), encoding="utf-8")
        (self.bin / name).chmod(0o755)

    def run(self) -> tuple[list[str], list[str]]:
        """What was asked of apt-get and make, and the lines printed."""
        done = subprocess.run(
            [str(self.bin / "bash"), str(ROOT / ".ci" / "browser"), "/venv"],
            env={"PATH": str(self.bin), "HOME": os.environ.get("HOME", "/")},
            capture_output=True,
            text=True,
            timeout=30,
            check=True,
        )
        return self.asked.read_text(encoding="utf-8").splitlines(), done.stdout.splitlines()


INSTALL = "apt-get install -y --no-install-recommends"


@pytest.mark.parametrize(
    ("installed", "packages"),
    [
        (("chromium",), "chromium-driver"),
        (("google-chrome",), "chromium-driver"),
        (("chromedriver",), "chromium"),
        ((), "chromium chromium-driver"),
    ],
)
def test_whichever_is_missing_is_installed(tmp_path: Path, installed: tuple[str, ...], packages: str) -> None:
    asked, _ = Machine(tmp_path, *installed).run()
    assert asked == ["apt-get update", f"{INSTALL} {packages}", "make VENV=/venv browser"]


@pytest.mark.parametrize("browser", ["chromium", "chromium-browser", "google-chrome"])
def test_what_is_there_is_used(tmp_path: Path, browser: str) -> None:
    asked, _ = Machine(tmp_path, browser, "chromedriver", root=False, apt=False).run()
    assert asked == ["make VENV=/venv browser"]


@pytest.mark.parametrize(
    "machine", [{"root": False}, {"apt": False}, {"offline": True}], ids=["not root", "no apt-get", "no network"]
)
@pytest.mark.parametrize(("installed", "lacks"), [(("chromium",), "chromium-driver"), ((), "chromium chromium-driver")])
def test_a_machine_that_cannot_says_so_in_its_last_line(
    tmp_path: Path, machine: dict[str, bool], installed: tuple[str, ...], lacks: str
) -> None:
    asked, printed = Machine(tmp_path, *installed, **machine).run()
    assert printed[-1].startswith(f"NOT RUN: the browser tests, which need {lacks};")
    assert not any(line.startswith("make") for line in asked)
