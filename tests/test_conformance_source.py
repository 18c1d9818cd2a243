"""`grpo-bench check`, the source of a method: what it may import and call, by line."""

from __future__ import annotations

import textwrap
from pathlib import Path

import pytest

from grpo_bench.conformance.source import check_source, source_faults
from grpo_bench.conformance.subject import Subject
from grpo_bench.registry import METHODS, load_plugin

ROOT = Path(__file__).parent.parent
REACHES = ("gc", "inspect", "ctypes", "sys", "importlib", "builtins", "traceback", "runpy")


@pytest.mark.parametrize(
    ("source", "words"),
    [
        ("import time", "it imports time; a method has no clock"),
        ("from datetime import datetime", "a method has no clock"),
        ("def f():\n    from time import perf_counter", "a method has no clock"),
        ("import random", "it imports random; draw from the rng"),
        ("from random import choice", "draw from the rng"),
        ("import numpy as np\nx = np.random.rand(3)", "it uses numpy.random.rand"),
        ("import numpy as np\nrng = np.random.default_rng(0)", "it uses numpy.random.default_rng"),
        ("from numpy.random import randint\nx = randint(3)", "it uses numpy.random.randint"),
        ("import numpy.random as r\nr.seed(0)", "it uses numpy.random.seed"),
        ("import torch\ntorch.manual_seed(0)", "it uses torch.manual_seed; global random state is nobody's to set"),
        ("import torch\nx = torch.randn(3)", "it uses torch.randn without a generator"),
        ("from torch import rand\nx = rand(3)", "it uses torch.rand without a generator"),
        ("import os", "it imports os"),
        ("import os.path", "it imports os"),
        ("import subprocess", "it imports subprocess"),
        ("from socket import socket", "it imports socket"),
        ("import threading", "it imports threading"),
        ("open('x')", "it calls open()"),
        ("eval('1')", "it calls eval()"),
        ("exec('1')", "it calls exec()"),
        ("from grpo_bench.forest.forest import Forest", "private; the public API is"),
        ("import grpo_bench.training.loop", "private; the public API is"),
        ("from grpo_bench import registry", "private; the public API is"),
        ("import grpo_bench\nx = grpo_bench.training", "it uses grpo_bench.training, which is private"),
        ("from grpo_bench_methods.tree import _sibling_softmax", "the private name grpo_bench_methods.tree._sib"),
        ("import numpy as np\nx = np._core", "the private name numpy._core"),
        # whatever leads to objects that a method was not given: frames, modules, the collector, memory
        *[(f"import {name}", f"it imports {name}; a method sees its arguments and itself") for name in REACHES],
        ("import sys\nframe = sys._getframe(1)", "it uses the private name sys._getframe"),
        ("import sys\nsys.modules['x'] = None", "it changes sys.modules"),
        ("import sys\nsys.settrace(f)", "it uses settrace"),
        ("from inspect import currentframe", "it imports inspect"),
        ("from fsspec import os", "it imports os by way of fsspec"),
        ("import numpy as np\nx = np.lib.format.os", "it uses numpy.lib.format.os"),
        ("def f(x):\n    return x.f_back", "it uses f_back"),
        ("def f(e):\n    return e.__traceback__.tb_frame", "it uses tb_frame"),
        ("x = [c for c in object.__subclasses__()]", "it uses __subclasses__"),
        ("x = __builtins__['open']", "it uses __builtins__"),
        ("def f(x):\n    return x.plan.__globals__", "it uses __globals__"),
        ("def f(x):\n    return getattr(x, '__globals__')", "the private name '__globals__'"),
        ("def f(x):\n    return getattr(x, '_ledger')", "the private name '_ledger'"),
        ("def f(x):\n    object.__setattr__(x, 'seed', 0)", "it calls __setattr__ on something that is not itself"),
        ("def f(x):\n    setattr(x, 'seed', 0)", "it calls setattr on something that is not itself"),
        ("def f(x):\n    x.flags.writeable = True", "it uses writeable; arrays that a method is given are read-only"),
        ("def f(x):\n    x.setflags(write=True)", "it uses setflags"),
        ("from grpo_bench import Rollout\nRollout.terms = None", "it changes grpo_bench.Rollout"),
        ("import torch\ntorch.exp = torch.sin", "it changes torch, which is not its own"),
        ("import numpy as np\nnp.core.x['a'] += 1", "it changes numpy.core.x"),
        ("import numpy as np\nnow = np.datetime64('now')", "it uses numpy.datetime64, which can tell the time"),
        ("import numpy as np\nx = np.load('x.npy')", "it uses numpy.load"),
        ("import torch\ntorch.save(1, 'x.pt')", "it uses torch.save"),
        ("import torch\ntorch.set_num_threads(4)", "global settings are nobody's to change"),
        ("x = 0\ndef f():\n    global x", "it changes the module's x; what a method remembers"),
    ],
)
def test_what_a_method_may_not_use_is_named_with_its_line(source: str, words: str) -> None:
    found = list(source_faults(source))
    assert found, source
    assert [line for line, sentence in found if words in sentence] == [len(source.split("\n"))], found


