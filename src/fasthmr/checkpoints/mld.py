"""Checkpoints in the layout of MLD (arXiv 2212.04048): motion VAE and latent denoiser.

Training writes both into one file, under `vae.` and `denoiser.`; either can be read from it, or from a file
of its own with or without that prefix. Number of heads and length of clips cannot be read from a file; they
are as published.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from functools import partial
from pathlib import Path
from typing import TypeVar

from fasthmr.checkpoints.keymap import KeyTable
from fasthmr.checkpoints.layout import Layout, Shapes
from fasthmr.layers.skip_transformer import SkipStackConfig
from fasthmr.temporal.latent_denoiser import LatentDenoiserConfig
from fasthmr.temporal.motion_vae import MotionVAEConfig

T = TypeVar("T")

_BLOCKS = ((r"first\.(\d+)\.", r"input_blocks.\1."), (r"middle\.", "middle_block."))
_BLOCKS += ((r"last\.(\d+)\.", r"output_blocks.\1."),)
_PARTS = (
    (r"self_attention\.qkv\.", "self_attn.in_proj_"),
    (r"self_attention\.proj\.", "self_attn.out_proj."),
    (r"cross_attention\.qkv\.", "multihead_attn.in_proj_"),
    (r"cross_attention\.proj\.", "multihead_attn.out_proj."),
    (r"mlp\.fc1\.", "linear1."),
    (r"mlp\.fc2\.", "linear2."),
    ("norm", "norm"),
)


def _stack(ours: str, theirs: str, positions: str) -> tuple[tuple[str, str], ...]:
    """Renames of a `SkipEncoder` or `SkipDecoder`."""
    layers = tuple(
        (ours + block + part, theirs + their_block + their_part)
        for block, their_block in _BLOCKS
        for part, their_part in _PARTS
    )
    return (
        (rf"{ours}positions$", f"{positions}.pe"),
        *layers,
        (rf"{ours}joins\.", f"{theirs}linear_blocks."),
        (rf"{ours}norm\.", f"{theirs}norm."),
    )


def _without(prefix: str, state: Mapping[str, T]) -> Mapping[str, T]:
    """A file with the prefix taken off; the others of its keys keep their names."""
    if not any(key.startswith(prefix) for key in state):
        return state
    return {key.removeprefix(prefix): value for key, value in state.items()}


def _depth(shapes: Shapes, stack: str) -> int:
    """Layers of a stack: one more than those outside of its middle."""
    pattern = re.compile(re.escape(stack) + r"(input|output)_blocks\.(\d+)\.")
    return 1 + len({found[0] for key in shapes if (found := pattern.match(key))})


def _stack_sizes(shapes: Shapes, positions: str) -> SkipStackConfig:
    """Sizes of the stack under `encoder.`, and of a position table."""
    hidden, width = shapes["encoder.middle_block.linear1.weight"]
    rows = shapes[f"{positions}.pe"][0]
    return SkipStackConfig(width=width, layers=_depth(shapes, "encoder."), mlp_dim=hidden, max_tokens=rows)


_OF_VAE, _OF_DENOISER = partial(_without, "vae."), partial(_without, "denoiser.")

_OTHERS = (
    (r"t2m_\w+\.", "network that generated motion is judged by"),
    (r"text_encoder\.", "language model"),
)

MLD_VAE_TABLE = KeyTable(
    layout="MLD motion VAE",
    renames=(
        (r"encoder\.tokens$", "global_motion_token"),
        (r"encoder\.embed\.", "skel_embedding."),
        (r"decoder\.readout\.", "final_layer."),
        *_stack(r"encoder\.stack\.", "encoder.", "query_pos_encoder"),
        *_stack(r"decoder\.stack\.", "decoder.", "query_pos_decoder"),
    ),
    ignored=((r"denoiser\.", "latent denoiser of the same file"), *_OTHERS),
    prepare=_OF_VAE,
)

MLD_DENOISER_TABLE = KeyTable(
    layout="MLD latent denoiser",
    renames=(
        (r"time\.fc([12])\.", r"time_embedding.linear_\1."),
        (r"condition\.", "emb_proj.1."),
        *_stack(r"stack\.", "encoder.", "query_pos"),
    ),
    ignored=(
        (r"mem_pos\.pe$", "positions that the published network does not use"),
        (r"vae\.", "motion VAE of the same file"),
        *_OTHERS,
    ),
    prepare=_OF_DENOISER,
)

_VAE_PRESETS = {
    MotionVAEConfig(): "motion_vae_table12",
    MotionVAEConfig(layers=9): "motion_vae_table15",
}


def vae_config(shapes: Shapes, path: Path) -> MotionVAEConfig:
    """The motion VAE in a file."""
    shapes = _OF_VAE(shapes)
    sizes = _stack_sizes(shapes, "query_pos_encoder")
    latents = shapes["global_motion_token"][0] // 2
    cross = "decoder.middle_block.multihead_attn.in_proj_weight" in shapes
    return MotionVAEConfig(
        channels=shapes["skel_embedding.weight"][1],
        frames=min(MotionVAEConfig().frames, sizes.max_tokens - 2 * latents),
        latents=latents,
        decoder="encoder_decoder" if cross else "all_encoder",
        width=sizes.width,
        layers=sizes.layers,
        mlp_dim=sizes.mlp_dim,
        max_tokens=sizes.max_tokens,
    )


def denoiser_config(shapes: Shapes, path: Path) -> LatentDenoiserConfig:
    """The denoiser in a file. The number of latents is in that of the VAE alone; else it is as published."""
    tokens = shapes.get("vae.global_motion_token")
    shapes = _OF_DENOISER(shapes)
    sizes = _stack_sizes(shapes, "query_pos")
    latents = min(LatentDenoiserConfig().latents, sizes.max_tokens - 2) if tokens is None else tokens[0] // 2
    projection = shapes.get("emb_proj.1.weight")
    time_dim = shapes["time_embedding.linear_1.weight"][1]
    return LatentDenoiserConfig(
        latents=latents,
        condition_dim=sizes.width if projection is None else projection[1],
        condition="none" if projection is None else "relu_linear",
        frames=min(LatentDenoiserConfig().frames, sizes.max_tokens - latents - 1),
        time_dim=None if time_dim == sizes.width else time_dim,
        width=sizes.width,
        layers=sizes.layers,
        mlp_dim=sizes.mlp_dim,
        max_tokens=sizes.max_tokens,
    )


MLD_VAE_LAYOUT = Layout(
    name="MLD motion VAE",
    table=MLD_VAE_TABLE,
    matches=lambda shapes: {"skel_embedding.weight", "global_motion_token"} <= _OF_VAE(shapes).keys(),
    config=vae_config,
    preset=lambda shapes: _VAE_PRESETS.get(vae_config(shapes, Path())),
    licence="MLD code: MIT; of weights the terms of the data they were trained on hold",
)

MLD_DENOISER_LAYOUT = Layout(
    name="MLD latent denoiser",
    table=MLD_DENOISER_TABLE,
    matches=lambda shapes: {"time_embedding.linear_1.weight", "query_pos.pe"} <= _OF_DENOISER(shapes).keys(),
    config=denoiser_config,
    preset=lambda shapes: None,
    licence="MLD code: MIT; of weights the terms of the data they were trained on hold",
)
