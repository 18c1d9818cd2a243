"""The untrained parts of the built-in models: a real Stable Diffusion 3 of 3.2 M parameters without T5, and an SD 1."""

from __future__ import annotations

from collections.abc import Iterable
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from diffusers.models.autoencoders.autoencoder_kl import AutoencoderKL
    from diffusers.models.transformers.transformer_sd3 import SD3Transformer2DModel
    from diffusers.models.unets.unet_2d_condition import UNet2DConditionModel
    from diffusers.pipelines.stable_diffusion.pipeline_stable_diffusion import StableDiffusionPipeline
    from diffusers.pipelines.stable_diffusion_3.pipeline_stable_diffusion_3 import StableDiffusion3Pipeline
    from transformers import CLIPTextConfig, CLIPTextModelWithProjection, CLIPTokenizer

MAX_TOKENS = 16
"""Text tokens a caption is padded to; the longest caption needs 13. They cost as much as image tokens."""
SHIFT = 1.0
"""Of the FlowMatchEulerDiscreteScheduler: so few latents need no emphasis on high noise."""
LATENT_CHANNELS = 4
TEXT_WIDTH = 64
BEGIN, END = "<|startoftext|>", "<|endoftext|>"


def make_tokenizer(words: Iterable[str], length: int = MAX_TOKENS) -> CLIPTokenizer:
    """One token a word, texts of `length` tokens; any other text falls back to bytes, so that nothing is unknown.

    CLIP's byte-pair encoding merges the pair of lowest rank first. Each word is built from its end backwards, in the
    order of the words' reversed spelling, so that a shared ending is merged once and no word's merges break another's.
    """
    from tokenizers import pre_tokenizers
    from transformers import CLIPTokenizer

    letters = sorted(pre_tokenizers.ByteLevel.alphabet())
    tokens = [*letters, *(letter + "</w>" for letter in letters)]
    merges: list[tuple[str, str]] = []
    for word in sorted(words, key=lambda word: word[::-1]):
        tail = word[-1] + "</w>"
        for letter in reversed(word[:-1]):
            if (letter, tail) not in merges:
                merges.append((letter, tail))
                tokens.append(letter + tail)
            tail = letter + tail
    vocabulary = {token: index for index, token in enumerate([*tokens, BEGIN, END])}
    return CLIPTokenizer(vocab=vocabulary, merges=merges, model_max_length=length)


def make_text_encoder(tokenizer: CLIPTokenizer) -> CLIPTextModelWithProjection:
    """A two-layer CLIP text encoder of width 64 over the tokenizer's vocabulary."""
    from transformers import CLIPTextModelWithProjection

    return CLIPTextModelWithProjection(_text_config(tokenizer))


def _text_config(tokenizer: CLIPTokenizer) -> CLIPTextConfig:
    from transformers import CLIPTextConfig

    return CLIPTextConfig(
        vocab_size=len(tokenizer),
        bos_token_id=tokenizer.convert_tokens_to_ids(BEGIN),
        eos_token_id=tokenizer.convert_tokens_to_ids(END),
        pad_token_id=tokenizer.convert_tokens_to_ids(END),
        hidden_size=TEXT_WIDTH,
        intermediate_size=2 * TEXT_WIDTH,
        num_hidden_layers=2,
        num_attention_heads=2,
        projection_dim=TEXT_WIDTH,
        max_position_embeddings=tokenizer.model_max_length,
        hidden_act="gelu",
    )


def make_vae() -> AutoencoderKL:
    """32x32x3 pictures to 8x8x4 latents."""
    from diffusers.models.autoencoders.autoencoder_kl import AutoencoderKL

    vae: AutoencoderKL = AutoencoderKL(
        sample_size=32,
        block_out_channels=(16, 32, 64),
        layers_per_block=1,
        latent_channels=LATENT_CHANNELS,
        norm_num_groups=8,
        down_block_types=("DownEncoderBlock2D",) * 3,
        up_block_types=("UpDecoderBlock2D",) * 3,
        use_quant_conv=False,
        use_post_quant_conv=False,
        scaling_factor=1.0,
        shift_factor=0.0,
    )
    return vae


