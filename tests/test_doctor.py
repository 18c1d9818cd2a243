"""`grpo-bench doctor`: from facts to findings, and from a machine with something broken on it to facts."""

from __future__ import annotations

import http.server
import json
import os
import re
import shutil
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest
from rich.console import Console
from running import ROOT, environment

from grpo_bench.doctor import probes
from grpo_bench.doctor.diagnosis import diagnose
from grpo_bench.doctor.facts import Facts, Finding, Host, Hub, Import, Install, Package, Plugin, Torch, Weights
from grpo_bench.doctor.probes import declared_entry_points, examined, imported, installs, packages, plugins
from grpo_bench.doctor.requirements import fits, parse
from grpo_bench.doctor.surroundings import host, hub, is_cached
from grpo_bench.terminal.health import health_json, print_health

HPS = Weights("xswu/HPSv2", "HPS_v2.1_compressed.pt", 1_972_490_005)
OWN = frozenset({"grpo_bench.methods:flat", "grpo_bench.rewards:hps"})
NMS = "RuntimeError: operator torchvision::nms does not exist"

HEALTHY = Facts(
    host=Host(python="3.11.7", executable="/v/bin/python", cpu="A CPU", cores=2, memory=16_000_000_000,
              results="results", disk_free=50_000_000_000),
    packages=(
        Package("grpo-bench", "0.1.0"),
        Package("torch", "2.13.0+cpu", ">=2.6", tested="2.13.0"),
        Package("diffusers", "0.42.1", ">=0.42,<1"),
        Package("transformers", "5.23.0", ">=5.10,<6"),
        Package("numpy", "2.4.6", ">=2.0"),
        Package("protobuf", "7.36.2", tested="7.36.2"),
        Package("torchvision"),
        Package("hpsv2"),
    ),
    imports=(Import("torch"), Import("diffusers"), Import("transformers"), Import("numpy")),
    torch=Torch("2.13.0+cpu", threads=2),
    hub=Hub("https://huggingface.co", reachable=True, token=True, cache="/c"),
    installs=(Install("/v/grpo_bench-0.1.0.dist-info", "0.1.0", OWN),),
    declared=OWN,
    plugins=(
        Plugin("grpo_bench.methods", "flat", "grpo-bench"),
        Plugin("grpo_bench.rewards", "shapes", "grpo-bench"),
        Plugin("grpo_bench.rewards", "hps", "grpo-bench", weights=(replace(HPS, cached=True),), commercial=True),
    ),
)  # fmt: skip


def with_package(facts: Facts, package: Package, error: str = "") -> Facts:
    others = tuple(one for one in facts.packages if one.name != package.name)
    kept = tuple(one for one in facts.imports if one.module != package.name)
    return replace(facts, packages=(*others, package), imports=(*kept, Import(package.name, error)))


def wrong(facts: Facts) -> list[Finding]:
    return [finding for finding in diagnose(facts) if finding.mark != "ok"]


def only(facts: Facts) -> Finding:
    """The one finding that is not ok."""
    found = wrong(facts)
    assert len(found) == 1, found
    return found[0]


def test_a_healthy_machine_has_nothing_to_mend() -> None:
    assert wrong(HEALTHY) == []
    said = {finding.subject: finding.sentence for finding in diagnose(HEALTHY)}
    assert said["torch"] == "2.13.0+cpu, built for the CPU"
    assert said["1 others"] == "as required: numpy"
    assert said["device"] == "CPU: A CPU"
    assert said["disk"] == "50.0 GB free at results"
    assert said["hps"] == "cached, 1.97 GB"
    assert not any(finding.mend for finding in diagnose(HEALTHY))


@pytest.mark.parametrize(
    ("package", "said"),
    [
        (Package("diffusers", "", ">=0.42,<1", fits=False), "not installed; >=0.42,<1 is needed"),
        (Package("diffusers", "0.39.0", ">=0.42,<1", fits=False), "0.39.0, but >=0.42,<1 is needed"),
    ],
)
def test_a_package_that_is_missing_or_of_another_version(package: Package, said: str) -> None:
    found = only(with_package(HEALTHY, package))
    assert (found.mark, found.sentence) == ("fail", said)
    assert found.mend == "/v/bin/python -m pip install 'diffusers>=0.42,<1'"


