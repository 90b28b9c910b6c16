"""Layers against torch's own, stacks against a plain loop over all tokens."""

from __future__ import annotations

import copy

import pytest
import torch
from torch import Tensor, nn

from fasthmr.layers.skip_transformer import (
    MultiHeadAttention,
    PostNormCrossLayer,
    PostNormLayer,
    SkipDecoder,
    SkipEncoder,
    SkipStackConfig,
    length_mask,
)

SIZES = SkipStackConfig(width=12, heads=3, mlp_dim=20, layers=5, max_tokens=16)


def randn(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def with_weights(module: nn.Module, seed: int = 1) -> nn.Module:
    """Every weight random, biases and norms too."""
    generator = torch.Generator().manual_seed(seed)
    module.double()
    with torch.no_grad():
        for parameter in module.parameters():
            parameter.normal_(std=0.4, generator=generator)
    return module.eval()


def copy_attention(ours: MultiHeadAttention, theirs: nn.MultiheadAttention) -> None:
    theirs.in_proj_weight.data.copy_(ours.qkv.weight)
    theirs.in_proj_bias.data.copy_(ours.qkv.bias)
    theirs.out_proj.load_state_dict(ours.proj.state_dict())


def torch_layer(ours: PostNormLayer | PostNormCrossLayer) -> nn.Module:
    """torch's layer with the same weights."""
    cross = isinstance(ours, PostNormCrossLayer)
    kind = nn.TransformerDecoderLayer if cross else nn.TransformerEncoderLayer
    theirs = kind(12, 3, 20, dropout=0.0, activation="gelu", batch_first=True).double().eval()
    copy_attention(ours.self_attention, theirs.self_attn)
    theirs.linear1.load_state_dict(ours.mlp.fc1.state_dict())
    theirs.linear2.load_state_dict(ours.mlp.fc2.state_dict())
    theirs.norm1.load_state_dict(ours.norm1.state_dict())
    theirs.norm2.load_state_dict(ours.norm2.state_dict())
    if cross:
        copy_attention(ours.cross_attention, theirs.multihead_attn)
        theirs.norm3.load_state_dict(ours.norm3.state_dict())
    return theirs


@pytest.mark.parametrize("lengths", [None, [6, 2]])
def test_layers_are_those_of_torch(lengths):
    mask = None if lengths is None else length_mask(torch.tensor(lengths), 6)
    hidden = None if mask is None else ~mask
    x, memory = randn(2, 6, 12), randn(2, 4, 12, seed=3)
    layer = with_weights(PostNormLayer(dim=12, heads=3, mlp_dim=20))
    expected = torch_layer(layer)(x.clone().requires_grad_(), src_key_padding_mask=hidden)
    assert torch.allclose(layer(x, mask), expected, atol=1e-12)
    assert torch.allclose(layer(x, mask, slice(1, 3)), expected[:, 1:3], atol=1e-12)
    layer = with_weights(PostNormCrossLayer(dim=12, heads=3, mlp_dim=20))
    expected = torch_layer(layer)(x, memory, tgt_key_padding_mask=hidden)
    assert torch.allclose(layer.read_memory(*layer.before_memory(x, mask), memory), expected, atol=1e-12)


def plain(stack: SkipEncoder | SkipDecoder, x: Tensor, memory: Tensor | None, mask: Tensor | None) -> Tensor:
    """Every token of every sample through torch's layers, with long skips."""
    extra = () if memory is None else (memory,)
    name = "src_key_padding_mask" if memory is None else "tgt_key_padding_mask"
    hidden = None if mask is None else ~mask
    x = x + stack.positions[: x.shape[1], 0]
    skipped = []
    for layer in stack.first:
        x = torch_layer(layer)(x, *extra, **{name: hidden})
        skipped.insert(0, x)
    x = torch_layer(stack.middle)(x, *extra, **{name: hidden})
    for skip, join, layer in zip(skipped, stack.joins, stack.last, strict=True):
        x = torch_layer(layer)(join(torch.cat([x, skip], dim=-1)), *extra, **{name: hidden})
    return stack.norm(x)


@pytest.mark.parametrize("layers", [1, 3, 5])
@pytest.mark.parametrize("lengths", [None, [7, 3]])
@torch.no_grad()
def test_stacks_are_the_plain_loop(layers, lengths):
    sizes = SkipStackConfig(width=12, heads=3, mlp_dim=20, layers=layers, max_tokens=16)
    mask = None if lengths is None else length_mask(torch.tensor(lengths), 7)
    x, memory = randn(2, 7, 12), randn(2, 4, 12, seed=3)
    encoder, decoder = with_weights(SkipEncoder(sizes)), with_weights(SkipDecoder(sizes))
    torch.backends.mha.set_fastpath_enabled(False)
    try:
        expected = plain(encoder, x, None, mask)
        decoded = plain(decoder, torch.zeros_like(x), memory, mask)
    finally:
        torch.backends.mha.set_fastpath_enabled(True)
    assert torch.allclose(encoder(x, mask), expected, atol=1e-11)
    for keep in (slice(0, 2), slice(3, None)):
        assert torch.allclose(encoder(x, mask, keep), expected[:, keep], atol=1e-11)
    for _ in range(2):  # the second time from what was kept
        assert torch.allclose(decoder(memory, 7, mask), decoded, atol=1e-11)


def test_gradients_reach_all_parameters_and_are_those_of_the_plain_loop():
    decoder, memory = with_weights(SkipDecoder(SIZES)), randn(2, 4, 12, seed=3)
    decoder(memory, 6).square().sum().backward()
    ours = {name: parameter.grad for name, parameter in decoder.named_parameters()}
    decoder.zero_grad()
    mask = torch.ones(2, 6, dtype=torch.bool)  # nothing hidden, and nothing shared by the batch
    decoder(memory, 6, mask).square().sum().backward()
    for name, parameter in decoder.named_parameters():
        assert ours[name] is not None and parameter.grad is not None, name
        assert torch.allclose(ours[name], parameter.grad, atol=1e-9), name
    encoder = with_weights(SkipEncoder(SIZES))
    encoder(randn(2, 6, 12), None, slice(0, 2)).square().sum().backward()
    assert all(parameter.grad is not None for parameter in encoder.parameters())


@torch.no_grad()
def test_what_is_kept_follows_weights_and_number_of_tokens():
    decoder, memory = with_weights(SkipDecoder(SIZES)), randn(2, 4, 12, seed=3)
    six, five = decoder(memory, 6), decoder(memory, 5)
    assert torch.equal(decoder(memory, 6), six) and five.shape == (2, 5, 12)
    assert torch.equal(copy.deepcopy(decoder)(memory, 6), six)
    for change in (
        decoder.positions,
        decoder.first[0].self_attention.qkv.weight,
        decoder.first[0].norm1.bias,
    ):
        change.add_(0.3)
        after = decoder(memory, 6)
        assert not torch.allclose(after, six, atol=1e-3)
        mask = torch.ones(2, 6, dtype=torch.bool)
        assert torch.allclose(after, decoder(memory, 6, mask), atol=1e-12)
        six = after
    decoder.first[0].cross_attention.qkv.weight.data.add_(
        0.3
    )  # not noticed before the next train() or eval()
    assert not torch.allclose(decoder.eval()(memory, 6), six, atol=1e-3)


@torch.no_grad()
def test_what_is_not_read_does_not_matter():
    encoder, x = with_weights(SkipEncoder(SIZES)), randn(2, 6, 12)
    mask = torch.tensor([[True] * 4 + [False] * 2, [False, True, True, True, True, False]])
    other = torch.where(mask[..., None], x, randn(2, 6, 12, seed=9))
    assert torch.allclose(encoder(x, mask)[mask], encoder(other, mask)[mask], atol=1e-12)
    assert not torch.allclose(encoder(x)[mask], encoder(other)[mask], atol=1e-3)


@torch.no_grad()
def test_batch_equals_singles():
    encoder, decoder = with_weights(SkipEncoder(SIZES)), with_weights(SkipDecoder(SIZES))
    x, memory = randn(3, 6, 12), randn(3, 4, 12, seed=3)
    singles = torch.cat([encoder(one[None]) for one in x])
    assert torch.allclose(encoder(x), singles, atol=1e-12)
    singles = torch.cat([decoder(one[None], 6) for one in memory])
    assert torch.allclose(decoder(memory, 6), singles, atol=1e-12)


def test_dropout_is_for_training_only():
    sizes = SkipStackConfig(width=12, heads=3, mlp_dim=20, layers=3, max_tokens=16, dropout=0.5)
    encoder, decoder = with_weights(SkipEncoder(sizes)), with_weights(SkipDecoder(sizes))
    x, memory = randn(1, 6, 12), randn(1, 4, 12, seed=3).expand(2, -1, -1)
    assert torch.equal(encoder(x), encoder(x))
    torch.manual_seed(0)
    assert not torch.allclose(encoder.train()(x), encoder(x))
    first, second = decoder.train()(memory, 6)
    assert not torch.allclose(first, second)  # not shared by the batch either
    drop = PostNormLayer(dim=12, heads=3, mlp_dim=20, dropout=0.5).double().train().mlp
    assert not torch.equal(drop(x), drop(x))


def test_start_of_training():
    torch.manual_seed(0)
    stack = SkipEncoder(SIZES)
    assert stack.positions.min() >= 0 and stack.positions.max() <= 1 and stack.positions.std() > 0.2
    attention = stack.middle.self_attention
    assert not attention.qkv.bias.any() and not attention.proj.bias.any()
    limit = (6 / (12 + 36)) ** 0.5
    assert 0.9 * limit < attention.qkv.weight.abs().max() <= limit


def test_wrong_sizes():
    with pytest.raises(ValueError, match="layers=4; long skips need an odd number"):
        SkipStackConfig(layers=4)
    with pytest.raises(ValueError, match="width=10 is not a multiple of heads=4"):
        SkipStackConfig(width=10)
    with pytest.raises(ValueError, match="17 tokens in a sequence, but positions for 16"):
        SkipDecoder(SIZES)(torch.zeros(1, 2, 12), 17)


def test_length_mask():
    assert length_mask(torch.tensor([0, 2, 5]), 3).tolist() == [[False] * 3, [True, True, False], [True] * 3]


@pytest.mark.compile
@torch.no_grad()
def test_compiled_and_exported():
    decoder, memory = with_weights(SkipDecoder(SIZES)).float(), randn(2, 4, 12).float()
    expected = decoder(memory, 6)
    assert torch.allclose(
        torch.compile(decoder, fullgraph=True, backend="aot_eager")(memory, 6), expected, atol=1e-5
    )
    batch = torch.export.Dim("batch", min=1)
    program = torch.export.export(decoder, (memory, 6), dynamic_shapes=({0: batch}, None))
    assert torch.allclose(program.module()(memory[:1], 6), expected[:1], atol=1e-5)
    encoder, x = with_weights(SkipEncoder(SIZES)).float(), randn(2, 6, 12).float()
    mask = length_mask(torch.tensor([6, 3]), 6)
    expected = encoder(x, mask, slice(0, 2))
    compiled = torch.compile(encoder, fullgraph=True, backend="aot_eager")
    assert torch.allclose(compiled(x, mask, slice(0, 2)), expected, atol=1e-5)
