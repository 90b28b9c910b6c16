"""Layer merging: several neighbouring blocks become one of the same shape (FastHMR, arXiv 2510.10868, eq. 4).

A merged encoder is an ordinary encoder with fewer blocks. `LayerMergePlan` says which blocks of the source it
was made from, so that it can be made again from the source, or loaded from its own file.
"""

from __future__ import annotations

import copy
import hashlib
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, Literal, Protocol, TypeVar, cast

import torch
from jaxtyping import Float
from torch import Tensor, nn

Groups = tuple[tuple[int, ...], ...]
State = Mapping[str, Tensor]


@dataclass(frozen=True, kw_only=True)
class MergeRule:
    """How the weights of blocks i..j, bottom to top, become those of one block.

    Attributes:
        kind: "eq4": theta_i + sum over k of (theta_k - theta_i), the published rule. For two blocks this is
            the upper one. "blend": theta <- theta + weight (theta_k - theta), block after block. "mean".
            "keep_first", "keep_last": the other blocks are deleted.
        weight: Of "blend" only.
        linear_only: Merge the linear layers alone and keep the norms of the lowest block. The program that
            the paper builds on (arXiv 2502.19159) does "blend" with weight 1 and this; which of the two
            the authors ran is not known.
    """

    kind: Literal["eq4", "blend", "mean", "keep_first", "keep_last"] = "eq4"
    weight: float = 1.0
    linear_only: bool = False

    def __call__(self, stack: Sequence[Float[Tensor, "*shape"]]) -> Float[Tensor, "*shape"]:
        """One tensor out of the same tensor of each block, computed in double precision.

        Where nothing has to be computed, it is that of a block itself and no copy.
        """
        first, last = stack[0], stack[-1]
        if self.kind in ("keep_first", "keep_last") or len(stack) == 1:
            return first if self.kind == "keep_first" else last
        values = [tensor.double() for tensor in stack]
        if self.kind == "mean":
            merged = torch.stack(values).mean(0)
        elif self.kind == "eq4":  # theta_i cancels once, which makes a pair exact
            merged = values[1] + sum((value - values[0] for value in values[2:]), torch.zeros_like(values[0]))
        else:
            merged = values[0]
            for value in values[1:]:
                merged = merged + self.weight * (value - merged)
        return merged.to(first.dtype)


EQ4 = MergeRule()


@dataclass(frozen=True, kw_only=True)
class LayerMergePlan:
    """Which blocks of a source model become one.

    Attributes:
        groups: Source blocks of each block of the merged model, bottom to top: ((0,), (1, 2, 3), (4,)).
        rules: One rule for all groups, or one for each.
    """

    groups: Groups
    rules: tuple[MergeRule, ...] = (EQ4,)

    def __post_init__(self) -> None:
        if [block for group in self.groups for block in group] != list(range(self.source_depth)):
            raise ValueError(
                f"LayerMergePlan: groups {self.groups} are not consecutive blocks 0, 1, ... in order"
            )
        if not self.groups or not all(self.groups):
            raise ValueError("LayerMergePlan: a group is empty")
        if len(self.rules) not in (1, len(self.groups)):
            raise ValueError(f"LayerMergePlan: {len(self.rules)} rules for {len(self.groups)} groups")

    @property
    def source_depth(self) -> int:
        """Blocks of the source model."""
        return sum(map(len, self.groups))

    @property
    def depth(self) -> int:
        """Blocks of the merged model."""
        return len(self.groups)

    def rule(self, group: int) -> MergeRule:
        """The rule of one group."""
        return self.rules[group if len(self.rules) > 1 else 0]


def merge_tensors(states: Sequence[State], rule: MergeRule) -> dict[str, Tensor]:
    """The state of one block out of the states of several, bottom to top.

    A tensor counts as part of a linear layer when it is a matrix, or the bias beside one.
    """
    merged = {}
    for key, tensor in states[0].items():
        stack = [state[key] for state in states]
        linear = _is_linear(key, states[0])
        fixed = not tensor.is_floating_point() or (rule.linear_only and not linear)
        merged[key] = tensor if fixed else rule(stack)
    return merged


def merge_state(state: State, plan: LayerMergePlan, prefix: str = "blocks.") -> dict[str, Tensor]:
    """A source checkpoint as one of the merged model: blocks merged and numbered anew, all else as it is.

    What is not merged shares its memory with the source.

    Args:
        prefix: What stands before the number of a block in the keys.

    Raises:
        ValueError: The plan was made for another number of blocks.
    """
    pattern = re.compile(re.escape(prefix) + r"(\d+)\.(.+)")
    blocks: dict[int, dict[str, Tensor]] = {}
    merged: dict[str, Tensor] = {}
    for key, tensor in state.items():
        if match := pattern.fullmatch(key):
            blocks.setdefault(int(match[1]), {})[match[2]] = tensor
        else:
            merged[key] = tensor
    if sorted(blocks) != list(range(plan.source_depth)):
        raise ValueError(f"the plan merges {plan.source_depth} blocks, the weights have {len(blocks)}")
    for i, group in enumerate(plan.groups):
        block = merge_tensors([blocks[k] for k in group], plan.rule(i))
        merged.update((f"{prefix}{i}.{name}", tensor) for name, tensor in block.items())
    return merged


def merge_blocks(blocks: Sequence[nn.Module], rule: MergeRule) -> nn.Module:
    """A new block out of several equal ones, bottom to top."""
    merged = copy.deepcopy(blocks[0])
    merged.load_state_dict(merge_tensors([block.state_dict() for block in blocks], rule))
    return merged


class BlockEncoder(Protocol):
    """An encoder whose blocks can be merged: a list of equal blocks, and a configuration with its length."""

    config: Any
    blocks: nn.ModuleList


Encoder = TypeVar("Encoder", bound=nn.Module)


def merge_layers(encoder: Encoder, groups: Groups, rule: MergeRule | tuple[MergeRule, ...] = EQ4) -> Encoder:
    """A new encoder with merged blocks; the source keeps its weights, and shares none.

    Args:
        encoder: A `BlockEncoder` that its `config` builds.

    Raises:
        ValueError: The groups do not fit the blocks of the encoder.
    """
    plan = LayerMergePlan(groups=groups, rules=rule if isinstance(rule, tuple) else (rule,))
    state = {key: tensor.detach().clone() for key, tensor in merge_state(encoder.state_dict(), plan).items()}
    with torch.device("meta"):  # no time for random weights, no memory for them
        merged = replace(cast(BlockEncoder, encoder).config, depth=plan.depth).build()
    merged.load_state_dict(state, assign=True)
    return merged.train(encoder.training)


def weights_fingerprint(module: nn.Module) -> str:
    """A digest of all weights with their names, to know a source model again."""
    digest = hashlib.sha256()
    for key, tensor in sorted(module.state_dict().items()):
        digest.update(f"{key} {tensor.dtype} {tuple(tensor.shape)}".encode())
        digest.update(tensor.detach().cpu().contiguous().flatten().view(torch.uint8).numpy().tobytes())
    return digest.hexdigest()


def _is_linear(key: str, state: State) -> bool:
    weight = state.get(key.removesuffix("bias") + "weight") if key.endswith("bias") else state[key]
    return weight is not None and weight.dim() >= 2
