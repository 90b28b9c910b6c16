"""The decoder against the plain form of the released code, and the constant it keeps."""

from __future__ import annotations

import copy

import pytest
import torch
import torch.nn.functional as F

from fasthmr.layers.context_decoder import ContextDecoder, ContextDecoderLayer

SIZES = {"token_dim": 5, "dim": 24, "depth": 3, "heads": 2, "head_dim": 6, "mlp_dim": 20, "context_dim": 10}


def decoder_of(**changes: int) -> ContextDecoder:
    torch.manual_seed(0)
    return ContextDecoder(**{**SIZES, **changes}).double()


def contexts(batch: int = 3) -> torch.Tensor:
    return torch.randn(batch, 7, 10, generator=torch.Generator().manual_seed(1), dtype=torch.float64)


def heads_of(x: torch.Tensor, heads: int) -> torch.Tensor:
    return x.unflatten(-1, (heads, -1)).transpose(1, 2)


def plain_attention(q: torch.Tensor, k: torch.Tensor, v: torch.Tensor, heads: int) -> torch.Tensor:
    q, k, v = (heads_of(x, heads) for x in (q, k, v))
    weights = (q @ k.mT * q.shape[-1] ** -0.5).softmax(-1)
    return (weights @ v).transpose(1, 2).flatten(2)


def plain_layer(
    layer: ContextDecoderLayer, x: torch.Tensor, context: torch.Tensor, heads: int
) -> torch.Tensor:
    q, k, v = layer.self_attention.to_qkv(layer.self_norm(x)).chunk(3, -1)
    x = x + layer.self_attention.to_out(plain_attention(q, k, v, heads))
    k, v = layer.cross_attention.to_kv(context).chunk(2, -1)
    q = layer.cross_attention.to_q(layer.cross_norm(x))
    x = x + layer.cross_attention.to_out(plain_attention(q, k, v, heads))
    return x + layer.mlp.fc2(F.gelu(layer.mlp.fc1(layer.mlp_norm(x))))


def plain(decoder: ContextDecoder, context: torch.Tensor, token: torch.Tensor, heads: int) -> torch.Tensor:
    """A general transformer decoder on one token for every sample, all keys and values formed."""
    x = decoder.to_token_embedding(token.expand(len(context), 1, -1)) + decoder.pos_embedding
    for layer in decoder.layers:
        x = plain_layer(layer, x, context, heads)
    return x[:, 0]


@pytest.mark.parametrize(
    "changes", [{}, {"heads": 4, "head_dim": 3}, {"heads": 1, "head_dim": 24}, {"depth": 1}]
)
def test_equals_the_plain_form(changes):
    decoder, context = decoder_of(**changes), contexts()
    zero = torch.zeros(1, 1, SIZES["token_dim"], dtype=torch.float64)
    expected = plain(decoder, context, zero, changes.get("heads", SIZES["heads"]))
    assert torch.allclose(decoder(context), expected, atol=1e-12)
    with torch.no_grad():
        decoder.eval()
        assert torch.allclose(decoder(context), expected, atol=1e-12)
        assert torch.allclose(decoder(context), expected, atol=1e-12)  # now from the kept constant


def test_equals_the_plain_form_with_a_token_for_each_sample():
    decoder, context = decoder_of(), contexts()
    token = torch.randn(3, 1, 5, generator=torch.Generator().manual_seed(2), dtype=torch.float64)
    assert torch.allclose(decoder(context, token[:, 0]), plain(decoder, context, token, 2), atol=1e-12)


def test_gradients_equal_those_of_the_plain_form():
    decoder, context = decoder_of(), contexts().requires_grad_()
    decoder(context).square().sum().backward()
    ours = {name: parameter.grad for name, parameter in decoder.named_parameters()}
    ours_context, context.grad = context.grad, None
    decoder.zero_grad()
    plain(decoder, context, torch.zeros(1, 1, 5, dtype=torch.float64), 2).square().sum().backward()
    assert torch.allclose(ours_context, context.grad, atol=1e-10)
    for name, parameter in decoder.named_parameters():
        assert ours[name] is not None, name
        assert torch.allclose(ours[name], parameter.grad, atol=1e-10), name


def change_in_place(decoder: ContextDecoder) -> None:
    decoder.layers[0].self_norm.weight.mul_(2)


def change_by_loading(decoder: ContextDecoder) -> None:
    decoder.load_state_dict({key: tensor * 2 for key, tensor in decoder.state_dict().items()})


def change_by_assigning(decoder: ContextDecoder) -> None:
    decoder.load_state_dict({k: t * 2 for k, t in decoder.state_dict().items()}, assign=True)


def change_the_token(decoder: ContextDecoder) -> None:
    decoder.pos_embedding.add_(1)


def change_behind_autograd(decoder: ContextDecoder) -> None:
    decoder.pos_embedding.data.add_(1)
    decoder.eval()


@pytest.mark.parametrize(
    "change",
    [change_in_place, change_by_loading, change_by_assigning, change_the_token, change_behind_autograd],
)
@torch.no_grad()
def test_the_kept_constant_follows_the_weights(change):
    decoder, context = decoder_of().eval(), contexts()
    before = decoder(context)
    change(decoder)
    after = decoder(context)
    assert not torch.allclose(before, after)
    zero = torch.zeros(1, 1, SIZES["token_dim"], dtype=torch.float64)
    assert torch.allclose(after, plain(decoder, context, zero, 2), atol=1e-12)


@torch.no_grad()
def test_the_kept_constant_follows_dtype_copies_and_modes():
    decoder, context = decoder_of().eval(), contexts()
    expected = decoder(context)
    assert torch.equal(decoder(context), expected)
    assert torch.equal(copy.deepcopy(decoder)(context), expected)
    assert torch.allclose(decoder.float()(context.float()).double(), expected, atol=1e-5)
    with torch.inference_mode():
        assert torch.allclose(decoder(context.float()).double(), expected, atol=1e-5)


@torch.no_grad()
def test_half_precision_context_under_autocast():
    decoder, context = decoder_of().float().eval(), contexts().float()
    expected = decoder(context)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        assert torch.allclose(decoder(context).float(), expected, atol=0.1)
    assert torch.allclose(decoder.bfloat16()(context.bfloat16()).float(), expected, atol=0.2)
