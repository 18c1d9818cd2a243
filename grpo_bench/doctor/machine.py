"""Where runs would run: device, threads, memory, disk; and whether models can be fetched."""

from __future__ import annotations

from grpo_bench.doctor.facts import GB, Facts, Finding, shown

LITTLE_DISK = 2 * GB


def device(facts: Facts) -> list[Finding]:
    """Which device runs use, and why not a GPU that is there."""
    torch, gpus = facts.torch, facts.host.gpus
    if not torch.version:
        return [Finding("device", "fail", "device", "torch cannot be asked, see above")]
    if torch.devices:
        sizes = [f"{name}, {size / GB:.0f} GB" for name, size in zip(torch.devices, torch.device_bytes, strict=False)]
        more = "" if len(sizes) == 1 else f"; a run uses the first of {len(sizes)}"
        return [Finding("device", "ok", "device", f"CUDA: {sizes[0]}{more}")]
    cpu = f"CPU: {facts.host.cpu or facts.host.platform}"
    page = "install torch with the command of PyTorch's 'Get started' page"
    if not torch.cuda:
        if not gpus:
            return [Finding("device", "ok", "device", cpu)]
        return [
            Finding("device", "warn", "device", f"{cpu}; torch is built for the CPU and leaves {gpus[0]} idle", page)
        ]
    error = torch.driver_error or "no device is visible"
    if "too old" in error:
        said = f"{cpu}; the NVIDIA driver is too old for a torch built for CUDA {torch.cuda}"
        return [Finding("device", "warn", "device", said, f"update the driver, or {page} for its CUDA")]
    if gpus:
        return [Finding("device", "warn", "device", f"{cpu}; torch cannot use {gpus[0]} ({error})", "nvidia-smi")]
    said = f"{cpu}; torch is built for CUDA {torch.cuda} and finds no NVIDIA driver, which matters only with a GPU"
    return [Finding("device", "warn", "device", said, "nvidia-smi   (must list the GPU; install its driver if not)")]


def threads(facts: Facts) -> list[Finding]:
    """Threads and memory."""
    host, used = facts.host, facts.torch.threads
    said = f"{used} of {host.cores} cores" if used else f"{host.cores} cores"
    variable = f" (OMP_NUM_THREADS={host.omp_threads})" if host.omp_threads else ""
    found = []
    if used > host.cores > 0:
        said = f"{used} threads on {host.cores} cores slow each other down{variable}"
        found.append(Finding("device", "warn", "threads", said, f"export OMP_NUM_THREADS={host.cores}"))
    elif said:
        found.append(Finding("device", "ok", "threads", f"{said}{variable}"))
    if host.memory:
        found.append(Finding("device", "ok", "memory", f"{host.memory / GB:.1f} GB"))
    return found


def disk(facts: Facts) -> list[Finding]:
    """Whether runs can be stored."""
    host = facts.host
    if host.results_error:
        said = f"runs cannot be stored in {host.results}: {host.results_error}"
        return [Finding("device", "fail", "disk", said, "export GRPO_BENCH_RESULTS=FOLDER")]
    said = f"{host.disk_free / GB:.1f} GB free at {host.results}"
    if host.disk_free < LITTLE_DISK:
        return [Finding("device", "warn", "disk", f"only {said}", "export GRPO_BENCH_RESULTS=FOLDER")]
    return [Finding("device", "ok", "disk", said)]


def hub(facts: Facts) -> list[Finding]:
    """Whether models can be fetched."""
    asked = facts.hub
    if asked.offline:
        said = f"not asked, because {asked.offline} is set: only what is in {shown(asked.cache)} can be loaded"
        return [Finding("hub", "ok", "hub", said)]
    if asked.reachable:
        return [Finding("hub", "ok", "hub", f"{asked.endpoint} answers; the cache is {shown(asked.cache)}")]
    said = (
        f"{asked.endpoint} cannot be reached ({asked.reason}): only what is in {shown(asked.cache)} can be loaded, "
        "and a look-up of a model waits 20 s"
    )
    return [Finding("hub", "warn", "hub", said, "export HF_HUB_OFFLINE=1")]


def token(facts: Facts) -> list[Finding]:
    """Whether gated models can be fetched; of no matter where there is no hub."""
    if facts.hub.offline or not facts.hub.reachable:
        return []
    if facts.hub.token:
        return [Finding("hub", "ok", "login", "a token is stored")]
    said = "no token: gated models, such as Stable Diffusion 3 and 3.5, cannot be fetched"
    return [Finding("hub", "warn", "login", said, "hf auth login")]
