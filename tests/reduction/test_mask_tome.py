from __future__ import annotations

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from fasthmr.layers.attention import SelfAttention, proportional_attention
from fasthmr.layers.tokens import TokenState
from fasthmr.reduction import mask_tome
from fasthmr.reduction.mask_tome import MaskToMe, TokenMatch, match_tokens, merge_tokens, rank_sources

few = settings(max_examples=25, deadline=None)
seeds = st.integers(0, 2**31)


def randn(*shape: int, seed: int) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def marks(batch: int, tokens: int, share: float, seed: int) -> Tensor:
    return torch.rand(batch, tokens, generator=torch.Generator().manual_seed(seed)) < share


def grid_state(batch: int, rows: int, columns: int, seed: int) -> TokenState:
    return TokenState.from_grid(randn(batch, rows * columns, 6, seed=seed), (rows, columns))


def similarities(pairs: dict[tuple[int, int], float], tokens: int = 6) -> Tensor:
    """A metric whose cosines are the given ones for the pairs and 0 elsewhere."""
    gram = torch.zeros(tokens, tokens, dtype=torch.float64)
    for (a, b), value in pairs.items():
        gram[a, b] = gram[b, a] = value
    gram.fill_diagonal_(1.0)
    values, vectors = torch.linalg.eigh(gram)
    assert values.min() > 0
    return (vectors * values.sqrt())[None]


FIGURE = {(0, 1): 0.56, (1, 4): 0.31, (0, 5): 0.73, (4, 5): 0.39, (0, 4): 0.5, (1, 5): 0.5}
"""Background pairs in Fig. 3 of the paper, and two that are never compared; tokens 2 and 3 are the person."""


@pytest.mark.parametrize(
    ("source", "together"), [("even", {0, 4, 5}), ("odd", {0, 1, 5})], ids=["text", "figure"]
)
def test_the_example_of_the_paper_by_its_text_and_by_its_figure(source, together):
    person = torch.tensor([[False, False, True, True, False, False]])
    match = match_tokens(similarities(FIGURE), person, 2, source=source)
    groups = match.group[0].tolist()
    members = [{i for i in range(6) if groups[i] == slot} for slot in range(4)]
    assert together in members


