from __future__ import annotations

from itertools import pairwise

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from fasthmr.encoders.vit import ViT, ViTConfig
from fasthmr.reduction.eclm import (
    LayerMergePlan,
    MergeRule,
    merge_layers,
    merge_state,
    merge_tensors,
    weights_fingerprint,
)
from fasthmr.reduction.merge_search import MergeSearch

TINY = ViTConfig(dim=8, depth=6, heads=2, image_size=(48, 32), drop_path=0.2)


def make_vit(seed: int = 0) -> ViT:
    torch.manual_seed(seed)
    return ViT(TINY).eval()


def stack(count: int, dtype: torch.dtype = torch.float64) -> list[torch.Tensor]:
    generator = torch.Generator().manual_seed(0)
    return [torch.randn(3, 4, generator=generator, dtype=torch.float64).to(dtype) for _ in range(count)]


def test_rules():
    a, b, c = stack(3)
    torch.testing.assert_close(MergeRule()([a, b, c]), b + c - a)
    torch.testing.assert_close(MergeRule(kind="mean")([a, b, c]), (a + b + c) / 3)
    torch.testing.assert_close(MergeRule(kind="blend", weight=0.5)([a, b, c]), 0.25 * a + 0.25 * b + 0.5 * c)
    assert torch.equal(MergeRule(kind="keep_first")([a, b, c]), a)
    assert torch.equal(MergeRule(kind="keep_last")([a, b, c]), c)
    for kind in ("eq4", "blend", "mean", "keep_first", "keep_last"):
        assert torch.equal(MergeRule(kind=kind)([a]), a)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float32, torch.float64])
def test_a_pair_merged_by_eq4_is_its_upper_block_to_the_bit(dtype):
    pair = stack(2, dtype)
    assert torch.equal(MergeRule()(pair), pair[1])


def test_half_precision_is_summed_in_double():
    values = stack(5, torch.bfloat16)
    exact = sum((value.double() for value in values[1:]), -3 * values[0].double())
    assert torch.equal(MergeRule()(values), exact.to(torch.bfloat16))


def test_the_program_that_the_paper_follows_keeps_the_lowest_norms_and_the_top_linears():
    blocks = [block.state_dict() for block in make_vit().blocks[1:4]]
    for state in blocks:
        state["norm1.weight"] = state["norm1.weight"] + torch.rand(8)
    merged = merge_tensors(blocks, MergeRule(kind="blend", weight=1.0, linear_only=True))
    for key, tensor in merged.items():
        kept = blocks[0] if key.startswith("norm") else blocks[2]
        torch.testing.assert_close(tensor, kept[key])


def test_a_merged_encoder_rebuilds_from_its_source_and_from_its_own_weights():
    source = make_vit()
    groups = ((0, 1), (2,), (3, 4, 5))
    merged = merge_layers(source, groups)
    assert merged.config.depth == 3
    assert not merged.training
    again = ViT(merged.config)
    again.load_state_dict(merge_state(source.state_dict(), LayerMergePlan(groups=groups)))
    own = ViT(merged.config)
    own.load_state_dict(merged.state_dict())
    image = torch.randn(1, 3, 48, 32, generator=torch.Generator().manual_seed(1))
    with torch.no_grad():
        assert torch.equal(merged(image)[0], again.eval()(image)[0])
        assert torch.equal(merged(image)[0], own.eval()(image)[0])
    shared = {p.data_ptr() for p in source.parameters()} & {p.data_ptr() for p in merged.parameters()}
    assert not shared
    assert all(p.requires_grad for p in merged.parameters())


def test_groups_of_one_change_nothing():
    source = make_vit()
    merged = merge_layers(source, tuple((i,) for i in range(6)))
    assert weights_fingerprint(merged) == weights_fingerprint(source)
    assert weights_fingerprint(make_vit(1)) != weights_fingerprint(source)


def test_each_group_can_have_its_rule():
    source = make_vit()
    rules = (MergeRule(kind="keep_last"), MergeRule(kind="keep_first"))
    merged = merge_layers(source, ((0, 1, 2), (3, 4, 5)), rules)
    assert torch.equal(merged.blocks[0].mlp.fc1.weight, source.blocks[2].mlp.fc1.weight)
    assert torch.equal(merged.blocks[1].mlp.fc1.weight, source.blocks[3].mlp.fc1.weight)


@pytest.mark.parametrize("groups", [(), ((0, 2), (1,)), ((1, 2),), ((0,), (), (1,)), ((0, 0),)])
def test_groups_that_are_no_merge(groups):
    with pytest.raises(ValueError, match="LayerMergePlan"):
        LayerMergePlan(groups=groups)


def test_a_plan_for_another_depth():
    with pytest.raises(ValueError, match="the plan merges 2 blocks, the weights have 6"):
        merge_layers(make_vit(), ((0, 1),))
    with pytest.raises(ValueError, match="2 rules for 1 groups"):
        LayerMergePlan(groups=((0, 1),), rules=(MergeRule(), MergeRule()))


def run(depth: int, accept: list[bool]) -> list[MergeSearch]:
    """The states of a search in which trials end as given."""
    states = [MergeSearch(depth=depth, threshold=1.0, base=5.0)]
    for accepted in accept:
        states.append(states[-1].after(5.5 if accepted else 6.0))
    return states


@settings(max_examples=60, deadline=None)
@given(accept=st.lists(st.booleans(), min_size=1, max_size=20))
def test_facts_of_algorithm_1(accept):
    depth = len(accept) + 1
    states = run(depth, accept)
    assert states[-1].next_trial is None  # exactly depth - 1 trials, whatever they say
    trials = [(trial.low, trial.high) for trial in states[-1].trials]
    assert [low for low, _ in trials] == list(range(depth - 2, -1, -1))
    for state, (low, high) in zip(states[:-1], trials, strict=True):
        assert all(first > low and last > low for first, last in state.commits)
        assert not state.commits or high <= state.commits[-1][0]
    commits = states[-1].commits
    assert all(above[0] > below[1] for above, below in pairwise(commits))
    accepted = {(t.low, t.high) for t in states[-1].trials if t.accepted}
    assert set(commits) <= accepted
    for pending in (False, True):
        groups = states[-1].groups(commit_pending=pending)
        assert [block for group in groups for block in group] == list(range(depth))
    merged = len(states[-1].groups(commit_pending=False)) - len(states[-1].groups())
    span = states[-1].pending
    assert merged == (span[1] - span[0] if span else 0)


def test_a_finished_search_takes_no_more_errors():
    with pytest.raises(ValueError, match="over"):
        run(3, [True, True])[-1].after(1.0)