@pytest.mark.parametrize(
    "source",
    [
        "from grpo_bench import Forest, Method, UserError, chains",
        "import grpo_bench\nchains = grpo_bench.chains",
        "from grpo_bench import *",
        "import grpo_bench as gb\ncredit = gb.Forest.same_as",
        "from grpo_bench_methods.flat import FlatGRPO",
        "class A:\n    def __post_init__(self):\n        object.__setattr__(self, 'a', 1)",
        "class A:\n    def __setattr__(self, name, value):\n        super().__setattr__(name, value)",
        "class A:\n    def f(self):\n        self._kept = getattr(self, 'kept', 0)",
        "from types import MappingProxyType\nimport torch.nn.functional as F\nx = F.softmax",
        "def f(rollout):\n    kept = rollout.logp_NP.copy()\n    kept[0] = 1.0\n    kept += 2",
        "from __future__ import annotations",
        "import numpy as np\ndef plan(rng: np.random.Generator) -> int:\n    return rng.integers(3)",
        "import torch\ndef loss(g):\n    return torch.randn(3, generator=g)",
        "import time_series_library",
        "def draw(random):\n    return random.choice(3)",
        "from collections.abc import Mapping\nfrom typing import Literal",
    ],
)
def test_what_a_method_needs_is_allowed(source: str) -> None:
    assert list(source_faults(textwrap.dedent(source))) == []


def test_a_helper_that_a_method_imports_is_looked_at_too(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "b_helper.py").write_text("import numpy\nimport gc\n")
    (tmp_path / "b_method.py").write_text(
        "import b_helper\nfrom grpo_bench import Method\n"
        "class Mine(Method):\n    name = 'with-a-helper'\n    def plan(self, iteration, rng, schedule):\n        ...\n"
    )
    monkeypatch.syspath_prepend(str(tmp_path))
    before = dict(METHODS._plugins)
    load_plugin("b_method")
    (finding,) = check_source(Subject("with-a-helper"))
    METHODS._plugins.clear()
    METHODS._plugins.update(before)
    assert finding.passed is False and finding.sentence.startswith("b_helper.py, line 2: it imports gc")


@pytest.mark.parametrize("path", sorted(ROOT.glob("methods/*.py")), ids=lambda path: path.name)
def test_the_built_in_methods_keep_to_it(path: Path) -> None:
    assert list(source_faults(path.read_text(encoding="utf-8"))) == []


def test_what_else_lies_in_a_methods_package_is_not_looked_at(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    # given a package that imports its rewards beside its methods, and a reward that reads files
    package = tmp_path / "b_package"
    package.mkdir()
    (package / "__init__.py").write_text("from b_package import rewards\n")
    (package / "rewards.py").write_text("import os\nPLACE = os.environ\n")
    (package / "own.py").write_text(
        "from grpo_bench import Method\n"
        "class Mine(Method):\n    name = 'in-a-package'\n    def plan(self, iteration, rng, schedule):\n        ...\n"
    )
    monkeypatch.syspath_prepend(str(tmp_path))
    monkeypatch.setattr(METHODS, "_plugins", {})
    load_plugin("b_package.own")

    (finding,) = check_source(Subject("in-a-package"))

    assert finding.passed is True, finding.sentence
