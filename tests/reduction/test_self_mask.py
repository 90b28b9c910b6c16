from __future__ import annotations

import pytest
import torch

from fasthmr.benchmark.counters import count
from fasthmr.layers.block import TransformerBlock
from fasthmr.reduction.self_mask import SelfMaskConfig


@pytest.mark.parametrize("hidden", [0, 4])
def test_the_head_costs_what_it_says(hidden):
    config = SelfMaskConfig(dim=128, hidden=hidden)
    head = config.build()
    tokens = torch.randn(1, 20, 128)
    counts = count(head, tokens)
    assert counts.macs == 20 * config.macs_per_token
    assert count(TransformerBlock(dim=128, heads=4), tokens).macs > 200 * counts.macs


def test_threshold():
    head = SelfMaskConfig(dim=8, threshold=0.3).build()
    tokens = torch.randn(2, 30, 8, generator=torch.Generator().manual_seed(0))
    person = head.person(tokens)
    assert torch.equal(person, head(tokens).sigmoid() >= 0.3) and person.shape == (2, 30)


@pytest.mark.parametrize("wrong", [{"dim": 0}, {"hidden": -1}, {"after": -1}, {"threshold": 1.0}])
def test_wrong_sizes(wrong):
    with pytest.raises(ValueError, match="SelfMaskConfig"):
        SelfMaskConfig(**{"dim": 8, **wrong})
