"""Models made cheaper: any encoder of ViT blocks with merged layers, merged tokens, or both.

A `ReducedEncoder` takes the place of the encoder it was made from, in every model. `reduce_model` puts it
there; the model's configuration then says how to build it again.
"""

from __future__ import annotations

import copy
from dataclasses import dataclass, replace
from typing import Any, Literal, Protocol, TypeVar

import torch
from jaxtyping import Bool, Float, Shaped
from torch import Tensor, nn

from fasthmr.encoders.convvit import ConvViTConfig
from fasthmr.encoders.vit import ViTConfig
from fasthmr.errors import UsageError
from fasthmr.layers.block import TransformerBlock
from fasthmr.layers.tokens import TokenState
from fasthmr.reduction.adaptive import TokenBudget, run_adaptive
from fasthmr.reduction.eclm import LayerMergePlan, merge_layers
from fasthmr.reduction.mask_tokens import ellipse_mask, person_patches
from fasthmr.reduction.self_mask import SelfMaskConfig, SelfMaskHead
from fasthmr.reduction.tome_schedule import TokenMergePlan, run_blocks


class TokenEncoder(Protocol):
    """What an encoder needs so that its layers and tokens can be merged, besides being a module."""

    channels: tuple[int, ...]
    strides: tuple[int, ...]
    grid: tuple[int, int]
    patch_padding: int
    blocks: nn.ModuleList
    last_norm: nn.Module

    def before_blocks(self, image: Tensor) -> tuple[list[Tensor], TokenState]:
        """Maps finer than the tokens, and what enters the first block."""
        ...


@dataclass(frozen=True, kw_only=True)
class ReducedEncoderConfig:
    """An encoder and what is merged in it.

    Attributes:
        source: The encoder before anything was merged.
        layers: Blocks that became one; the weights of a `ReducedEncoder` are merged already.
        tokens: Tokens that merge while it runs. Block numbers are those after layer merging.
        output: "grid": every patch carries the token that stands for it, for heads that need the map; an
            attention head then reads a merged token as often as the patches it stands for. "tokens": the
            merged tokens in one column, each once, for heads that know no positions, as published.
        self_mask: Let a head on the model's own tokens find the person; masks are then neither needed nor
            taken. `training.self_mask` trains it.
        budget: Let each picture keep as many tokens as it needs; `tokens` then says how many may
            merge at most.
    """

    source: ViTConfig | ConvViTConfig
    layers: LayerMergePlan | None = None
    tokens: TokenMergePlan | None = None
    output: Literal["grid", "tokens"] = "grid"
    self_mask: SelfMaskConfig | None = None
    budget: TokenBudget | None = None

    def __post_init__(self) -> None:
        if self.budget is not None and (self.tokens is None or not self.tokens.guided):
            raise ValueError("ReducedEncoderConfig: budget has no use where no tokens merge around a person")
        if self.budget is not None and self.output == "tokens":
            raise ValueError(
                "ReducedEncoderConfig: with a budget pictures have different numbers of tokens; "
                "use output='grid'"
            )
        if self.self_mask is not None:
            self._check_self_mask(self.self_mask)
        if self.layers is not None and self.layers.source_depth != self.source.depth:
            raise ValueError(
                f"ReducedEncoderConfig: groups of {self.layers.source_depth} blocks, "
                f"the encoder has {self.source.depth}"
            )

    def _check_self_mask(self, head: SelfMaskConfig) -> None:
        source = self.source
        dim = source.dim if isinstance(source, ViTConfig) else source.widths[-1]
        if self.tokens is None or not self.tokens.guided:
            raise ValueError(
                "ReducedEncoderConfig: self_mask has no use where no tokens merge around a person"
            )
        if head.dim != dim:
            raise ValueError(
                f"ReducedEncoderConfig: self_mask reads tokens of {head.dim}, the encoder has {dim}"
            )
        if head.after > self.inner.depth or any(self.tokens.counts[: head.after]):
            raise ValueError(
                f"ReducedEncoderConfig: tokens merge before block {head.after}, where self_mask marks the "
                f"person; begin the plan's counts with {head.after} zeros"
            )

    @property
    def image_size(self) -> tuple[int, int]:
        """Height and width in pixels."""
        return self.source.image_size

    @property
    def inner(self) -> ViTConfig | ConvViTConfig:
        """The encoder with the blocks that are left."""
        return self.source if self.layers is None else replace(self.source, depth=self.layers.depth)

    def build(self) -> ReducedEncoder:
        return ReducedEncoder(self, self.inner.build())


