"""The training of `shapes-pref`: a tiny CLIP that learns which of two pictures suits a caption better.

The architecture and the loss of a pair are HPSv2's (arXiv 2306.09341, section 4): with s = exp(logit_scale) and
cosines c, -log softmax over (s c(caption, better), s c(caption, worse)) at the better one. HPSv2 starts from a trained
CLIP; here two losses that teach the same towers are added instead: CLIP's own (arXiv 2103.00020) among all captions and
pictures of a batch, and the reading of the scene (colours, shapes, relation) from either tower's output by a linear map
that is thrown away afterwards.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping
from typing import TYPE_CHECKING

from grpo_bench.workloads.pretraining.fitting import Progress, descend, rate_schedule, set_rate
from grpo_bench.workloads.pretraining.parts import BEGIN, END, MAX_TOKENS
from grpo_bench.workloads.shapes.geometry import SIDE
from grpo_bench.workloads.shapes.preference_pairs import SCENES, Pairs
from grpo_bench.workloads.shapes.scenes import COLOURS, SHAPES, caption

if TYPE_CHECKING:
    from torch import Generator, Tensor
    from transformers import CLIPModel, CLIPTokenizer

BATCH, LR, CONTRAST, READING = 32, 1e-3, 0.5, 2.0
"""Pairs a step, peak learning rate, weights of the contrastive loss and of the scene's reading."""
PATCH, IMAGE_WIDTH, IMAGE_LAYERS, TEXT_WIDTH, TEXT_LAYERS, EMBEDDING = 8, 160, 3, 64, 2, 64
IMAGE_HEAD, TEXT_HEAD = 80, 64
"""Width of an attention head, as in ViT-H-14: shapes of weights do not tell it."""
POSITION = 10.0
"""Position embeddings start so many times as large as transformers has them, or relations are learned late."""
ANSWERS = (6, 3, 3, 7, 4)
"""Choices of the five answers about a scene."""
MEAN, STD = (0.48145466, 0.4578275, 0.40821073), (0.26862954, 0.26130258, 0.27577711)
"""CLIP's normalisation of RGB in [0, 1]."""
MAX_LOGIT_SCALE = math.log(100)


def make_model(tokenizer: CLIPTokenizer) -> CLIPModel:
    """The untrained model of 1.1 M parameters, with weights from torch's global generator: seed it first."""
    import torch
    from transformers import CLIPConfig, CLIPModel

    text = {
        "vocab_size": len(tokenizer),
        "bos_token_id": tokenizer.convert_tokens_to_ids(BEGIN),
        "eos_token_id": tokenizer.convert_tokens_to_ids(END),
        "pad_token_id": tokenizer.convert_tokens_to_ids(END),
        "max_position_embeddings": MAX_TOKENS,
        **_tower(TEXT_WIDTH, TEXT_LAYERS, TEXT_HEAD),
    }
    vision = {"image_size": SIDE, "patch_size": PATCH, **_tower(IMAGE_WIDTH, IMAGE_LAYERS, IMAGE_HEAD)}
    model = CLIPModel(CLIPConfig(text_config=text, vision_config=vision, projection_dim=EMBEDDING))
    with torch.no_grad():
        for tower in (model.text_model, model.vision_model):
            tower.embeddings.position_embedding.weight.mul_(POSITION)
    return model


def _tower(width: int, layers: int, head: int) -> dict[str, int | str]:
    return {
        "hidden_size": width,
        "intermediate_size": 4 * width,
        "num_hidden_layers": layers,
        "num_attention_heads": width // head,
        "hidden_act": "gelu",
        "projection_dim": EMBEDDING,
    }


def tokens_of(tokenizer: CLIPTokenizer, captions: Iterable[str]) -> Tensor:
    """Token ids (C, MAX_TOKENS), padded with the end token."""
    import torch

    return torch.tensor(tokenizer(list(captions), padding="max_length", max_length=MAX_TOKENS).input_ids)


