"""HPSv2 by its authors' own code, in an environment of its own: `img_score.score` of the package hpsv2x.

The package scores one image and one prompt at a time, in half precision on a CUDA device, and reads the checkpoint
again at every call. Its function is called as it is, only that a second reading finds what the first one left.
"""

from __future__ import annotations

# isort: off
import torchvision_ops  # noqa: F401 (before anything imports torchvision)
import hpsv2.img_score as package

# isort: on
import json
import math
import tempfile
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path

import numpy as np
import torch
from hpsv2.src.open_clip import add_model_config, create_model_and_transforms
from PIL import Image

_MODEL = "ViT-H-14"
State = Mapping[str, torch.Tensor]


class _Torch:
    """torch as `img_score` sees it: its `load` has been done, and everything else is torch's."""

    def load(self, path: str, map_location: str) -> dict[str, None]:
        return {"state_dict": None}

    def __getattr__(self, name: str) -> object:
        return getattr(torch, name)


def load(settings: Mapping[str, str]) -> Callable[[Iterable[np.ndarray], Sequence[str]], list[float]]:
    """The scorer of the file `settings["weights"]`; the package runs on CUDA where it can."""
    path = settings["weights"]
    state = torch.load(path, map_location="cpu", weights_only=True).get("state_dict", {})
    if "visual.conv1.weight" not in state:
        raise ValueError("these are not the weights of HPSv2: there is no visual.conv1.weight in a state_dict")
    _describe(state)
    model, _, preprocess = create_model_and_transforms(
        _MODEL,
        None,
        precision="amp",
        device=package.device,
        jit=False,
        light_augmentation=True,
        aug_cfg={},
        output_dict=True,
    )
    model.load_state_dict(state)
    model.load_state_dict = lambda _: None
    package.model_dict.update(model=model, preprocess_val=preprocess)
    package.torch = _Torch()

    def score(images: Iterable[np.ndarray], prompts: Sequence[str]) -> list[float]:
        pairs = zip(images, prompts, strict=True)
        return [float(package.score([Image.fromarray(image)], prompt, cp=path)[0]) for image, prompt in pairs]

    return score


def _describe(state: State) -> None:
    """Tell the package the file's own sizes: of the published one they are ViT-H/14's, of a test's its own."""
    width, _, _, patch = state["visual.conv1.weight"].shape
    tokens, text_width = state["positional_embedding"].shape
    sizes = {
        "embed_dim": state["text_projection"].shape[1],
        "vision_cfg": {
            "image_size": math.isqrt(len(state["visual.positional_embedding"]) - 1) * patch,
            "patch_size": patch,
            "head_width": width // _heads(width, 80),
            **_tower(state, "visual.transformer.resblocks.", width),
        },
        "text_cfg": {
            "context_length": tokens,
            "vocab_size": len(state["token_embedding.weight"]),
            "heads": _heads(text_width, 64),
            **_tower(state, "transformer.resblocks.", text_width),
        },
    }
    folder = Path(tempfile.mkdtemp(dir="."))
    (folder / f"{_MODEL}.json").write_text(json.dumps(sizes))
    add_model_config(folder)


def _heads(width: int, head: int) -> int:
    """ViT-H/14 has heads of 80 numbers in its vision tower, of 64 in its text tower; a narrow one has one head."""
    return max(1, width // head)


def _tower(state: State, prefix: str, width: int) -> dict[str, int]:
    layers = {key[len(prefix) :].split(".")[0] for key in state if key.startswith(prefix)}
    return {"width": width, "layers": len(layers)}
