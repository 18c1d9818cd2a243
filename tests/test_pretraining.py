"""What the built-in models share: a training that was ended goes on to the same weights."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from grpo_bench.workloads.pretraining.checkpoint import Checkpoint
from grpo_bench.workloads.pretraining.designs import DESIGNS, design
from grpo_bench.workloads.pretraining.fitting import Pictures


def train(folder: Path | None, steps: int, stop: int) -> torch.Tensor:
    """Weights of a linear map after `stop` of `steps` noisy steps of AdamW, from where the folder's checkpoint is."""
    torch.manual_seed(0)
    layer = torch.nn.Linear(3, 1)
    optimiser = torch.optim.AdamW(layer.parameters(), lr=0.1)
    generator = torch.Generator().manual_seed(0)
    for step in Checkpoint(folder).of("phase", list(layer.parameters()), optimiser, generator).steps(steps):
        if step == stop:
            break
        optimiser.zero_grad()
        layer(torch.randn(4, 3, generator=generator)).square().mean().backward()
        optimiser.step()
    return layer.weight.detach().clone()


@pytest.mark.parametrize("stop", [100, 150])
def test_a_training_that_was_ended_goes_on_to_the_same_weights(tmp_path: Path, stop: int) -> None:
    whole = train(None, 200, 200)
    train(tmp_path, 200, stop)
    assert torch.equal(train(tmp_path, 200, 200), whole)


def test_a_finished_training_is_not_repeated(tmp_path: Path) -> None:
    done = train(tmp_path, 20, 20)
    assert torch.equal(train(tmp_path, 20, 0), done)


@pytest.mark.parametrize("name", DESIGNS)
def test_every_design_draws_captioned_pictures(name: str) -> None:
    pictures = design(name).draw(3, 0)
    assert isinstance(pictures, Pictures)
    assert pictures.pixels.shape == (3, 3, 32, 32)
    assert pictures.pixels.dtype == torch.uint8
    assert int(pictures.caption.max()) < len(pictures.captions)
