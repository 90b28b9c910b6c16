from __future__ import annotations

import time
from dataclasses import replace
from typing import Literal

import pytest
import torch
from torch import Tensor, nn

from fasthmr.layers.block import TransformerBlock
from fasthmr.layers.tokens import TokenState
from fasthmr.reduction.adaptive import TokenBudget, run_adaptive
from fasthmr.reduction.mask_tome import MaskToMe
from fasthmr.reduction.tome_schedule import TokenMergePlan, run_blocks

GRID = (8, 6)
PATCHES = GRID[0] * GRID[1]
PLAN = TokenMergePlan(counts=(12, 12, 12))


def make_blocks(depth: int = 5, dim: int = 16) -> nn.ModuleList:
    torch.manual_seed(0)
    return nn.ModuleList(TransformerBlock(dim=dim, heads=2) for _ in range(depth)).eval()


def make_state(batch: int, dim: int = 16, seed: int = 0) -> TokenState:
    tokens = torch.randn(batch, PATCHES, dim, generator=torch.Generator().manual_seed(seed))
    return TokenState.from_grid(tokens, GRID)


def people(shares: list[float]) -> Tensor:
    """Random patches on the person."""
    draw = torch.rand(len(shares), PATCHES, generator=torch.Generator().manual_seed(1))
    return draw < torch.tensor(shares)[:, None]


SHARES = [0.1, 0.9, 0.4, 0.0, 0.6, 1.0, 0.4]


def row(state: TokenState, i: int) -> TokenState:
    kept = slice(i, i + 1)
    return TokenState(
        tokens=state.tokens[kept],
        size=state.size[kept],
        positions=state.positions[kept],
        group=state.group[kept],
    )


def stepwise(blocks: nn.ModuleList, state: TokenState, person: Tensor, budget: int, plan: TokenMergePlan):
    """One picture by the reducer itself, asked for no more than the budget leaves."""
    for i, block in enumerate(blocks):
        limit = plan.counts[i] if i < len(plan.counts) else 0
        count = min(limit, max(0, state.tokens.shape[1] - budget))
        now = replace(plan, counts=(count,), reducer=replace(plan.reducer, overflow="stop"))
        state = run_blocks([block], state, plan=now, person=person)
    return state


@pytest.mark.parametrize("source", ["even", "odd"])
@pytest.mark.parametrize("weighted", [True, False])
@torch.no_grad()
def test_a_batch_equals_its_pictures_one_by_one(source: Literal["even", "odd"], weighted: bool):
    reducer = MaskToMe(source=source, size_weighted=weighted)
    plan = replace(PLAN, reducer=reducer, prop_attn=weighted)
    blocks, state, person = make_blocks(), make_state(len(SHARES)), people(SHARES)
    budgets = TokenBudget(spare=5, least=14, step=3)(person)
    together = run_adaptive(blocks, state, person, budgets, plan)
    lengths = (together.size > 0).sum(1)
    assert len(lengths.unique()) >= 4
    for i, length in enumerate(lengths.tolist()):
        alone = stepwise(blocks, row(state, i), person[i : i + 1], int(budgets[i]), plan)
        assert alone.tokens.shape[1] == length
        for name in ("tokens", "size", "positions"):
            ours, theirs = getattr(together, name)[i, :length], getattr(alone, name)[0]
            torch.testing.assert_close(ours, theirs, rtol=0, atol=1e-5)
        assert torch.equal(together.group[i], alone.group[0])
    torch.testing.assert_close(together.size.sum(1), torch.full((len(SHARES),), float(PATCHES)))
    assert bool((together.size.gather(1, together.group) > 0).all())


@torch.no_grad()
def test_no_token_of_a_person_is_lost():
    blocks, state, person = make_blocks(), make_state(len(SHARES)), people(SHARES)
    budgets = torch.full((len(SHARES),), 10)
    result = run_adaptive(blocks, state, person, budgets, PLAN)
    sizes = result.size.gather(1, result.group)
    assert bool((sizes[person] == 1).all())
    lengths = (result.size > 0).sum(1)
    assert bool((lengths >= person.sum(1)).all()) and lengths.max() == PATCHES and lengths.min() == 12


@torch.no_grad()
def test_nothing_to_merge():
    blocks, state = make_blocks(), make_state(3)
    person = torch.ones(3, PATCHES, dtype=torch.bool)
    result = run_adaptive(blocks, state, person, torch.full((3,), 1), PLAN)
    torch.testing.assert_close(result.tokens, run_blocks(blocks, state).tokens, rtol=0, atol=1e-5)
    assert torch.equal(result.group, state.group)


@torch.no_grad()
def test_equal_budgets_are_the_plain_merge():
    blocks, state = make_blocks(), make_state(4)
    person = people([0.1] * 4)
    result = run_adaptive(blocks, state, person, torch.full((4,), 20), PLAN)
    plain = run_blocks(blocks, state, plan=TokenMergePlan(counts=(12, 12, 4)), person=person)
    torch.testing.assert_close(result.tokens, plain.tokens, rtol=0, atol=1e-5)
    assert torch.equal(result.group, plain.group)


def test_gradients_pass():
    blocks, state = make_blocks(), make_state(3)
    run_adaptive(
        blocks, state, people([0.2, 0.5, 0.8]), torch.tensor([20, 30, 40]), PLAN
    ).tokens.sum().backward()
    assert all(parameter.grad is not None for parameter in blocks.parameters())


def test_budgets():
    person = people(SHARES)
    counts = person.sum(1)
    budgets = TokenBudget(spare=4, least=16, most=40, step=8)(person)
    assert budgets.tolist() == [min(40, max(16, -(-(int(n) + 4) // 8) * 8)) for n in counts]
    assert bool((TokenBudget(least=200)(person) == PATCHES).all())
    with pytest.raises(ValueError, match="at least 1"):
        TokenBudget(step=0)
    with pytest.raises(ValueError, match="more than most"):
        TokenBudget(most=10)


def test_what_does_not_fit():
    blocks, person = make_blocks(), people([0.2])
    with pytest.raises(ValueError, match="'tome' only"):
        plan = replace(PLAN, reducer=MaskToMe(order="raster"))
        run_adaptive(blocks, make_state(1), person, torch.tensor([20]), plan)
    merged = run_blocks(blocks, make_state(1), plan=PLAN, person=person)
    with pytest.raises(ValueError, match="before any token is merged"):
        run_adaptive(blocks, merged, person, torch.tensor([20]), PLAN)


@torch.no_grad()
def test_a_batch_is_faster_than_its_pictures_one_by_one():
    blocks = make_blocks(depth=6, dim=32)
    state, person = make_state(48, dim=32), people([0.2, 0.4, 0.6, 0.8] * 12)
    budgets = TokenBudget(spare=4, least=16)(person)

    def together() -> None:
        run_adaptive(blocks, state, person, budgets, PLAN)

    def one_by_one() -> None:
        for i in range(48):
            run_adaptive(blocks, row(state, i), person[i : i + 1], budgets[i : i + 1], PLAN)

    def seconds(run) -> float:
        best = float("inf")
        for _ in range(3):
            start = time.perf_counter()
            run()
            best = min(best, time.perf_counter() - start)
        return best

    assert seconds(together) < 0.7 * seconds(one_by_one)
