"""Products of modules in their published form, where ours computes the same in another way."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from torch import nn

from fasthmr.heads.metro import LearnedUpsampling, TemplateTokens
from fasthmr.layers.context_decoder import ContextDecoder, LoneCrossAttention, LoneSelfAttention
from fasthmr.layers.query_transformer import QueryTransformer
from fasthmr.layers.skip_transformer import MultiHeadAttention, PostNormCrossLayer, SkipDecoder, SkipEncoder
from fasthmr.layers.ss2d import DIRECTIONS, SS2D
from fasthmr.layers.window import WindowAttention


@dataclass(frozen=True, kw_only=True)
class Formulation:
    """Multiply-accumulates of one call: of linear layers, of attention, and by element of norm layers."""

    layer_macs: int
    attention_macs: int
    norm_macs: int


def _context_decoder(module: ContextDecoder, inputs: tuple[Any, ...]) -> Formulation:
    """One token through full self-attention, and keys and values for every context token in every layer."""
    batch, tokens, _ = inputs[0].shape
    linears, norms = _linears(module), 4 * _norm_width(module)
    attention = 0
    for part in module.modules():
        if isinstance(part, LoneSelfAttention):
            attention += 2 * part.inner
        elif isinstance(part, LoneCrossAttention):
            linears += (tokens - 1) * part.to_kv.weight.numel()
            attention += 2 * tokens * part.heads * part.head_dim
    return Formulation(layer_macs=batch * linears, attention_macs=batch * attention, norm_macs=batch * norms)


def _skip_encoder(module: SkipEncoder, inputs: tuple[Any, ...]) -> Formulation:
    """Every token through every layer, also the last."""
    batch, tokens, _ = inputs[0].shape
    looks = sum(2 * tokens * part.dim for part in module.modules() if isinstance(part, MultiHeadAttention))
    return Formulation(
        layer_macs=batch * tokens * _linears(module),
        attention_macs=batch * tokens * looks,
        norm_macs=batch * tokens * 4 * _norm_width(module),
    )


def _skip_decoder(module: SkipDecoder, inputs: tuple[Any, ...]) -> Formulation:
    """Nothing shared by samples or kept between calls."""
    (batch, count, width), tokens = inputs[0].shape, inputs[1]
    layers = sum(isinstance(part, PostNormCrossLayer) for part in module.modules())
    read = layers * 2 * width * width  # keys and values of the memory
    return Formulation(
        layer_macs=batch * (tokens * (_linears(module) - read) + count * read),
        attention_macs=batch * layers * 2 * tokens * (tokens + count) * width,
        norm_macs=batch * tokens * 4 * _norm_width(module),
    )


def _query_transformer(module: QueryTransformer, inputs: tuple[Any, ...]) -> Formulation:
    """Every query through the first self-attention for each picture, and scores of forbidden pairs too."""
    batch, count, dim = inputs[0].shape
    queries = sum(len(table) for table in inputs[2]) if isinstance(inputs[2], tuple) else inputs[2].shape[1]
    layers, hidden = module.config.layers, module.config.mlp_dim
    encoder = (count + 1) * (4 * dim * dim + 2 * dim * hidden)
    decoder = queries * (6 * dim * dim + 2 * dim * hidden) + count * 2 * dim * dim
    looks = 2 * dim * ((count + 1) ** 2 + queries**2 + queries * count)
    norms = 4 * dim * ((2 * layers + 1) * (count + 1) + (3 * layers + 1) * queries)
    return Formulation(
        layer_macs=batch * layers * (encoder + decoder),
        attention_macs=batch * layers * looks,
        norm_macs=batch * norms,
    )


def _template_tokens(module: TemplateTokens, inputs: tuple[Any, ...]) -> Formulation:
    """Tokens mixed from the cells before any channel is multiplied."""
    features, *linears = inputs
    batch, channels = features.shape[:2]
    mixing = 0 if module.mix is None else channels * module.mix.weight.numel()
    embedding = module.points * sum(linear.weight.numel() for linear in linears)
    return Formulation(layer_macs=batch * (mixing + embedding), attention_macs=0, norm_macs=0)


def _learned_upsampling(module: LearnedUpsampling, inputs: tuple[Any, ...]) -> Formulation:
    """Level by level."""
    return Formulation(layer_macs=3 * len(inputs[0]) * _linears(module), attention_macs=0, norm_macs=0)


def _window_attention(module: WindowAttention, inputs: tuple[Any, ...]) -> Formulation:
    """Padding projected too, before and after the attention."""
    x, layout = inputs
    tokens = len(x) * len(layout.gather)
    looks = 2 * module.window**2 * x.shape[-1]
    return Formulation(layer_macs=tokens * _linears(module), attention_macs=tokens * looks, norm_macs=0)


def _linears(module: nn.Module) -> int:
    """Products of one token with all linear layers."""
    return sum(layer.weight.numel() for layer in module.modules() if isinstance(layer, nn.Linear))


def _norm_width(module: nn.Module) -> int:
    """Elements of one token that all norm layers read."""
    return sum(layer.weight.numel() for layer in module.modules() if isinstance(layer, nn.LayerNorm))


Rule = Callable[[Any, tuple[Any, ...]], Formulation]

RULES: dict[type[nn.Module], Rule] = {
    ContextDecoder: _context_decoder,
    SkipEncoder: _skip_encoder,
    SkipDecoder: _skip_decoder,
    QueryTransformer: _query_transformer,
    TemplateTokens: _template_tokens,
    LearnedUpsampling: _learned_upsampling,
    WindowAttention: _window_attention,
}
"""Modules that are not counted by what they run, and the published form that is counted instead.

What depends on weights alone may be kept between calls by these modules only.
"""


def scan_operations(module: SS2D, inputs: tuple[Any, ...]) -> int:
    """Operations of the selective scans of one call, by VMamba's own rule (9 L D N + L D for a direction)."""
    batch, rows, columns, _ = inputs[0].shape
    return DIRECTIONS * batch * rows * columns * module.inner * (9 * module.state + 1)


def rule_for(module: nn.Module) -> Rule | None:
    """The published form of a module, from the positional arguments of a call; None where it is ours."""
    return next((rule for kind, rule in RULES.items() if isinstance(module, kind)), None)
