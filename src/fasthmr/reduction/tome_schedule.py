"""How many tokens merge in which block (FastHMR, arXiv 2510.10868, sec. 3 and Table 10)."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, replace

from jaxtyping import Bool, Float
from torch import Tensor, nn

from fasthmr.layers.block import TransformerBlock
from fasthmr.layers.tokens import TokenState
from fasthmr.reduction.mask_tome import MASK_TOME, MaskToMe


def tome_schedule(tokens: int, per_block: int, keep: int) -> tuple[int, ...]:
    """Tokens that merge away in each of the first blocks until `keep` are left.

    r = min(per_block, n - keep, n / 2) while n > keep: a block can lose at most half of its tokens. The
    published 40 a block from 192 to 90 is (40, 40, 22); Table 12 shows that the "10" in the text is an error.

    Raises:
        ValueError: A number is less than 1.
    """
    if min(tokens, per_block, keep) < 1:
        raise ValueError(f"tokens={tokens}, per_block={per_block} and keep={keep} must be at least 1")
    counts: list[int] = []
    while tokens > keep:
        counts.append(min(per_block, tokens - keep, tokens // 2))
        tokens -= counts[-1]
    return tuple(counts)


@dataclass(frozen=True, kw_only=True)
class TokenMergePlan:
    """Token merging in the first blocks of a model.

    Attributes:
        counts: Tokens that merge away in block 0, 1, ...; blocks of a model whose layers are merged count as
            they are there. The default is the published schedule for 192 tokens.
        reducer: How they are chosen and averaged.
        prop_attn: Attend to a merged token as to the patches it stands for, in all blocks after a merge.
        guided: Protect the person; False is plain ToMe.
        min_share: See `mask_tokens.person_patches`.
        dilate: See `mask_tokens.person_patches`.
    """

    counts: tuple[int, ...] = (40, 40, 22)
    reducer: MaskToMe = MASK_TOME
    prop_attn: bool = True
    guided: bool = True
    min_share: float | None = None
    dilate: int = 0

    def __post_init__(self) -> None:
        if any(count < 0 for count in self.counts):
            raise ValueError(f"TokenMergePlan: counts={self.counts} are negative")

    @staticmethod
    def to_keep(
        keep: int,
        *,
        tokens: int,
        per_block: int = 40,
        reducer: MaskToMe = MASK_TOME,
        prop_attn: bool = True,
    ) -> TokenMergePlan:
        """The plan that leaves `keep` of `tokens` by the rule of `tome_schedule`.

        Raises:
            ValueError: `keep` is not in 1..tokens.
        """
        if not 1 <= keep <= tokens:
            raise ValueError(f"keep={keep} is not between 1 and the {tokens} tokens of the model")
        return TokenMergePlan(
            counts=tome_schedule(tokens, per_block, keep),
            reducer=reducer,
            prop_attn=prop_attn,
        )

    def token_counts(self, tokens: int, depth: int) -> tuple[int, ...]:
        """Tokens that leave each of `depth` blocks, and so enter its feed-forward half.

        Raises:
            ValueError: The plan has more blocks, or merges more than half of a block's tokens.
        """
        if len(self.counts) > depth:
            raise ValueError(f"the plan merges tokens in {len(self.counts)} blocks, the model has {depth}")
        left = []
        for i, count in enumerate(self.counts):
            if count > tokens // 2:
                raise ValueError(f"block {i} has {tokens} tokens and cannot lose {count}: half at most")
            tokens -= count
            left.append(tokens)
        return tuple(left) + (tokens,) * (depth - len(left))


def run_block(
    block: TransformerBlock,
    state: TokenState,
    *,
    plan: TokenMergePlan | None = None,
    index: int = 0,
    person: Bool[Tensor, "batch patches"] | None = None,
) -> TokenState:
    """One block in which tokens merge between attention and feed-forward.

    The published multiply-accumulates (Table 12) place the merge there, as ToMe does.

    Args:
        index: Number of the block in the plan.
        person: Patches on the person, see `MaskToMe`.
    """
    prop_attn = plan is not None and plan.prop_attn and state.merged
    tokens, keys = block.attend(state.tokens, state.size if prop_attn else None)
    state = replace(state, tokens=tokens)
    if plan is not None and index < len(plan.counts) and plan.counts[index] > 0:
        state = plan.reducer(state, mean_keys(keys), person, plan.counts[index])
    return replace(state, tokens=block.feed_forward(state.tokens))


def run_blocks(
    blocks: Iterable[nn.Module],
    state: TokenState,
    *,
    plan: TokenMergePlan | None = None,
    first: int = 0,
    person: Bool[Tensor, "batch patches"] | None = None,
) -> TokenState:
    """Blocks in a row; `first` is the number of the first one in the plan."""
    for i, block in enumerate(blocks, start=first):
        assert isinstance(block, TransformerBlock)
        state = run_block(block, state, plan=plan, index=i, person=person)
    return state


def mean_keys(
    keys: Float[Tensor, "batch heads tokens head_dim"],
) -> Float[Tensor, "batch tokens head_dim"]:
    """What tokens are compared by: their keys, averaged over heads (ToMe, sec. 3)."""
    return keys.mean(1)