def make_transformer() -> SD3Transformer2DModel:
    """Four joint blocks of width 128 over 16 image tokens and 16 text tokens."""
    from diffusers.models.transformers.transformer_sd3 import SD3Transformer2DModel

    transformer: SD3Transformer2DModel = SD3Transformer2DModel(
        sample_size=8,
        patch_size=2,
        in_channels=LATENT_CHANNELS,
        out_channels=LATENT_CHANNELS,
        num_layers=4,
        attention_head_dim=32,
        num_attention_heads=4,
        joint_attention_dim=2 * TEXT_WIDTH,
        caption_projection_dim=128,
        pooled_projection_dim=2 * TEXT_WIDTH,
        pos_embed_max_size=8,
    )
    return transformer


def make_pipeline(words: Iterable[str], length: int = MAX_TOKENS) -> StableDiffusion3Pipeline:
    """All parts, with weights from torch's global generator: seed it first. In training mode."""
    from diffusers.pipelines.stable_diffusion_3.pipeline_stable_diffusion_3 import StableDiffusion3Pipeline
    from diffusers.schedulers.scheduling_flow_match_euler_discrete import FlowMatchEulerDiscreteScheduler

    words = tuple(words)
    tokenizer = make_tokenizer(words, length)
    return StableDiffusion3Pipeline(
        transformer=make_transformer(),
        scheduler=FlowMatchEulerDiscreteScheduler(shift=SHIFT),
        vae=make_vae(),
        text_encoder=make_text_encoder(tokenizer),
        tokenizer=tokenizer,
        text_encoder_2=make_text_encoder(tokenizer),
        tokenizer_2=make_tokenizer(words, length),
        text_encoder_3=None,
        tokenizer_3=None,
    )


def make_unet() -> UNet2DConditionModel:
    """Two levels, 8x8 of width 32 and 4x4 of width 64; the lower one attends to itself and to the text."""
    from diffusers.models.unets.unet_2d_condition import UNet2DConditionModel

    unet: UNet2DConditionModel = UNet2DConditionModel(
        sample_size=8,
        in_channels=LATENT_CHANNELS,
        out_channels=LATENT_CHANNELS,
        block_out_channels=(32, 64),
        layers_per_block=1,
        down_block_types=("DownBlock2D", "CrossAttnDownBlock2D"),
        up_block_types=("CrossAttnUpBlock2D", "UpBlock2D"),
        cross_attention_dim=TEXT_WIDTH,
        attention_head_dim=4,  # diffusers' name for the number of heads
        norm_num_groups=16,
    )
    return unet


def make_sd_pipeline(words: Iterable[str], vae: AutoencoderKL) -> StableDiffusionPipeline:
    """A Stable Diffusion 1 around a trained autoencoder; other weights from torch's global generator: seed it first.

    The noise schedule is that of SD 1.x's hub repositories. The format has no shift of latents, so the autoencoder's
    is dropped.
    """
    from diffusers.pipelines.stable_diffusion.pipeline_stable_diffusion import StableDiffusionPipeline
    from diffusers.schedulers.scheduling_ddim import DDIMScheduler
    from transformers import CLIPTextModel

    tokenizer = make_tokenizer(words)
    vae.register_to_config(shift_factor=None)
    scheduler = DDIMScheduler(
        beta_start=0.00085,
        beta_end=0.012,
        beta_schedule="scaled_linear",
        clip_sample=False,
        set_alpha_to_one=False,
        steps_offset=1,
    )
    return StableDiffusionPipeline(
        unet=make_unet(),
        scheduler=scheduler,
        vae=vae,
        text_encoder=CLIPTextModel(_text_config(tokenizer)),
        tokenizer=tokenizer,
        safety_checker=None,
        feature_extractor=None,
        requires_safety_checker=False,
    )