class ReducedEncoder(nn.Module):
    """Runs an encoder whose layers are merged, merging tokens on the way.

    Args:
        inner: The encoder that `config.inner` builds.

    Attributes:
        takes_mask: Whether `forward` has a use for a person mask.
    """

    def __init__(self, config: ReducedEncoderConfig, inner: Any) -> None:
        super().__init__()
        encoder: TokenEncoder = inner
        self.config = config
        self.inner = inner
        self.channels, self.strides, self.grid = encoder.channels, encoder.strides, encoder.grid
        self.self_mask = None if config.self_mask is None else config.self_mask.build()
        guided = config.tokens is not None and config.tokens.guided
        self.takes_mask = guided and self.self_mask is None
        if config.tokens is not None:
            config.tokens.token_counts(self.grid[0] * self.grid[1], len(encoder.blocks))

    def forward(
        self,
        image: Float[Tensor, "batch 3 height width"],
        mask: Shaped[Tensor, "batch mask_height mask_width"] | None = None,
    ) -> list[Tensor]:
        """Feature maps, finest first; the last one as `config.output` says.

        Args:
            mask: The person, 0 to 1, in pixels of the picture. None stands for the ellipse that fills the
                picture; `mask_tokens.ellipse_mask` of the detection box is closer.
        """
        if self.config.budget is not None:
            return self.adaptive(image, self.config.budget, mask)
        return self.features(*self.merge(image, mask))

    def adaptive(
        self,
        image: Float[Tensor, "batch 3 height width"],
        budget: TokenBudget,
        mask: Shaped[Tensor, "batch mask_height mask_width"] | None = None,
    ) -> list[Tensor]:
        """Feature maps with another number of tokens for each picture; the last one always on the grid.

        Args:
            budget: Stops the plan's merges early where much of the picture is person.

        Raises:
            ValueError: As for `merge`, or no tokens merge around a person.
        """
        maps, state, person = self.start(image, mask)
        plan, first = self.config.tokens, self.first_merge
        if plan is None or person is None:
            raise ValueError("budgets for each picture need a plan that merges tokens around a person")
        blocks = self.inner.blocks[first:]
        state = run_adaptive(blocks, state, person, budget(person), plan, first=first)
        maps, state = self.finish(maps, state)
        return [*maps, state.unmerge(self.grid)]

    def features(self, maps: list[Tensor], state: TokenState) -> list[Tensor]:
        """What `forward` returns, from what `merge` does."""
        if self.config.output == "grid":
            return [*maps, state.unmerge(self.grid)]
        return [*maps, state.tokens.mT[..., None]]

    def merge(
        self,
        image: Float[Tensor, "batch 3 height width"],
        mask: Shaped[Tensor, "batch mask_height mask_width"] | None = None,
    ) -> tuple[list[Tensor], TokenState]:
        """Maps finer than the tokens, and the tokens after the last norm.

        Raises:
            ValueError: Picture or mask have another size.
        """
        encoder: TokenEncoder = self.inner
        maps, state, person = self.start(image, mask)
        first = self.first_merge
        state = run_blocks(encoder.blocks[first:], state, plan=self.config.tokens, first=first, person=person)
        return self.finish(maps, state)

    def finish(self, maps: list[Tensor], state: TokenState) -> tuple[list[Tensor], TokenState]:
        """What `merge` returns, from what leaves the last block."""
        return maps, replace(state, tokens=self.inner.last_norm(state.tokens))

    @property
    def first_merge(self) -> int:
        """The block before which `start` stops: the first one, or that before which `self_mask` reads."""
        return 0 if self.config.self_mask is None else self.config.self_mask.after

    def start(
        self,
        image: Float[Tensor, "batch 3 height width"],
        mask: Shaped[Tensor, "batch mask_height mask_width"] | None = None,
    ) -> tuple[list[Tensor], TokenState, Bool[Tensor, "batch patches"] | None]:
        """Maps finer than the tokens, what enters block `first_merge`, and which patches are on the person.

        Raises:
            ValueError: As for `merge`.
        """
        encoder: TokenEncoder = self.inner
        size = (image.shape[-2], image.shape[-1])
        if size != self.config.image_size:
            raise ValueError(f"this encoder takes pictures of {self.config.image_size} (h, w), got {size}")
        maps, state = encoder.before_blocks(image)
        if self.self_mask is None:
            return maps, state, self._person(image, mask) if self.takes_mask else None
        state = run_blocks(encoder.blocks[: self.first_merge], state)
        return maps, state, self.self_mask.person(state.tokens)

    def _person(self, image: Tensor, mask: Tensor | None) -> Bool[Tensor, "batch patches"]:
        height, width = self.config.image_size
        if mask is None:
            box = torch.tensor([[0.0, 0.0, width, height]], device=image.device)
            mask = ellipse_mask(box, (height, width)).expand(image.shape[0], -1, -1)
        elif tuple(mask.shape[1:]) != (height, width):
            raise ValueError(
                f"the mask is {tuple(mask.shape[1:])} (h, w), the pictures are {(height, width)}; "
                "cut and scale it as the crop"
            )
        plan = self.config.tokens
        assert plan is not None
        return person_patches(
            mask,
            patch_size=self.strides[-1],
            padding=self.inner.patch_padding,
            min_share=plan.min_share,
            dilate=plan.dilate,
        )