def pooled_images(model: CLIPModel, pixels: Tensor) -> Tensor:
    """Outputs (B, IMAGE_WIDTH) of the image tower for pictures as bytes (B, 3, 32, 32)."""
    import torch

    mean, std = (torch.tensor(values)[:, None, None] for values in (MEAN, STD))
    pooled: Tensor = model.vision_model(pixel_values=(pixels.float() / 255 - mean) / std).pooler_output
    return pooled


def embed_images(model: CLIPModel, pixels: Tensor) -> Tensor:
    """Unit embeddings (B, EMBEDDING) of pictures as bytes."""
    from torch.nn.functional import normalize

    return normalize(model.visual_projection(pooled_images(model, pixels)), dim=-1)


def embed_texts(model: CLIPModel, tokens: Tensor) -> Tensor:
    """Unit embeddings (C, EMBEDDING) of token ids."""
    from torch.nn.functional import normalize

    return normalize(model.text_projection(model.text_model(input_ids=tokens).pooler_output), dim=-1)


def scene_answers() -> Tensor:
    """What a picture of each of SCENES shows, (S, 5): colour and shape of the object nearer the left or top, how the
    second one stands, colour and shape of the second one; 0 is "none" in the last three. Choices: ANSWERS."""
    import torch

    rows = []
    for scene in SCENES:
        first, relation, second = scene.canonical.first, scene.canonical.relation, scene.canonical.second
        other = (COLOURS.index(second.colour) + 1, SHAPES.index(second.shape) + 1) if second else (0, 0)
        axis = {None: 0, "left of": 1, "above": 2}[relation]
        rows.append([COLOURS.index(first.colour), SHAPES.index(first.shape), axis, *other])
    return torch.tensor(rows)


def fit(
    model: CLIPModel, tokenizer: CLIPTokenizer, pairs: Pairs, steps: int, generator: Generator, progress: Progress
) -> None:
    """Trains the model in place on batches drawn from the pairs. Draws from torch's global generator, too."""
    import torch

    tokens, answers = tokens_of(tokenizer, map(caption, SCENES)), scene_answers()
    tokens = tokens[:, : int((tokens != tokens[0, -1]).sum(1).max()) + 1]  # nothing is read behind the end token
    readers = [torch.nn.Linear(width, sum(ANSWERS)) for width in (TEXT_WIDTH, IMAGE_WIDTH)]
    weights = [weight for part in (model, *readers) for weight in part.parameters()]
    optimiser = torch.optim.AdamW(weights, lr=LR, betas=(0.9, 0.98), weight_decay=0.05, foreach=True)
    model.train()
    for step in range(steps):
        set_rate(optimiser, LR * rate_schedule(step, steps))
        index = torch.randint(len(pairs), (BATCH,), generator=generator)
        scene_S = torch.cat([pairs.asked[index], pairs.shown[index]])
        text_SE = model.text_model(input_ids=tokens[scene_S]).pooler_output
        image_SE = pooled_images(model, torch.cat([pairs.better[index], pairs.worse[index]]))
        loss = READING * sum(
            reading_loss(reader(pooled), answers[scene_S])
            for reader, pooled in zip(readers, (text_SE, image_SE), strict=True)
        ) + preference_loss(
            torch.nn.functional.normalize(model.text_projection(text_SE), dim=-1),
            torch.nn.functional.normalize(model.visual_projection(image_SE), dim=-1),
            answers[scene_S],
            model.logit_scale.exp(),
        )
        descend(optimiser, loss, weights)
        with torch.no_grad():
            model.logit_scale.clamp_(max=MAX_LOGIT_SCALE)
        progress("preference", step + 1, steps)
    model.eval()


def reading_loss(logits_SA: Tensor, answer_S5: Tensor) -> Tensor:
    """Mean cross-entropy of the five answers about a scene."""
    import torch

    parts = logits_SA.split(ANSWERS, dim=1)
    losses = [torch.nn.functional.cross_entropy(part, answer) for part, answer in zip(parts, answer_S5.T, strict=True)]
    return torch.stack(losses).mean()


