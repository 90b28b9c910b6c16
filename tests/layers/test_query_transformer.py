from __future__ import annotations

import copy

import pytest
import torch
from torch import nn

from fasthmr.layers.neighbours import neighbours_of
from fasthmr.layers.query_transformer import QueryTransformerConfig, sine_positions

SIZES = QueryTransformerConfig(dim=16, mlp_dim=24, layers=2, heads=4)


def parts(batch: int = 3):
    torch.manual_seed(1)
    model = SIZES.build().eval()
    for weight in model.parameters():
        nn.init.normal_(weight, std=0.3)
    tables = (nn.Parameter(torch.randn(2, 16)), nn.Parameter(torch.randn(5, 16)))
    near = torch.rand(5, 5) < 0.4
    return (
        model,
        tables,
        neighbours_of(near | near.T, 2),
        torch.randn(batch, 6, 16),
        torch.randn(batch, 1, 16),
    )


def test_folded_first_attention_equals_the_plain_form():
    model, tables, neighbours, context, camera = parts()
    positions = sine_positions(2, 3, 16)
    plain_queries = torch.cat(tables).expand(3, -1, -1)
    with torch.no_grad():
        plain = model(context, camera, plain_queries, positions, neighbours)
        for _ in range(2):  # the second time from what was kept
            folded = model(context, camera, tables, positions, neighbours)
            assert all(torch.allclose(a, b, atol=1e-5) for a, b in zip(plain, folded, strict=True))


def test_changed_queries_are_noticed():
    model, tables, neighbours, context, camera = parts()
    positions = sine_positions(2, 3, 16)
    with torch.no_grad():
        before = model(context, camera, tables, positions, neighbours)[2]
        tables[0].mul_(-2)
        after = model(context, camera, tables, positions, neighbours)[2]
        fresh = copy.deepcopy(model)(context, camera, tables, positions, neighbours)[2]
    assert not torch.allclose(before, after)
    assert torch.allclose(after, fresh)


def test_gradients_and_dropout():
    model, tables, neighbours, context, camera = parts()
    model.train()
    torch.manual_seed(2)
    outputs = model(context, camera, tables, sine_positions(2, 3, 16), neighbours)
    sum(part.square().mean() for part in outputs).backward()
    assert all(p.grad is not None and p.grad.abs().sum() > 0 for p in (*model.parameters(), *tables))


def test_sine_code_counts_from_one_and_puts_rows_first():
    code = sine_positions(2, 3, 8)
    angle = torch.tensor(2 * torch.pi / (2 + 1e-6))
    assert torch.allclose(code[0, :2], torch.stack([angle.sin(), angle.cos()]), atol=1e-6)
    assert torch.equal(code[0, :4], code[2, :4]) and torch.equal(code[0, 4:], code[3, 4:])


def test_sizes_are_checked():
    with pytest.raises(ValueError, match="multiple of 4 and of heads"):
        QueryTransformerConfig(dim=18, heads=4)


def test_attention_is_what_the_last_layer_reads_with():
    model, tables, neighbours, context, camera = parts()
    positions = sine_positions(2, 3, 16)
    heard = []
    layer = model.decoder.layers[-1].multihead_attn

    def mix(q, k, v, neighbours=None):
        heard.append((q @ k.mT / q.shape[-1] ** 0.5).softmax(-1))
        return whole(q, k, v, neighbours)

    whole, layer.mix = layer.mix, mix
    with torch.no_grad():
        model(context, camera, tables, positions, neighbours)
        found = model.attention(context, camera, tables, positions, neighbours)
    assert found.shape == (3, 4, 7, 6)
    torch.testing.assert_close(found, heard[0])