def test_a_package_that_cannot_be_imported_is_reinstalled() -> None:
    found = only(with_package(HEALTHY, Package("diffusers", "0.42.1", ">=0.42,<1"), "ImportError: no such file"))
    assert (found.mark, found.sentence) == ("fail", "0.42.1 cannot be imported: ImportError: no such file")
    assert found.mend == "/v/bin/python -m pip install --force-reinstall --no-deps diffusers==0.42.1"


def test_a_tested_version_is_named_where_it_is_another() -> None:
    facts = with_package(HEALTHY, Package("torch", "2.15.0", ">=2.6", tested="2.13.0"))
    said = {finding.subject: finding.sentence for finding in diagnose(facts)}
    assert said["torch"] == "2.15.0, built for the CPU (tested: 2.13.0)"


def test_a_torchvision_that_breaks_diffusers_is_the_one_thing_to_mend() -> None:
    # given what transformers 5.23 and diffusers 0.42 raise beside torchvision 0.28 of a CUDA build
    cause = f"ModuleNotFoundError: Could not import module 'PreTrainedModel'. because of {NMS}"
    facts = with_package(HEALTHY, Package("torchvision", "0.28.0", wants=("torch==2.13.0", "numpy")), NMS)
    for name in ("diffusers", "transformers"):
        facts = with_package(facts, facts.package(name), cause)
    broken = Plugin("grpo_bench.policies", "sd3", "grpo-bench", cause)
    found = {one.subject: one for one in wrong(replace(facts, plugins=(broken,)))}

    assert set(found) == {"torchvision", "diffusers", "transformers", "sd3"}
    assert {one.mark for one in found.values()} == {"fail"}
    assert [one.mend for one in found.values() if one.mend] == ["/v/bin/python -m pip uninstall -y torchvision"]
    assert found["torchvision"].sentence == (
        f"0.28.0 cannot be imported beside torch 2.13.0+cpu ({NMS}): diffusers and transformers try it and then cannot "
        "be imported"
    )


def test_a_torchvision_of_another_torch_names_the_match() -> None:
    facts = with_package(HEALTHY, Package("torchvision", "0.29.2", wants=("torch==2.14.0",)), NMS)
    found = only(facts)
    # nothing else is broken: a limit, not a failure
    assert found.mark == "warn"
    assert found.sentence.startswith(
        "0.29.2 is made for torch 2.14.0, and here is 2.13.0+cpu, whose torchvision is 0.28"
    )


def test_a_torchvision_that_works_is_left_alone() -> None:
    assert wrong(with_package(HEALTHY, Package("torchvision", "0.28.0", wants=("torch==2.13.0",)))) == []


def test_a_protobuf_that_refuses_generated_modules() -> None:
    # given what tensorboard raises beside protobuf 5
    module = "tensorboard.compat.proto.event_pb2"
    error = "VersionError: Detected mismatched Protobuf Gencode/Runtime major versions: gencode 6.31.1 runtime 5.29.5."
    facts = with_package(HEALTHY, Package("protobuf", "5.29.5", tested="7.36.2"))
    found = only(replace(facts, imports=(*facts.imports, Import(module, error))))
    assert (found.mark, found.sentence) == ("warn", "5.29.5: --log tensorboard does not work")
    assert found.mend == "/v/bin/python -m pip install protobuf==7.36.2"


def test_the_protobuf_that_hpsv2_pins() -> None:
    facts = with_package(with_package(HEALTHY, Package("protobuf", "3.20.3")), Package("hpsv2", "1.2.0"))
    found = only(facts)
    assert "3.20.3 (hpsv2 pins it; grpo-bench needs no hpsv2)" in found.sentence
    assert found.mend == "/v/bin/python -m pip install 'protobuf>=5'"


@pytest.mark.parametrize(
    ("torch", "gpus", "said", "mend"),
    [
        (Torch("2.13.0", "13.0", driver_error="RuntimeError: Found no NVIDIA driver on your system."), (),
         "built for CUDA 13.0 and finds no NVIDIA driver, which matters only with a GPU", "nvidia-smi"),
        (Torch("2.13.0", "13.0", driver_error="RuntimeError: The NVIDIA driver on your system is too old (found 11)."),
         ("NVIDIA A100",), "the NVIDIA driver is too old for a torch built for CUDA 13.0", "update the driver"),
        (Torch("2.13.0", "13.0", driver_error="RuntimeError: No CUDA GPUs are available"), ("NVIDIA A100",),
         "torch cannot use NVIDIA A100 (RuntimeError: No CUDA GPUs are available)", "nvidia-smi"),
        (Torch("2.13.0+cpu"), ("NVIDIA A100",), "torch is built for the CPU and leaves NVIDIA A100 idle", "install"),
    ],
)  # fmt: skip
def test_a_gpu_that_is_not_used(torch: Torch, gpus: tuple[str, ...], said: str, mend: str) -> None:
    found = only(replace(HEALTHY, torch=torch, host=replace(HEALTHY.host, gpus=gpus)))
    assert found.mark == "warn" and said in found.sentence and found.mend.startswith(mend)