@few
@given(seed=seeds, tokens=st.integers(2, 30), count=st.integers(0, 20), share=st.floats(0, 1))
@pytest.mark.parametrize("order", ["tome", "raster"])
@pytest.mark.parametrize("source", ["even", "odd"])
def test_every_patch_is_counted_once(source, order, seed, tokens, count, share):
    state = grid_state(2, tokens, 1, seed)
    person = marks(2, tokens, share, seed)
    reducer = MaskToMe(source=source, order=order)
    merged = reducer(state, randn(2, tokens, 4, seed=seed + 1), person, count)
    left = tokens - min(count, tokens // 2)
    assert merged.tokens.shape == (2, left, 6)
    assert torch.equal(merged.size.sum(1), torch.full((2,), float(tokens), dtype=torch.float64))
    counted = torch.zeros(2, left, dtype=torch.float64).scatter_add(
        1, merged.group, torch.ones_like(state.size)
    )
    assert torch.equal(counted, merged.size)
    # a weighted mean keeps the mean over patches, and the mean position
    patches = merged.unmerge((tokens, 1)).flatten(2).mT
    torch.testing.assert_close(patches.mean(1), state.tokens.mean(1))
    torch.testing.assert_close((merged.positions * merged.size[..., None]).sum(1), state.positions.sum(1))


@few
@given(seed=seeds, tokens=st.integers(2, 30), count=st.integers(1, 20), share=st.floats(0, 1))
def test_no_person_token_merges_while_background_remains(seed, tokens, count, share):
    person = marks(1, tokens, share, seed)
    metric = randn(1, tokens, 4, seed=seed)
    background = rank_sources(metric, person).background[0].item()
    edges = match_tokens(metric, person, count).edges[0]
    touches_person = person[0][edges].any(1)
    assert not touches_person[:background].any()
    assert touches_person[background:].all()
    stopped = match_tokens(metric, person, count, overflow="stop").edges[0]
    assert torch.equal(stopped, edges[:background])


@few
@given(seed=seeds, tokens=st.integers(1, 20))
def test_merging_zero_tokens_changes_nothing(seed, tokens):
    state = grid_state(2, tokens, 1, seed)
    merged = MaskToMe()(state, randn(2, tokens, 4, seed=seed), marks(2, tokens, 0.5, seed), 0)
    assert torch.equal(merged.tokens, state.tokens)
    assert torch.equal(merged.group, state.group)
    assert not merged.merged


@few
@given(seed=seeds, tokens=st.integers(4, 20))
def test_without_a_person_the_mask_changes_nothing(seed, tokens):
    metric = randn(2, tokens, 4, seed=seed)
    masked = match_tokens(metric, torch.zeros(2, tokens, dtype=torch.bool), tokens // 3)
    plain = match_tokens(metric, None, tokens // 3)
    assert torch.equal(masked.group, plain.group)
    assert torch.equal(masked.edges, plain.edges)


@few
@given(
    values=st.lists(st.integers(-2, 2), min_size=1, max_size=12),
    flags=st.lists(st.booleans(), min_size=12, max_size=12),
)
def test_counting_ranks_as_sorting_does(values, flags):
    value = torch.tensor([values], dtype=torch.float32)
    first = torch.tensor([flags[: len(values)]])
    expected = sorted(range(len(values)), key=lambda i: (not flags[i], -values[i], i))
    assert mask_tome._rank(value, first)[0].tolist() == expected
    assert mask_tome._rank_by_counting(value, first)[0].tolist() == expected


@few
@given(seed=seeds, sizes=st.lists(st.integers(1, 5), min_size=1, max_size=8))
def test_proportional_attention_is_attention_to_repeated_tokens(seed, sizes):
    size = torch.tensor(sizes)
    q, k, v = (randn(1, 2, n, 4, seed=seed + i) for i, n in enumerate((3, len(sizes), len(sizes))))
    repeated = [x.repeat_interleave(size, dim=2) for x in (k, v)]
    expected = torch.nn.functional.scaled_dot_product_attention(q, *repeated)
    torch.testing.assert_close(proportional_attention(q, k, v, size[None].double()), expected)


def test_a_block_on_merged_tokens_is_the_block_on_their_copies():
    """What proportional attention is for: merging equal tokens loses nothing."""
    attention = SelfAttention(dim=8, heads=2).double()
    size = torch.tensor([[1.0, 3.0, 2.0]], dtype=torch.float64)
    tokens = randn(1, 3, 8, seed=0)
    copies = tokens.repeat_interleave(size[0].long(), dim=1)
    merged, _ = attention(tokens, size)
    torch.testing.assert_close(attention(copies)[0][:, [0, 1, 4]], merged)


def test_plain_mean_counts_members_but_positions_count_patches():
    state = TokenState.from_grid(torch.tensor([[[0.0], [4.0], [8.0], [2.0]]]), (4, 1))
    match = TokenMatch(
        group=torch.tensor([[0, 0, 1, 2]]),
        anchor=torch.tensor([[0, 2, 3]]),
        edges=torch.zeros(1, 1, 2).long(),
    )
    once = merge_tokens(state, match)
    again = TokenMatch(
        group=torch.tensor([[0, 0, 1]]), anchor=torch.tensor([[0, 2]]), edges=torch.zeros(1, 1, 2).long()
    )
    weighted, plain = merge_tokens(once, again), merge_tokens(once, again, size_weighted=False)
    assert weighted.tokens[0, 0].item() == 4.0
    assert plain.tokens[0, 0].item() == 5.0
    assert plain.positions[0, 0].tolist() == weighted.positions[0, 0].tolist() == [1.0, 0.0]
    assert plain.size.tolist() == [[3.0, 1.0]]
    assert weighted.group.tolist() == [[0, 0, 0, 1]]


def test_half_precision_sums_in_single():
    state = TokenState.from_grid(torch.full((1, 200, 2), 1.01, dtype=torch.bfloat16), (200, 1))
    merged = MaskToMe()(state, torch.ones(1, 200, 4, dtype=torch.bfloat16), None, 100)
    assert merged.tokens.dtype == torch.bfloat16
    assert torch.equal(merged.tokens, state.tokens[:, :100])


def test_gradients_reach_every_token():
    tokens = randn(1, 12, 3, seed=0).requires_grad_()
    merged = MaskToMe()(TokenState.from_grid(tokens, (12, 1)), randn(1, 12, 4, seed=1), None, 5)
    merged.tokens.square().sum().backward()
    assert tokens.grad is not None and bool((tokens.grad != 0).all())


def test_a_batch_that_would_fall_apart_is_refused():
    person = torch.tensor([[False] * 8, [True] * 8])
    with pytest.raises(ValueError, match="no batch any more"):
        match_tokens(randn(2, 8, 4, seed=0), person, 2, overflow="stop")
    with pytest.raises(ValueError, match="count=-1"):
        match_tokens(randn(2, 8, 4, seed=0), None, -1)


def test_pictures_of_a_batch_do_not_mix():
    metric, person = randn(3, 20, 4, seed=0), marks(3, 20, 0.4, 1)
    state = grid_state(3, 20, 1, 2)
    together = MaskToMe()(state, metric, person, 6)
    for i in range(3):
        alone = MaskToMe()(
            TokenState.from_grid(state.tokens[i : i + 1], (20, 1)), metric[i : i + 1], person[i : i + 1], 6
        )
        assert torch.equal(alone.tokens[0], together.tokens[i])
        assert torch.equal(alone.group[0], together.group[i])
