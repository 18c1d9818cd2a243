"""`grpo-bench check`, the source of a method: what it may import and call, by line."""

from __future__ import annotations

import textwrap
from pathlib import Path

import pytest

from grpo_bench.conformance.source import source_faults

ROOT = Path(__file__).parent.parent


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
        ("import importlib", "it imports importlib"),
        ("import ctypes", "it imports ctypes"),
        ("import threading", "it imports threading"),
        ("open('x')", "it calls open()"),
        ("eval('1')", "it calls eval()"),
        ("exec('1')", "it calls exec()"),
        ("from grpo_bench.forest.forest import Forest", "private; the public API is"),
        ("import grpo_bench.training.trainer", "private; the public API is"),
        ("from grpo_bench import registry", "private; the public API is"),
        ("from grpo_bench_methods.tree import _sibling_softmax", "the private name grpo_bench_methods.tree._sib"),
    ],
)
def test_what_a_method_may_not_use_is_named_with_its_line(source: str, words: str) -> None:
    found = list(source_faults(source))
    assert found, source
    line, sentence = found[-1]
    assert words in sentence
    assert line == len(source.split("\n"))


@pytest.mark.parametrize(
    "source",
    [
        "from grpo_bench import Forest, Method, UserError, chains",
        "import grpo_bench\nchains = grpo_bench.chains",
        "from grpo_bench_methods.flat import FlatGRPO",
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


@pytest.mark.parametrize("path", sorted(ROOT.glob("methods/*.py")), ids=lambda path: path.name)
def test_the_built_in_methods_keep_to_it(path: Path) -> None:
    assert list(source_faults(path.read_text(encoding="utf-8"))) == []
