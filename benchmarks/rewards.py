"""How much faster a reward scores images in one batch than one at a time. Prints one JSON line.

    python benchmarks/rewards.py [--reward hps] [--size tiny] [--images 64] [--prompts 8] [--side 256] [--device cuda]

One at a time is a call an image, in which its prompt is tokenised and encoded anew, as the official packages do; `kept`
is one at a time with a prompt's features kept, as ours are between calls. Weights are random, in the published layout,
and with `--size published` of that size. Rounds alternate, so that a busy machine slows all alike; a ratio is the
median of the rounds' own.
"""

from __future__ import annotations

import argparse
import json
import statistics
import time
from collections.abc import Callable
from typing import Literal

import torch
from torch import Tensor
from transformers import BlipTextConfig, BlipVisionConfig, CLIPConfig, CLIPModel

from grpo_bench.rewarding import BlipJudge, ClipJudge, full_precision, short_side_cropped
from grpo_bench.rewarding.head import linear_head
from grpo_bench.workloads.shapes.preference import MODEL, TOKENIZER, WEIGHTS

Size = Literal["tiny", "published"]
Score = Callable[[Tensor, list[str]], Tensor]
VIT_H = {
    "vision_config": {
        "hidden_size": 1280, "intermediate_size": 5120, "num_hidden_layers": 32, "num_attention_heads": 16,
        "patch_size": 14, "image_size": 224, "hidden_act": "gelu",
    },
    "text_config": {
        "hidden_size": 1024, "intermediate_size": 4096, "num_hidden_layers": 24, "num_attention_heads": 16,
        "vocab_size": 49408, "hidden_act": "gelu", "bos_token_id": 49406, "eos_token_id": 49407,
    },
    "projection_dim": 1024,
}  # fmt: skip
TINY = {
    "vision_config": {
        "hidden_size": 160, "intermediate_size": 640, "num_hidden_layers": 2, "num_attention_heads": 2,
        "patch_size": 32, "image_size": 224, "hidden_act": "gelu",
    },
    "text_config": {
        "hidden_size": 128, "intermediate_size": 512, "num_hidden_layers": 2, "num_attention_heads": 2,
        "vocab_size": 49408, "hidden_act": "gelu", "bos_token_id": 49406, "eos_token_id": 49407,
    },
    "projection_dim": 64,
}  # fmt: skip


def hps(size: Size, device: torch.device) -> tuple[Score, Callable[[], None]]:
    """The score of HPS, and what makes it forget its prompts."""
    with device:
        model = CLIPModel(CLIPConfig(**(VIT_H if size == "published" else TINY))).eval().requires_grad_(False)
    judge = ClipJudge(model, "hps", padded=True)
    return judge.cosine, judge.forget


def image_reward(size: Size, device: torch.device) -> tuple[Score, Callable[[], None]]:
    """The score of ImageReward on prompts of 35 made-up tokens; it has nothing to forget, for it keeps nothing."""
    wide = size == "published"
    vision = {"hidden_size": 1024, "intermediate_size": 4096, "num_hidden_layers": 24, "num_attention_heads": 16}
    small = {"hidden_size": 128, "intermediate_size": 512, "num_hidden_layers": 2, "num_attention_heads": 2}
    text = {"num_hidden_layers": 12, "intermediate_size": 3072} if wide else {"num_hidden_layers": 2}
    head = {f"{name}.weight": torch.zeros(out, into) for name, out, into in
            (("0", 1024, 768), ("2", 128, 1024), ("4", 64, 128), ("6", 16, 64), ("7", 1, 16))}  # fmt: skip
    with device:
        judge = BlipJudge(
            BlipVisionConfig(**(vision if wide else small), patch_size=16 if wide else 32, image_size=224),
            BlipTextConfig(
                vocab_size=30524, hidden_size=768, num_attention_heads=12, is_decoder=True, use_cache=False,
                encoder_hidden_size=1024 if wide else 128, **text,
            ),
            linear_head(head, "a benchmark"),
        ).eval().requires_grad_(False)  # fmt: skip

    def score(images_BCHW: Tensor, prompts: list[str]) -> Tensor:
        ids_BT = torch.tensor([[101, *(len(prompt) + i for i in range(33)), 102] for prompt in prompts], device=device)
        prepared = short_side_cropped(images_BCHW, judge.side, "half-even")
        with full_precision(device):
            value_B: Tensor = judge(ids_BT, torch.ones_like(ids_BT), prepared)
        return value_B

    return score, lambda: None


def shapes_pref(size: Size, device: torch.device) -> tuple[Score, Callable[[], None]]:
    """The score of the shipped shapes-pref, and what makes it forget its prompts; it has one size."""
    judge = ClipJudge.open_clip(MODEL / WEIGHTS, "shapes-pref", tokenizer=MODEL / TOKENIZER)
    judge.to(device)
    return judge.cosine, judge.forget


REWARDS = {"hps": hps, "image-reward": image_reward, "shapes-pref": shapes_pref}


def main() -> None:
    """Time the three ways in turn."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--reward", choices=list(REWARDS), default="hps")
    parser.add_argument("--size", choices=["tiny", "published"], default="tiny")
    parser.add_argument("--images", type=int, default=64)
    parser.add_argument("--prompts", type=int, default=8)
    parser.add_argument("--side", type=int, default=256)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--device", default="cpu")
    chosen = parser.parse_args()
    device = torch.device(chosen.device)
    torch.manual_seed(0)
    score, forget = REWARDS[chosen.reward](chosen.size, device)
    images = torch.rand(chosen.images, 3, chosen.side, chosen.side).to(device)
    prompts = [f"a highly detailed photo of subject number {i % chosen.prompts}" for i in range(chosen.images)]

    def one_at_a_time(*, keep: bool) -> Tensor:
        found = []
        for i in range(chosen.images):
            if not keep:
                forget()
            found.append(score(images[i : i + 1], prompts[i : i + 1]))
        return torch.cat(found)

    ways: dict[str, Callable[[], Tensor]] = {
        "batched": lambda: score(images, prompts),
        "alone": lambda: one_at_a_time(keep=False),
        "kept": lambda: one_at_a_time(keep=True),
    }
    seconds: dict[str, list[float]] = {name: [] for name in ways}
    differences = []
    for _ in range(chosen.rounds + 1):  # the first warms up
        scores = {}
        for name, way in ways.items():
            forget()
            synchronise(device)
            started = time.perf_counter()
            scores[name] = way()
            synchronise(device)
            seconds[name].append(time.perf_counter() - started)
        differences.append(float((scores["batched"] - scores["alone"]).abs().max()))
    timed = {name: times[1:] for name, times in seconds.items()}
    ratios = {
        name: statistics.median(slow / fast for slow, fast in zip(timed[name], timed["batched"], strict=True))
        for name in ("alone", "kept")
    }
    print(
        json.dumps(
            vars(chosen)
            | {"threads": torch.get_num_threads(), "torch": torch.__version__}
            | {f"{name}_seconds": round(statistics.median(times), 4) for name, times in timed.items()}
            | {f"{name}_over_batched": round(ratio, 2) for name, ratio in ratios.items()}
            | {"largest_difference": max(differences)}
        )
    )


def synchronise(device: torch.device) -> None:
    """Wait for the device."""
    if device.type == "cuda":
        torch.cuda.synchronize()


if __name__ == "__main__":
    main()
