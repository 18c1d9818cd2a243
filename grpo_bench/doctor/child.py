"""Run by the doctor in a process of its own: imports what may be broken, and writes down how that went.

A line of JSON before and after each attempt, in a file of its own: so a crash or a hang names its cause, and what a
library prints harms nothing. It needs the standard library only, until it loads what it is asked to.
"""

from __future__ import annotations

import importlib
import json
import sys
from collections.abc import Callable, Sequence
from importlib.metadata import entry_points
from pathlib import Path
from types import ModuleType

Line = dict[str, object]

NAMES = {"diffusers": "StableDiffusion3Pipeline", "transformers": "PreTrainedModel", "peft": "LoraConfig"}
"""Modules that load lazily, each with a name whose import tells."""


def main(job: str, output: str, path: list[str], arguments: Sequence[str]) -> None:
    """Do `imports` (of these modules), `plugins` (of these groups) or both (`--` between them) on this `sys.path`."""
    sys.path[:] = path
    with Path(output).open("w", encoding="utf-8") as sink:

        def say(line: Line) -> None:
            sink.write(json.dumps(line) + "\n")
            sink.flush()

        words = list(arguments)
        if job == "both":
            cut = words.index("--")
            imports(words[:cut], say)
            plugins(words[cut + 1 :], say)
        else:
            (imports if job == "imports" else plugins)(words, say)


def imports(modules: Sequence[str], say: Callable[[Line], None]) -> None:
    """Try each module; then what torch says of itself."""
    for module in modules:
        say({"start": module})
        try:
            loaded = importlib.import_module(module)
            if module in NAMES:
                getattr(loaded, NAMES[module])
            say({"module": module, "error": ""})
        except BaseException as error:
            say({"module": module, "error": told(error)})
    if "torch" in modules and "torch" in sys.modules:
        say({"start": "torch.cuda"})
        say({"torch": torch_facts(sys.modules["torch"])})


def torch_facts(torch: ModuleType) -> Line:
    """Build, devices, and why CUDA does not answer."""
    facts: Line = {"version": torch.__version__, "cuda": torch.version.cuda or "", "threads": torch.get_num_threads()}
    try:
        if torch.version.cuda:
            torch.cuda.init()
            devices = [torch.cuda.get_device_properties(i) for i in range(torch.cuda.device_count())]
            facts |= {"devices": [d.name for d in devices], "device_bytes": [d.total_memory for d in devices]}
    except BaseException as error:
        facts["driver_error"] = told(error)
    return facts


def plugins(groups: Sequence[str], say: Callable[[Line], None]) -> None:
    """Load every entry point, as the registry does."""
    for group in groups:
        for point in sorted(entry_points(group=group), key=lambda point: point.name):
            origin = point.dist.name if point.dist is not None else point.value
            facts: Line = {"group": group, "name": point.name, "origin": origin}
            say({"start": point.name, **facts})
            try:
                facts |= declared(point.load(), point.name)
            except BaseException as error:
                facts["error"] = told(error)
            say({"plugin": facts})


def declared(value: object, name: str) -> Line:
    """What a reward declares of its weights, its licence and its environment; nothing for anything else."""
    if not hasattr(value, "weights") or not hasattr(value, "licence") or not hasattr(value, "commercial"):
        return {}
    facts: Line = {
        "weights": [{"repo": one.repo, "file": one.file, "size": one.size} for one in value.weights],
        "licence": value.licence,
        "commercial": value.commercial,
    }
    environment = getattr(value, "environment", None)
    if environment is not None:
        from grpo_bench.isolated.environment import Environment, state

        if isinstance(environment, Environment):
            facts["environment"] = str(state(name, environment))
    return facts


def told(error: BaseException) -> str:
    """The error and what it came from, as one line: the first cause is what has to be mended."""
    first = error
    while (before := first.__cause__ or (None if first.__suppress_context__ else first.__context__)) is not None:
        first = before
    said = [f"{type(one).__name__}: {one}" for one in dict.fromkeys([error, first])]
    return " ".join(" because of ".join(said).split())[:600]


if __name__ == "__main__":
    main(sys.argv[1], sys.argv[2], json.loads(sys.argv[3]), sys.argv[4:])