def test_a_gpu_that_is_used() -> None:
    torch = Torch("2.13.0", "13.0", ("NVIDIA A100", "NVIDIA A100"), (80_000_000_000, 80_000_000_000), threads=2)
    said = {finding.subject: finding.sentence for finding in diagnose(replace(HEALTHY, torch=torch))}
    assert said["device"] == "CUDA: NVIDIA A100, 80 GB; a run uses the first of 2"


def test_more_threads_than_cores() -> None:
    found = only(replace(HEALTHY, torch=replace(HEALTHY.torch, threads=64)))
    assert found.sentence == "64 threads on 2 cores slow each other down"
    assert found.mend == "export OMP_NUM_THREADS=2"


def test_results_that_cannot_be_stored() -> None:
    full = only(replace(HEALTHY, host=replace(HEALTHY.host, disk_free=10_000_000)))
    assert (full.mark, full.sentence) == ("warn", "only 0.0 GB free at results")
    closed = only(replace(HEALTHY, host=replace(HEALTHY.host, results_error="Permission denied")))
    assert (closed.mark, closed.sentence) == ("fail", "runs cannot be stored in results: Permission denied")
    assert closed.mend == full.mend == "export GRPO_BENCH_RESULTS=FOLDER"


def test_no_hub_limits_models_and_rewards_that_are_not_cached() -> None:
    silent = replace(HEALTHY.hub, reachable=False, reason="timed out")
    uncached = Plugin("grpo_bench.rewards", "hps", "grpo-bench", weights=(HPS,), commercial=True)
    facts = replace(HEALTHY, hub=silent, plugins=(uncached,))
    found = {one.subject: one for one in wrong(facts)}
    assert set(found) == {"hub", "hps"}
    assert "https://huggingface.co cannot be reached (timed out)" in found["hub"].sentence
    assert found["hub"].mend == "export HF_HUB_OFFLINE=1"
    assert found["hps"].mark == "warn"
    assert (
        found["hps"].sentence
        == "not cached: HPS_v2.1_compressed.pt (1.97 GB); it cannot be used before that is fetched"
    )
    assert found["hps"].mend == "hf download xswu/HPSv2 HPS_v2.1_compressed.pt"
    # the same is well with a hub, and with none on purpose the hub itself is
    assert wrong(replace(facts, hub=HEALTHY.hub)) == []
    offline = replace(silent, offline="HF_HUB_OFFLINE", reason="")
    assert [one.subject for one in wrong(replace(facts, hub=offline))] == ["hps"]


@pytest.mark.parametrize("names", [("hps",), ("clip", "pickscore"), ("aesthetic", "hps", "image-reward")])
def test_a_cache_that_is_not_there_names_the_rewards_that_it_lacks(names: tuple[str, ...]) -> None:
    learned = tuple(Plugin("grpo_bench.rewards", name, "grpo-bench", weights=(HPS,)) for name in names)
    gone = replace(HEALTHY.hub, reachable=False, offline="HF_HUB_OFFLINE", cached=False)

    found = {one.subject: one for one in wrong(replace(HEALTHY, hub=gone, plugins=learned))}

    assert set(found) == {"cache", *names}
    assert f"the weights of {', '.join(names)} are" in found["cache"].sentence
    assert found["cache"].mend.startswith("export HF_HOME=")
    # with a hub it is made when it is needed; and rewards without weights need none
    assert wrong(replace(HEALTHY, hub=replace(gone, offline="", reachable=True), plugins=learned)) == []
    assert wrong(replace(HEALTHY, hub=gone, plugins=HEALTHY.plugins[:2])) == []


