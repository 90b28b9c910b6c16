"""The transformer decoder that HMR 2.0, CameraHMR and their relatives share, in published files."""

from __future__ import annotations

import re
from typing import TypedDict

from fasthmr.checkpoints.layout import Shapes
from fasthmr.errors import CheckpointMismatch

_PUBLISHED_HEADS = {512: 8, 64: 4}
"""Attention heads by their total width, which is all that a file tells: HMR 2.0 and its light family."""


class DecoderSizes(TypedDict):
    """Fields of `layers.context_decoder.ContextDecoderConfig`."""

    context_dim: int
    dim: int
    depth: int
    heads: int
    head_dim: int
    mlp_dim: int


def decoder_renames(head: str) -> tuple[tuple[str, str], ...]:
    """From our `head.decoder.` to the keys of a published head of this name."""
    ours, published = r"head\.decoder\.layers\.(\d+)\.", rf"{head}.transformer.transformer.layers.\1."
    return (
        (ours + r"self_norm\.", published + "0.norm."),
        (ours + r"self_attention\.to_out\.", published + "0.fn.to_out.0."),
        (ours + r"self_attention\.", published + "0.fn."),
        (ours + r"cross_norm\.", published + "1.norm."),
        (ours + r"cross_attention\.to_out\.", published + "1.fn.to_out.0."),
        (ours + r"cross_attention\.", published + "1.fn."),
        (ours + r"mlp_norm\.", published + "2.norm."),
        (ours + r"mlp\.fc1\.", published + "2.fn.net.0."),
        (ours + r"mlp\.fc2\.", published + "2.fn.net.3."),
        (r"head\.decoder\.", f"{head}.transformer."),
    )


def decoder_sizes(shapes: Shapes, head: str, heads: int | None = None) -> DecoderSizes:
    """Sizes of the decoder in a published head of this name.

    Args:
        heads: Attention heads; those published for the decoder's width if None.

    Raises:
        CheckpointMismatch: A tensor is missing or oddly shaped, or the number of heads is not known.
    """
    layers = f"{head}.transformer.transformer.layers."
    names = ("1.fn.to_q.weight", "1.fn.to_kv.weight", "2.fn.net.0.weight")
    missing = [f"{layers}0.{name}" for name in names if len(shapes.get(f"{layers}0.{name}", ())) != 2]
    if missing:
        raise CheckpointMismatch(f"the file has no matrix {', '.join(missing)}")
    (inner, dim), (_, context_dim), (mlp_dim, _) = (shapes[f"{layers}0.{name}"] for name in names)
    heads = heads or _PUBLISHED_HEADS.get(inner)
    if heads is None or inner % heads:
        known = ", ".join(f"{count} of {width}" for width, count in _PUBLISHED_HEADS.items())
        raise CheckpointMismatch(
            f"{layers}0.{names[0]} has attention of width {inner} in all; known heads and widths: {known}"
        )
    numbers = {int(found[1]) for key in shapes if (found := re.match(re.escape(layers) + r"(\d+)\.", key))}
    return DecoderSizes(
        context_dim=context_dim,
        dim=dim,
        depth=max(numbers) + 1,
        heads=heads,
        head_dim=inner // heads,
        mlp_dim=mlp_dim,
    )
