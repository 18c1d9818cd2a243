"""Where a run ran: versions, device, threads, determinism flags, source commit (RULES.md, "Provenance").

Everything here is a best effort that never fails: a field that cannot be read is None. torch is looked at only when the
run has imported it already.
"""

from __future__ import annotations

import os
import platform
import subprocess
import sys
from importlib import metadata
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from pydantic import JsonValue

PACKAGES = ("grpo-bench", "torch", "diffusers", "transformers", "peft", "accelerate", "safetensors", "numpy")
FLAGS = ("OMP_NUM_THREADS", "MKL_NUM_THREADS", "GOMP_SPINCOUNT", "CUBLAS_WORKSPACE_CONFIG", "PYTHONHASHSEED")


def environment() -> dict[str, JsonValue]:
    """The machine and the software of this process, as JSON; no user name, host name or path is in it."""
    commit, dirty = source_commit()
    return {
        "python": platform.python_version(),
        "platform": platform.platform(),
        "packages": {name: _version(name) for name in PACKAGES},
        "commit": commit,
        "dirty": dirty,
        "cpu": cpu_model(),
        "cpu_count": os.cpu_count(),
        "cpu_usable": _usable_cores(),
        "memory_bytes": total_memory_bytes(),
        "variables": {name: os.environ.get(name) for name in FLAGS},
        "torch": torch_settings(),
    }


def torch_settings() -> dict[str, JsonValue] | None:
    """Device, driver, threads, precision and determinism flags of torch; None while torch is not imported."""
    if "torch" not in sys.modules:
        return None
    import torch

    cuda = torch.cuda.is_available()
    names: list[JsonValue] = [torch.cuda.get_device_name(i) for i in range(torch.cuda.device_count())] if cuda else []
    return {
        "devices": names,
        "driver": _output("nvidia-smi", "--query-gpu=driver_version", "--format=csv,noheader") if cuda else None,
        "cuda": torch.version.cuda,
        "threads": torch.get_num_threads(),
        "interop_threads": torch.get_num_interop_threads(),
        "deterministic_algorithms": torch.are_deterministic_algorithms_enabled(),
        "cudnn_deterministic": torch.backends.cudnn.deterministic,
        "cudnn_benchmark": torch.backends.cudnn.benchmark,
        "float32_matmul_precision": torch.get_float32_matmul_precision(),
    }


def source_commit() -> tuple[str | None, bool | None]:
    """The git commit of the checkout this package is imported from, and whether tracked files differ from it.

    (None, None) when it is installed from a wheel, even if a virtual environment lies inside somebody else's
    repository: the file asked about must be tracked there.
    """
    package = Path(__file__).resolve().parents[1]
    if _git(package, "ls-files", "--error-unmatch", "__init__.py") is None:
        return None, None
    changes = _git(package, "status", "--porcelain", "--untracked-files=no")
    return _git(package, "rev-parse", "HEAD"), None if changes is None else bool(changes)


def peak_memory_bytes() -> int:
    """The device's peak allocation where CUDA has allocated anything, else the process's peak resident memory."""
    if "torch" in sys.modules:
        import torch

        # zero without a device, and before the first allocation on it
        allocated = torch.cuda.max_memory_allocated()
        if allocated:
            return allocated
    return host_peak_memory_bytes()


def host_peak_memory_bytes() -> int:
    """Peak resident memory of this process in bytes; 0 where the system does not tell."""
    if sys.platform == "win32":
        return _windows_peak()
    else:
        import resource

        # VmHWM belongs to this program; ru_maxrss also remembers the parent that started it
        for line in _lines("/proc/self/status"):
            if line.startswith("VmHWM:"):
                return int(line.split()[1]) * 1024
        peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
        return peak if sys.platform == "darwin" else peak * 1024


def total_memory_bytes() -> int | None:
    """Physical memory of the machine in bytes, None where the system does not tell."""
    if sys.platform == "win32":
        return None
    else:
        try:
            return os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
        except (OSError, ValueError):
            return None


def cpu_model() -> str | None:
    """The processor's marketing name, else what the platform calls it."""
    if sys.platform == "darwin":
        return _output("sysctl", "-n", "machdep.cpu.brand_string")
    else:
        names = [line for line in _lines("/proc/cpuinfo") if line.startswith("model name")]
        if names:
            return names[0].partition(":")[2].strip()
        return platform.processor() or platform.machine() or None


def _usable_cores() -> int | None:
    if sys.platform == "linux":
        return len(os.sched_getaffinity(0))
    else:
        return os.cpu_count()


def _version(package: str) -> str | None:
    try:
        return metadata.version(package)
    except metadata.PackageNotFoundError:
        return None


def _lines(path: str) -> list[str]:
    try:
        return Path(path).read_text(encoding="utf-8", errors="replace").splitlines()
    except OSError:
        return []


def _git(folder: Path, *arguments: str) -> str | None:
    return _output("git", "-C", str(folder), *arguments)


def _output(*command: str) -> str | None:
    """What a command prints, None when it is missing, fails or hangs; a hook's GIT_DIR must not lead git astray."""
    variables = {name: value for name, value in os.environ.items() if not name.startswith("GIT_")}
    try:
        done = subprocess.run(
            command, capture_output=True, text=True, errors="replace", timeout=10, env=variables, check=False
        )
    except (OSError, subprocess.SubprocessError):
        return None
    return done.stdout.strip() if done.returncode == 0 else None


def _windows_peak() -> int:
    """PeakWorkingSetSize of PROCESS_MEMORY_COUNTERS (psapi), 0 when the call fails."""
    if sys.platform == "win32":
        import ctypes
        from ctypes import wintypes

        class Counters(ctypes.Structure):
            _fields_ = [("cb", wintypes.DWORD), ("PageFaultCount", wintypes.DWORD)] + [
                (name, ctypes.c_size_t) for name in ("PeakWorkingSetSize", *(f"other{i}" for i in range(7)))
            ]

        counters = Counters()
        counters.cb = ctypes.sizeof(counters)
        kernel = ctypes.WinDLL("kernel32")
        kernel.GetCurrentProcess.restype = wintypes.HANDLE
        read = kernel.K32GetProcessMemoryInfo
        read.argtypes = [wintypes.HANDLE, ctypes.POINTER(Counters), wintypes.DWORD]
        if not read(kernel.GetCurrentProcess(), ctypes.byref(counters), counters.cb):
            return 0
        return int(counters.PeakWorkingSetSize)
    else:
        return 0