def test_files_of_two_repositories_are_fetched_by_one_command() -> None:
    weights = (
        Weights("a/head", "h e.pt", 3_700_000),
        Weights("b/clip", "c.json", 9, True),
        Weights("b/clip", "m.st", 2),
    )
    plugin = Plugin("grpo_bench.rewards", "x", "grpo-bench", weights=weights, licence="CC-BY-NC", commercial=False)
    found = only(
        replace(HEALTHY, hub=replace(HEALTHY.hub, offline="HF_HUB_OFFLINE", reachable=False), plugins=(plugin,))
    )
    assert found.sentence == (
        "only partly cached, without h e.pt (3.7 MB) and 1 more; it cannot be used before that is fetched; not for "
        "commercial use (CC-BY-NC)"
    )
    assert found.mend == "hf download a/head 'h e.pt' && hf download b/clip m.st"


def test_gated_models_need_a_token() -> None:
    found = only(replace(HEALTHY, hub=replace(HEALTHY.hub, token=False)))
    assert found.sentence.startswith("no token: gated models") and found.mend == "hf auth login"


def test_metadata_in_the_current_folder_that_hides_new_entry_points() -> None:
    # given an egg-info from before hps came, first on the path
    stale = Install("/here/grpo_bench.egg-info", "0.1.0", frozenset({"grpo_bench.methods:flat"}))
    found = only(replace(HEALTHY, installs=(stale, *HEALTHY.installs)))
    assert found.mark == "fail" and found.sentence.endswith("is older than another installation, and hides reward hps")
    assert found.mend == "rm -r /here/grpo_bench.egg-info"
    # beside the path it hides nothing yet
    found = only(replace(HEALTHY, installs=(*HEALTHY.installs, replace(stale, on_path=False))))
    assert found.mark == "warn" and "would not find reward hps" in found.sentence
    # and after the others, or with the same names, nothing at all
    assert wrong(replace(HEALTHY, installs=(*HEALTHY.installs, stale))) == []
    assert wrong(replace(HEALTHY, installs=(replace(stale, names=OWN), *HEALTHY.installs))) == []


def test_an_update_that_was_not_installed() -> None:
    new = {f"grpo_bench.methods:m{i}" for i in range(4)} | {"grpo_bench.policies:flux"}
    found = only(replace(HEALTHY, declared=OWN | new))
    assert (
        found.sentence
        == "the source has method m0, method m1, method m2, method m3 and 1 more, which came after it was installed"
    )
    assert found.mend == "/v/bin/python -m pip install -e ."


def test_plugins_that_break_and_plugins_that_clash() -> None:
    broken = Plugin("grpo_bench.rewards", "jazz", "jazz-rewards", "ModuleNotFoundError: No module named 'jazz_core'")
    twice = Plugin("grpo_bench.methods", "flat", "other-flat")
    found = {one.subject: one for one in wrong(replace(HEALTHY, plugins=(*HEALTHY.plugins, broken, twice)))}
    assert set(found) == {"jazz", "flat"} and {one.mark for one in found.values()} == {"fail"}
    assert "the reward from jazz-rewards cannot be loaded: ModuleNotFoundError" in found["jazz"].sentence
    assert found["jazz"].mend == "/v/bin/python -m pip install --force-reinstall jazz-rewards"
    assert "registered by both grpo-bench and other-flat" in found["flat"].sentence
    assert found["flat"].mend == "/v/bin/python -m pip uninstall -y other-flat"


def test_environments_of_official_backends() -> None:
    def state(word: str) -> Facts:
        return replace(HEALTHY, plugins=(Plugin("grpo_bench.rewards", "hps", "grpo-bench", environment=word),))

    assert wrong(state("installed")) == wrong(state("not installed")) == []
    found = only(state("outdated"))
    assert (found.mark, found.mend) == ("warn", "grpo-bench rewards install hps")


@pytest.mark.parametrize(
    ("version", "bound", "expected"),
    [
        ("2.13.0+cpu", ">=2.6", True), ("2.5.1", ">=2.6", False), ("0.42.1", ">=0.42,<1", True),
        ("1.0.0", ">=0.42,<1", False), ("2.6", ">=2.6.0", True), ("10.0", ">=9", True), ("5", "==5.0.0", True),
        ("5.1", "!=5.1", False), ("3", "", True),
    ],
)  # fmt: skip
def test_versions_and_bounds(version: str, bound: str, expected: bool) -> None:
    assert fits(version, bound) is expected


def test_requirements_as_metadata_writes_them() -> None:
    assert parse("Huggingface_Hub[torch] <3, >=1.23 ; python_version > '3'") == parse("huggingface-hub>=1.23,<3")
    assert parse("torch==2.14.0").bound == "==2.14.0"


