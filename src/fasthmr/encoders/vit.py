"""The plain ViT of ViTPose (arXiv 2204.12484), HMR 2.0 (arXiv 2305.20091), CameraHMR and TokenHMR."""

from __future__ import annotations

from dataclasses import dataclass, replace

import torch
from jaxtyping import Float
from torch import Tensor, nn

from fasthmr.encoders.registry import register_encoder
from fasthmr.layers.block import TransformerBlock as ViTBlock
from fasthmr.layers.embedding import PatchEmbedding, patch_grid, resize_pos_embed
from fasthmr.layers.tokens import TokenState

__all__ = ["ViT", "ViTBlock", "ViTConfig"]


@dataclass(frozen=True, kw_only=True)
class ViTConfig:
    """Sizes of a `ViT`.

    Attributes:
        heads: Attention heads; not a fixed head width (ViT-S has 12 heads of 32).
        image_size: Height and width in pixels.
        patch_padding: Zero pixels around the picture before it is cut into patches.
        mlp_ratio: Hidden width of the feed-forward network over `dim`.
        drop_path: Stochastic depth of the last block; it rises linearly from zero at the first.
    """

    dim: int
    depth: int
    heads: int
    image_size: tuple[int, int] = (256, 192)
    patch_size: int = 16
    patch_padding: int = 2
    mlp_ratio: float | int = 4
    qkv_bias: bool = True
    drop_path: float = 0.0
    norm_eps: float = 1e-6

    def __post_init__(self) -> None:
        if self.dim % self.heads:
            raise ValueError(f"ViTConfig: dim={self.dim} is not a multiple of heads={self.heads}")
        if min(self.grid) < 1:
            raise ValueError(f"ViTConfig: image_size={self.image_size} is smaller than one patch")

    @property
    def grid(self) -> tuple[int, int]:
        """Rows and columns of patches."""
        return patch_grid(self.image_size, self.patch_size, self.patch_padding)

    def build(self) -> ViT:
        return ViT(self)


class ViT(nn.Module):
    """Patches, learned positions, pre-norm blocks and a final norm; one map of stride `patch_size`.

    Args:
        patch_embed: Another way from pictures to a (dim, rows, columns) map; None for the plain patches.
    """

    def __init__(self, config: ViTConfig, patch_embed: nn.Module | None = None) -> None:
        super().__init__()
        self.config = config
        self.channels = (config.dim,)
        self.strides = (config.patch_size,)
        self.grid = config.grid
        self.patch_padding = config.patch_padding
        self.patch_embed = patch_embed or PatchEmbedding(
            dim=config.dim, patch_size=config.patch_size, padding=config.patch_padding
        )
        # Row 0 belonged to a class token; the released models add it to every patch.
        positions = 1 + self.grid[0] * self.grid[1]
        self.pos_embed = nn.Parameter(nn.init.trunc_normal_(torch.empty(1, positions, config.dim), std=0.02))
        rates = torch.linspace(0, config.drop_path, config.depth, device="cpu").tolist()
        self.blocks = nn.ModuleList(
            ViTBlock(
                dim=config.dim,
                heads=config.heads,
                mlp_ratio=config.mlp_ratio,
                qkv_bias=config.qkv_bias,
                drop_path=rate,
                norm_eps=config.norm_eps,
            )
            for rate in rates
        )
        self.last_norm = nn.LayerNorm(config.dim, eps=config.norm_eps)

    def forward(
        self, image: Float[Tensor, "batch 3 height width"]
    ) -> list[Float[Tensor, "batch dim rows columns"]]:
        """Return the one feature map.

        Raises:
            ValueError: The picture is not of `config.image_size`.
        """
        tokens = self.embed(image)
        for block in self.blocks:
            tokens = block(tokens)
        return [self.last_norm(tokens).mT.unflatten(-1, self.grid)]

    def embed(self, image: Float[Tensor, "batch 3 height width"]) -> Float[Tensor, "batch patches dim"]:
        """Tokens entering the first block, row-major over the grid.

        Raises:
            ValueError: The picture is not of `config.image_size`.
        """
        size = (image.shape[-2], image.shape[-1])
        if size != self.config.image_size:
            raise ValueError(
                f"this ViT takes pictures of {self.config.image_size} (height, width), got {size}; "
                f"for another size use vit.resized({size})"
            )
        tokens = self.patch_embed(image).flatten(2).mT
        return tokens + (self.pos_embed[:, 1:] + self.pos_embed[:, :1])

    def token_state(self, image: Float[Tensor, "batch 3 height width"]) -> TokenState:
        """What `embed` returns, with sizes and positions, for models that merge tokens between the blocks."""
        return TokenState.from_grid(self.embed(image), self.grid)

    def before_blocks(self, image: Float[Tensor, "batch 3 height width"]) -> tuple[list[Tensor], TokenState]:
        """Maps finer than the tokens (there are none), and what enters the first block."""
        return [], self.token_state(image)

    def resized(self, image_size: tuple[int, int]) -> ViT:
        """A copy for pictures of another (height, width); learned positions are interpolated."""
        other = ViT(replace(self.config, image_size=image_size))
        other.to(device=self.pos_embed.device, dtype=self.pos_embed.dtype)
        state = self.state_dict()
        state["pos_embed"] = resize_pos_embed(state["pos_embed"], self.grid, other.grid)
        other.load_state_dict(state)
        return other.train(self.training)


@register_encoder
def vit_s() -> ViTConfig:
    return ViTConfig(dim=384, depth=12, heads=12, drop_path=0.1)


@register_encoder
def vit_b() -> ViTConfig:
    return ViTConfig(dim=768, depth=12, heads=12, drop_path=0.3)


@register_encoder
def vit_l() -> ViTConfig:
    return ViTConfig(dim=1024, depth=24, heads=16, drop_path=0.5)


@register_encoder
def vit_h() -> ViTConfig:
    return ViTConfig(dim=1280, depth=32, heads=16, drop_path=0.55)
