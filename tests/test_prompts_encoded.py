"""Prompts are encoded when an iteration needs them, in a batch of fixed size, with the encoders kept off the device."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pytest
import torch
from tiny import CPU, policy
from tinysd import make_sd, sd_policy

from grpo_bench.config import ModelSection
from grpo_bench.policies.base import Policy
from grpo_bench.policies.texts import ENCODE_BATCH, visiting
from grpo_bench.sampling.handle import Conditioning
from grpo_bench.training.prompts import Encoded
from grpo_bench.workloads.gaussian.policy import GaussianDenoiser, GaussianPolicy

PROMPTS = [f"number {i}" for i in range(3 * ENCODE_BATCH)]


@pytest.fixture(scope="module", params=["sd3", "sd", "gaussian"])
def loaded(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory, tiny_model: Path) -> Policy:
    if request.param == "sd3":
        return policy(tiny_model)
    if request.param == "sd":
        return sd_policy(make_sd(tmp_path_factory.mktemp("sd")))
    settings = ModelSection.model_validate({"policy": "gaussian", "height": 8, "width": 8, "max_sequence_length": 0})
    return GaussianPolicy(GaussianDenoiser(), settings, CPU)


def same(left: Conditioning, right: Conditioning) -> bool:
    """Whether features are equal to the last bit."""
    pairs = [(left.tensors, right.tensors), (left.empty, right.empty)]
    return all(a.keys() == b.keys() and all(torch.equal(a[name], b[name]) for name in a) for a, b in pairs)


def spied(loaded: Policy, monkeypatch: pytest.MonkeyPatch) -> list[list[str]]:
    """The prompts of every later call of `encode`."""
    calls, encode = [], loaded.encode

    def spy(prompts: Sequence[str]) -> Conditioning:
        calls.append(list(prompts))
        return encode(prompts)

    monkeypatch.setattr(loaded, "encode", spy)
    return calls


@pytest.mark.parametrize("chosen", [[13], [0, 1], [23, 5, 17, 2, 11, 7, 3, 1, 0, 20]])
def test_features_do_not_depend_on_the_company_or_the_place(loaded: Policy, chosen: list[int]) -> None:
    everything = loaded.encode(PROMPTS)

    some = loaded.encode([PROMPTS[index] for index in chosen])

    assert same(some, everything.select(torch.tensor(chosen)))


def test_features_come_back_the_same_from_the_cache_and_after_leaving_it(
    loaded: Policy, monkeypatch: pytest.MonkeyPatch
) -> None:
    # given a cache of four, asked for prompts that it has, has lost, and is asked for twice at once
    everything, calls = loaded.encode(PROMPTS), spied(loaded, monkeypatch)
    encoded = Encoded(loaded, PROMPTS, kept=4)

    for index_P in ([3, 1], [1, 2], [5, 6, 7], [3, 1, 3], [7, 7]):
        assert same(encoded.rows(np.array(index_P)), everything.select(torch.tensor(index_P)))

    # then only what was not there was encoded: 3 and 1 were lost to 5, 6 and 7, and 7 was still there at the end
    assert calls == [[PROMPTS[i] for i in call] for call in ([3, 1], [2], [5, 6, 7], [3, 1])]


def test_an_iteration_may_have_more_prompts_than_are_kept(loaded: Policy) -> None:
    encoded, index_P = Encoded(loaded, PROMPTS, kept=2), np.arange(10)

    for _ in range(2):
        assert same(encoded.rows(index_P), loaded.encode(PROMPTS[:10]))
    assert len(encoded._rows) == 2


@pytest.mark.gpu
def test_modules_visit_a_device_and_come_back_as_they_were() -> None:
    # given two modules that share a weight
    first, second = torch.nn.BatchNorm1d(2), torch.nn.BatchNorm1d(2)
    second.weight = first.weight
    before = [
        (tensor, tensor.data_ptr()) for part in (first, second) for tensor in part.state_dict(keep_vars=True).values()
    ]

    with pytest.raises(ValueError, match="inside"), visiting([first, second], torch.device("cuda")):
        assert {tensor.device.type for tensor, _ in before} == {"cuda"}
        raise ValueError("inside")

    assert {tensor.device.type for tensor, _ in before} == {"cpu"}
    assert [tensor.data_ptr() for tensor, _ in before] == [place for _, place in before]


@pytest.mark.gpu
@pytest.mark.parametrize("dtype", ["fp32", "bf16"])
def test_encoders_stay_off_the_device_and_the_rest_is_on_it(tiny_model: Path, dtype: str) -> None:
    from grpo_bench.policies.sd3 import SD3Policy

    on_gpu = SD3Policy.load(str(tiny_model), policy(tiny_model, dtype=dtype).settings, torch.device("cuda"))
    conditioning = on_gpu.encode(PROMPTS)

    assert {weight.device.type for part in on_gpu._encoders() for weight in part.parameters()} == {"cpu"}
    assert {value.device.type for value in conditioning.tensors.values()} == {"cpu"}
    assert {weight.device.type for weight in on_gpu.denoiser.parameters()} == {"cuda"}
    assert same(conditioning, on_gpu.encode(PROMPTS))
