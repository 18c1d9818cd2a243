"""What a resume needs, in files that can be read without running anything: safetensors and JSON, never a pickle."""

from __future__ import annotations

import json
import os
import re
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import torch
from pydantic import JsonValue
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor

from grpo_bench.errors import Diverged
from grpo_bench.guard import calling
from grpo_bench.metering.ledger import Ledger
from grpo_bench.sampling.handle import Metered
from grpo_bench.training.credit_log import CreditLog
from grpo_bench.training.session import Session

OPTIMISER = "optimiser.safetensors"
EMA = "ema.safetensors"
AVERAGES = "averages.safetensors"
STATE = "state.json"


def save(folder: Path, session: Session) -> None:
    """Write the model in diffusers' format, the optimiser's moments, and every counter and state as JSON.

    Random streams need no state: they are counters named by seed and iteration.

    Raises:
        OSError: a full or failing disk.
    """
    with _disk_errors():
        session.policy.save(folder)
        save_file(_moments(session), folder / OPTIMISER)
        save_file(session.ema.tensors(), folder / EMA)
        save_file(session.averages.tensors(), folder / AVERAGES)
    with calling(f"method {session.method.name!r}"):
        method = json.loads(json.dumps(session.method.state_dict()))
    state: dict[str, JsonValue] = {
        "ledger": session.ledger.state_dict(),
        "method": method,
        "evaluated_nfe": session.evaluated_nfe,
        "credit_log": json.loads(json.dumps(session.credit_log.state_dict())),
    }
    (folder / STATE).write_text(json.dumps(state), encoding="utf-8")


@torch.no_grad()
def check_sound(session: Session) -> None:
    """Look at every weight, and at one evaluation of every network, which is charged to no ledger of the run.

    Raises:
        Diverged: one of them is not finite.
    """
    after = f"after iteration {session.ledger.iterations}"
    for name, weight in session.policy.parameters():
        if not bool(torch.isfinite(weight).all()):
            raise Diverged(f"the weight {name} holds a NaN or Inf {after}")
    policy = session.policy
    conditioning = session.evaluator.conditioning.select(torch.zeros(1, dtype=torch.int64, device=policy.device))
    x_BZ = torch.zeros((1, *policy.latent_shape), device=policy.device)
    handle = Metered(policy, Ledger(), guidance=session.handle.guidance, batch=1)
    for regime, sigma in handle.served(session.schedule.sigmas[:-1].tolist()).items():
        sigma_B = torch.full((1,), sigma, device=policy.device)
        if not bool(torch.isfinite(handle.predict(x_BZ, sigma_B, conditioning, "setup", regime)).all()):
            raise Diverged(f"the policy gives a NaN or Inf {after}")


def load(folder: Path, session: Session) -> None:
    """Put back what `save` wrote, bit for bit."""
    session.policy.restore(folder)
    _load_moments(load_file(folder / OPTIMISER), session)
    session.ema.load(load_file(folder / EMA))
    session.averages.load(_averages(folder, session))
    state = json.loads((folder / STATE).read_text(encoding="utf-8"))
    session.ledger.load_state_dict(state["ledger"])
    with calling(f"method {session.method.name!r}"):
        session.method.load_state_dict(state["method"])
    session.evaluated_nfe = state["evaluated_nfe"]
    session.credit_log = CreditLog(**state.get("credit_log", {}))  # checkpoints of earlier versions have none


def _averages(folder: Path, session: Session) -> dict[str, Tensor]:
    """The method's averages; earlier versions kept one, without its name."""
    if (folder / AVERAGES).exists():
        return load_file(folder / AVERAGES)
    old = load_file(folder / "behaviour.safetensors")
    return {f"{name}/{key}": value for name in session.method.averages for key, value in old.items()}


@contextmanager
def _disk_errors() -> Iterator[None]:
    """Give safetensors' errors of the disk, which are a kind of their own, the type that the rest of Python uses."""
    try:
        yield
    except SafetensorError as error:
        number = re.search(r"os error (\d+)", str(error))
        if number is None:
            raise
        raise OSError(int(number[1]), os.strerror(int(number[1]))) from error


def _moments(session: Session) -> dict[str, Tensor]:
    """AdamW's `step`, `exp_avg` and `exp_avg_sq` of every trained weight; empty before the first update."""
    return {
        f"{name}/{key}": value.detach().contiguous()
        for name, weight in session.policy.parameters()
        for key, value in session.optimiser.state.get(weight, {}).items()
    }


def _load_moments(stored: dict[str, Tensor], session: Session) -> None:
    for name, weight in session.policy.parameters():
        prefix = f"{name}/"
        moments = {key.removeprefix(prefix): value.clone() for key, value in stored.items() if key.startswith(prefix)}
        if moments:
            # AdamW keeps its step counter on the CPU, whatever the weight's device.
            session.optimiser.state[weight] = {
                key: value if key == "step" else value.to(weight.device, torch.float32)
                for key, value in moments.items()
            }