def preference_loss(text_SE: Tensor, image_SE: Tensor, answer_S5: Tensor, scale: Tensor) -> Tensor:
    """The pairs' loss plus CONTRAST times the mean of the two contrastive losses (formulas: module docstring).

    S = 2 B: B captions with their better pictures, then the scenes that the worse pictures show, with these. Equal
    scenes are not each other's negatives, and a picture that was only spoilt in its looks is nobody's positive.
    """
    import torch
    from torch.nn.functional import cross_entropy, softplus

    better_BE, worse_BE = image_SE.chunk(2)
    gap_B = scale * (text_SE[: len(better_BE)] * (better_BE - worse_BE)).sum(-1)
    same_SS = (answer_S5[:, None] == answer_S5).all(-1)
    own_S = torch.arange(len(text_SE))
    spoilt_B = same_SS.diagonal(len(better_BE))
    own_S[len(better_BE) :][spoilt_B] = -100  # what cross_entropy ignores
    same_SS.fill_diagonal_(False)
    logits_SS = (scale * text_SE @ image_SE.T).masked_fill(same_SS, float("-inf"))
    contrast = (cross_entropy(logits_SS, own_S) + cross_entropy(logits_SS.T, own_S)) / 2
    return softplus(-gap_B).mean() + CONTRAST * contrast


def published_layout(state: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """The state of a transformers CLIPModel under the names of a published HPS file (OpenCLIP's), contiguous."""
    import torch

    found: dict[str, Tensor] = {}
    for tower, prefix in (("text_model", ""), ("vision_model", "visual.")):
        layers = {int(name.split(".")[3]) for name in state if name.startswith(f"{tower}.encoder.layers.")}
        for layer in sorted(layers):
            old, new = f"{tower}.encoder.layers.{layer}", f"{prefix}transformer.resblocks.{layer}"
            for kind in ("weight", "bias"):
                parts = [state[f"{old}.self_attn.{part}_proj.{kind}"] for part in "qkv"]
                found[f"{new}.attn.in_proj_{kind}"] = torch.cat(parts)
                for there, here in _BLOCK.items():
                    found[f"{new}.{here}.{kind}"] = state[f"{old}.{there}.{kind}"]
    for there, here in _OUTSIDE.items():
        found[here] = state[there]
    for there, here in (("text_projection.weight", "text_projection"), ("visual_projection.weight", "visual.proj")):
        found[here] = state[there].T
    return {name: value.detach().clone(memory_format=torch.contiguous_format) for name, value in sorted(found.items())}


_BLOCK = {
    "self_attn.out_proj": "attn.out_proj",
    "layer_norm1": "ln_1",
    "layer_norm2": "ln_2",
    "mlp.fc1": "mlp.c_fc",
    "mlp.fc2": "mlp.c_proj",
}
_OUTSIDE = {
    "logit_scale": "logit_scale",
    "text_model.embeddings.token_embedding.weight": "token_embedding.weight",
    "text_model.embeddings.position_embedding.weight": "positional_embedding",
    "text_model.final_layer_norm.weight": "ln_final.weight",
    "text_model.final_layer_norm.bias": "ln_final.bias",
    "vision_model.embeddings.class_embedding": "visual.class_embedding",
    "vision_model.embeddings.patch_embedding.weight": "visual.conv1.weight",
    "vision_model.embeddings.position_embedding.weight": "visual.positional_embedding",
    "vision_model.pre_layrnorm.weight": "visual.ln_pre.weight",
    "vision_model.pre_layrnorm.bias": "visual.ln_pre.bias",
    "vision_model.post_layernorm.weight": "visual.ln_post.weight",
    "vision_model.post_layernorm.bias": "visual.ln_post.bias",
}