@pytest.mark.slow
def test_a_torchvision_package_that_breaks_imports_is_seen(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    # given a torchvision that fails as the CUDA build does beside a CPU torch
    (tmp_path / "torchvision").mkdir()
    (tmp_path / "torchvision" / "__init__.py").write_text(
        "raise RuntimeError('operator torchvision::nms does not exist')"
    )
    info = tmp_path / "torchvision-0.29.2.dist-info"
    info.mkdir()
    (info / "METADATA").write_text(
        "Metadata-Version: 2.1\nName: torchvision\nVersion: 0.29.2\nRequires-Dist: torch==2.14.0\n"
    )
    monkeypatch.syspath_prepend(str(tmp_path))

    found, _ = imported(["torchvision", "transformers"])

    errors = {one.module: one.error for one in found}
    assert errors["torchvision"] == NMS
    assert "operator torchvision::nms does not exist" in errors["transformers"]
    facts = Facts(packages=tuple(packages()), imports=tuple(found))
    finding = next(one for one in diagnose(facts) if one.subject == "torchvision")
    assert finding.mark == "fail" and finding.sentence.startswith("0.29.2 is made for torch 2.14.0")


@pytest.mark.parametrize(
    ("code", "seconds", "said"),
    [
        ("import os, signal; os.kill(os.getpid(), signal.SIGSEGV)", 30, "the process ended with code -11"),
        ("import time; time.sleep(60)", 1.5, "it had not ended after 1.5 s"),
        ("print('chatter'); raise SystemExit(3)", 30, "SystemExit: 3"),
        (
            "import sys; sys.stdout.close(); import no_such_thing",
            30,
            "ModuleNotFoundError: No module named 'no_such_thing'",
        ),
    ],
    ids=["crash", "hang", "exit", "missing"],
)
def test_a_module_that_takes_its_process_down_is_named(
    code: str, seconds: float, said: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "pit.py").write_text(code)
    monkeypatch.syspath_prepend(str(tmp_path))
    found, torch = imported(["json", "pit"], seconds)
    assert [one.module for one in found] == ["json", "pit"]
    assert found[0].error == "" and found[1].error.startswith(said)
    assert torch == Torch()


@pytest.mark.slow
def test_imports_and_entry_points_are_looked_at_in_one_process(monkeypatch: pytest.MonkeyPatch) -> None:
    asked = count_questions(monkeypatch)

    attempts, _, loaded = examined(["safetensors", "filelock"])

    assert asked == ["both"]
    assert [(one.module, one.error) for one in attempts] == [("safetensors", ""), ("filelock", "")]
    assert {("method", "flat"), ("reward", "shapes"), ("policy", "sd3")} <= {(one.kind, one.name) for one in loaded}


@pytest.mark.slow
@pytest.mark.parametrize("code", ["import os\nos._exit(3)\n", "import os\nos.kill(os.getpid(), 9)\n"])
def test_an_import_that_takes_its_process_down_hides_no_entry_point(
    code: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "pit.py").write_text(code)
    monkeypatch.syspath_prepend(str(tmp_path))
    asked = count_questions(monkeypatch)

    attempts, _, loaded = examined(["filelock", "pit"])

    assert asked == ["both", "plugins"]
    assert [(one.module, bool(one.error)) for one in attempts] == [("filelock", False), ("pit", True)]
    assert ("method", "flat") in {(one.kind, one.name) for one in loaded}


def count_questions(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """The jobs that processes are started for."""
    asked: list[str] = []
    real = probes.ask
    monkeypatch.setattr(probes, "ask", lambda job, *rest: asked.append(job) or real(job, *rest))
    return asked


def test_entry_points_are_loaded_elsewhere_and_a_broken_one_is_named(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    info = tmp_path / "jazz_rewards-1.0.dist-info"
    info.mkdir()
    (info / "METADATA").write_text("Metadata-Version: 2.1\nName: jazz-rewards\nVersion: 1.0\n")
    (info / "entry_points.txt").write_text("[grpo_bench.rewards]\njazz = jazz_of_a_test:Jazz\n")
    (tmp_path / "jazz_of_a_test.py").write_text("import sys\nsys.modules['loaded'] = sys\nimport jazz_core\n")
    monkeypatch.syspath_prepend(str(tmp_path))

    found = {(one.kind, one.name): one for one in plugins(("grpo_bench.methods", "grpo_bench.rewards"))}

    assert found["reward", "jazz"].error == "ModuleNotFoundError: No module named 'jazz_core'"
    assert found["reward", "jazz"].origin == "jazz-rewards"
    assert not found["method", "flat"].error and not found["reward", "shapes"].error
    assert "jazz_of_a_test" not in sys.modules


def test_damaged_metadata_of_grpo_bench_hides_no_other_package(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    # given an egg-info without requirements, first on the path
    (tmp_path / "grpo_bench.egg-info").mkdir()
    (tmp_path / "grpo_bench.egg-info" / "PKG-INFO").write_text(
        "Metadata-Version: 2.1\nName: grpo-bench\nVersion: 0.1\n"
    )
    monkeypatch.syspath_prepend(str(tmp_path))
    found = {package.name: package for package in packages()}
    assert found["grpo-bench"].version == "0.1"
    assert found["torch"].version and found["diffusers"].version


def test_metadata_is_read_in_the_order_of_the_path(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for folder, name in (("here", "grpo_bench.egg-info"), ("site", "grpo_bench-0.2.dist-info")):
        (tmp_path / folder / name).mkdir(parents=True)
        (tmp_path / folder / name / "entry_points.txt").write_text(f"[grpo_bench.rewards]\n{folder} = a:B\n")
    monkeypatch.setattr(sys, "path", [str(tmp_path / "site")])
    first, second = installs([str(tmp_path / "site"), str(tmp_path / "here")])
    assert (first.version, first.names, first.on_path) == ("0.2", frozenset({"grpo_bench.rewards:site"}), True)
    assert (second.version, second.names, second.on_path) == ("", frozenset({"grpo_bench.rewards:here"}), False)


@pytest.mark.parametrize("name", ["grpo_bench-extra.dist-info", "grpo_bench_jazz.egg-info", "grpo_bench-jazz.egg-info"])
def test_a_package_whose_name_begins_alike_is_left_alone(
    name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Its metadata would else be called old, and its removal advised."""
    (tmp_path / name).mkdir()
    file = "PKG-INFO" if name.endswith("egg-info") else "METADATA"
    (tmp_path / name / file).write_text("Metadata-Version: 2.1\nName: grpo-bench-extra\nVersion: 1.0\n")
    monkeypatch.syspath_prepend(str(tmp_path))

    assert not [one for one in installs([str(tmp_path)]) if "extra" in one.path or "jazz" in one.path]


def test_the_sources_entry_points(tmp_path: Path) -> None:
    file = tmp_path / "pyproject.toml"
    file.write_text('[project]\nname = "grpo-bench"\n[project.entry-points."grpo_bench.methods"]\nflat = "a:B"\n')
    assert declared_entry_points(file) == {"grpo_bench.methods:flat"}
    file.write_text('[project]\nname = "somebody-elses"\n[project.entry-points.x]\ny = "a:B"\n')
    assert declared_entry_points(file) == declared_entry_points(tmp_path / "none") == frozenset()


class _Answers(http.server.BaseHTTPRequestHandler):
    def do_HEAD(self) -> None:
        self.send_response(403 if self.path == "/no" else 200)
        self.end_headers()

    def log_message(self, format: str, *args: object) -> None:
        """Nothing."""


@pytest.fixture
def online(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """As outside the tests: no variable forbids the hub, no proxy answers for it, no token is stored."""
    for name in ("HF_HUB_OFFLINE", "TRANSFORMERS_OFFLINE", "HF_TOKEN", "HF_TOKEN_PATH", "HTTP_PROXY", "http_proxy"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("HF_HOME", str(tmp_path))
    monkeypatch.setenv("NO_PROXY", "127.0.0.1")


@pytest.fixture
def server() -> Iterator[str]:
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), _Answers) as running:
        threading.Thread(target=running.serve_forever, daemon=True).start()
        yield f"http://127.0.0.1:{running.server_port}"
        running.shutdown()


@pytest.mark.parametrize("path", ["", "/no"])
@pytest.mark.usefixtures("online")
def test_a_hub_that_answers_is_there_whatever_it_says(
    path: str, server: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("HF_ENDPOINT", server + path)
    (tmp_path / "token").write_text("secret-of-a-user")
    found = hub()
    assert found.reachable and found.token
    assert "secret" not in repr(found)


@pytest.mark.slow
@pytest.mark.usefixtures("online")
def test_a_hub_that_is_silent_or_closed_is_given_up_within_seconds(monkeypatch: pytest.MonkeyPatch) -> None:
    # given a port that takes connections and never answers
    with socket.create_server(("127.0.0.1", 0)) as silent:
        monkeypatch.setenv("HF_ENDPOINT", f"http://127.0.0.1:{silent.getsockname()[1]}")
        started = time.monotonic()
        found = hub()
        assert time.monotonic() - started < 6
    assert (found.reachable, found.reason, found.token) == (False, "timed out", False)
    # then a closed one says so at once
    assert hub().reason == "Connection refused"


def test_an_offline_hub_is_not_asked(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    monkeypatch.setenv("HF_ENDPOINT", "http://256.0.0.1")
    assert (hub().offline, hub().reason) == ("HF_HUB_OFFLINE", "")


def test_what_is_cached_is_the_main_branchs_file(tmp_path: Path) -> None:
    folder = tmp_path / "models--a--b"
    (folder / "snapshots" / "0123" / "sub").mkdir(parents=True)
    (folder / "snapshots" / "0123" / "sub" / "x.pt").touch()
    assert not is_cached(tmp_path, "a/b", "sub/x.pt")
    (folder / "refs").mkdir()
    (folder / "refs" / "main").write_text("0123")
    assert is_cached(tmp_path, "a/b", "sub/x.pt")
    assert not is_cached(tmp_path, "a/b", "y.pt")


def test_the_disk_is_asked_where_runs_would_lie(tmp_path: Path) -> None:
    found = host(tmp_path / "not" / "yet" / "there")
    assert found.results_error == ""
    assert found.disk_free == pytest.approx(shutil.disk_usage(tmp_path).free, rel=0.05)
    (tmp_path / "file").touch()
    assert host(tmp_path / "file").results_error == "Not a directory"


def test_what_is_shown_fits_and_is_harmless() -> None:
    evil = Plugin("grpo_bench.rewards", "x\x1b[31m", "o", "Error: [bold]\x1b]0;owned\x07 " + "long " * 60)
    for width in (80, 120):
        console = Console(width=width, force_terminal=False, highlight=False)
        with console.capture() as captured:
            print_health(diagnose(replace(HEALTHY, plugins=(*HEALTHY.plugins, evil))), console)
        text = captured.get()
        assert "\x1b" not in text and "[bold]" in text
        assert max(len(line) for line in text.splitlines() if "mend: " not in line) <= width
        assert text.rstrip().endswith("1 cannot work, 0 limited")


def test_json_has_the_findings_and_the_facts() -> None:
    said = json.loads(json.dumps(health_json(HEALTHY, diagnose(HEALTHY))))
    assert said["ok"] is True
    assert said["facts"]["torch"]["version"] == "2.13.0+cpu"
    assert {"section", "mark", "subject", "sentence", "mend"} == set(said["findings"][0])
    failed = [Finding("software", "fail", "x", "y")]
    assert health_json(HEALTHY, failed)["ok"] is False


@pytest.mark.slow
def test_the_command_loads_nothing_heavy_itself_and_says_by_its_exit_code_whether_all_works(tmp_path: Path) -> None:
    # given a broken package first on the path, and an interpreter that says at its exit what it has loaded
    (tmp_path / "diffusers.py").write_text("raise ImportError('broken for a test')")
    code = (
        "import atexit, json, sys\n"
        "atexit.register(lambda: print(json.dumps(sorted(sys.modules)), file=sys.stderr))\n"
        "sys.argv = ['grpo-bench', 'doctor', '--json']\n"
        "from grpo_bench.cli import main\nmain()\n"
    )
    variables = environment(PYTHONPATH=f"{tmp_path}{os.pathsep}{ROOT}")
    done = subprocess.run([sys.executable, "-c", code], cwd=tmp_path, env=variables, capture_output=True, text=True,
                          timeout=150, check=False)  # fmt: skip
    said = json.loads(done.stdout)
    assert not {"torch", "diffusers", "transformers"} & set(json.loads(done.stderr.splitlines()[-1]))
    assert done.returncode == 1 and said["ok"] is False
    found = next(one for one in said["findings"] if one["subject"] == "diffusers")
    assert "cannot be imported: ImportError: broken for a test" in found["sentence"]
    assert re.search(r"-m pip install --force-reinstall --no-deps diffusers==", found["mend"])