Model = TypeVar("Model", bound=nn.Module)


def reduce_model(
    model: Model,
    *,
    layers: LayerMergePlan | None = None,
    tokens: TokenMergePlan | None = None,
    self_mask: SelfMaskHead | None = None,
) -> Model:
    """A copy of a model with merged layers, merged tokens, or both; the model itself stays as it is.

    Heads that read a set of tokens get the merged ones; others get the grid.

    Args:
        self_mask: What finds the person in place of a mask; trained for this model (`training.self_mask`).

    Raises:
        UsageError: The encoder has no ViT blocks, or is reduced already.
        ValueError: The plans do not fit the encoder.
    """
    whole: Any = model
    encoder, config = whole.encoder, whole.encoder.config
    if isinstance(encoder, ReducedEncoder):
        raise UsageError("this model is reduced already; reduce the one that it was made from")
    blocks = getattr(encoder, "blocks", ())
    if not hasattr(encoder, "before_blocks") or not all(isinstance(b, TransformerBlock) for b in blocks):
        raise UsageError(f"{type(encoder).__name__} has no ViT blocks; only these can be merged")
    reads_set = hasattr(whole.head, "from_tokens")
    reduced = ReducedEncoderConfig(
        source=config,
        layers=layers,
        tokens=tokens,
        output="tokens" if reads_set else "grid",
        self_mask=None if self_mask is None else self_mask.config,
    )
    inner = copy.deepcopy(encoder) if layers is None else merge_layers(encoder, layers.groups, layers.rules)
    replacement = ReducedEncoder(reduced, inner).train(encoder.training)
    if self_mask is not None:
        replacement.self_mask = copy.deepcopy(self_mask).train(encoder.training)
    result: Any = copy.deepcopy(model, {id(encoder): replacement})
    result.config = replace(whole.config, encoder=reduced)
    return result


def with_budget(model: Model, budget: TokenBudget | None, *, counts: tuple[int, ...] | None = None) -> Model:
    """A copy of a merged model in which each picture keeps as many tokens as it needs; None ends that.

    Args:
        counts: Tokens that may merge in each block at most; as the model's plan says if None.

    Raises:
        UsageError: The model merges no tokens around a person.
    """
    whole: Any = model
    encoder = whole.encoder
    plan = encoder.config.tokens if isinstance(encoder, ReducedEncoder) else None
    if plan is None or not plan.guided:
        raise UsageError("budgets for each picture need a model that merges tokens around a person")
    tokens = plan if counts is None else replace(plan, counts=counts)
    output = "grid" if budget is not None or not hasattr(whole.head, "from_tokens") else "tokens"
    config = replace(
        whole.config, encoder=replace(encoder.config, budget=budget, tokens=tokens, output=output)
    )
    result = config.build()
    result.load_state_dict(model.state_dict())
    return result.to(next(model.parameters()).device).train(model.training)
