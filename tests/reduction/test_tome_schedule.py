from __future__ import annotations

import pytest
import torch

from fasthmr.encoders.vit import ViT, ViTConfig
from fasthmr.reduction.tome_schedule import TokenMergePlan, run_blocks, tome_schedule


def test_the_published_schedule():
    assert tome_schedule(192, 40, 90) == TokenMergePlan().counts == (40, 40, 22)
    assert TokenMergePlan().token_counts(192, 5) == (152, 112, 90, 90, 90)
    assert tome_schedule(192, 100, 90) == (96, 6)
    assert tome_schedule(90, 40, 90) == ()
    assert TokenMergePlan.to_keep(90, tokens=192, per_block=60).counts == (60, 42)


@pytest.mark.parametrize(("tokens", "per_block", "keep"), [(0, 1, 1), (4, 0, 1), (4, 1, 0)])
def test_schedules_need_positive_numbers(tokens, per_block, keep):
    with pytest.raises(ValueError, match="at least 1"):
        tome_schedule(tokens, per_block, keep)


def test_plans_that_do_not_fit():
    with pytest.raises(ValueError, match="between 1 and the 80"):
        TokenMergePlan.to_keep(90, tokens=80)
    with pytest.raises(ValueError, match="negative"):
        TokenMergePlan(counts=(3, -1))
    with pytest.raises(ValueError, match="the model has 2"):
        TokenMergePlan().token_counts(192, 2)
    with pytest.raises(ValueError, match="block 1 has 40 tokens"):
        TokenMergePlan(counts=(40, 30)).token_counts(80, 4)


def test_blocks_without_merging_are_the_encoder():
    torch.manual_seed(0)
    vit = ViT(ViTConfig(dim=8, depth=3, heads=2, image_size=(64, 48))).eval()
    image = torch.randn(2, 3, 64, 48)
    with torch.no_grad():
        state = run_blocks(vit.blocks, vit.token_state(image), plan=TokenMergePlan(counts=(0, 0)))
        assert torch.equal(vit.last_norm(state.tokens).mT.unflatten(-1, vit.grid), vit(image)[0])


def test_merging_stands_between_attention_and_feed_forward():
    torch.manual_seed(0)
    vit = ViT(ViTConfig(dim=8, depth=2, heads=2, image_size=(64, 48))).eval()
    seen: list[int] = []
    for block in vit.blocks:
        block.attn.register_forward_hook(lambda _, inputs, __: seen.append(inputs[0].shape[1]))
        block.mlp.register_forward_hook(lambda _, inputs, __: seen.append(inputs[0].shape[1]))
    with torch.no_grad():
        state = vit.token_state(torch.randn(1, 3, 64, 48))
        run_blocks(vit.blocks, state, plan=TokenMergePlan(counts=(0, 5)))
    assert seen == [12, 12, 12, 7]
