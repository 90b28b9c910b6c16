"""Vertices from one crop without a parametric body: METRO, FastMETRO, and TORE's reductions of both."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar, Literal

import torch
from jaxtyping import Float
from torch import Tensor, nn

from fasthmr.body.hand_points import HAND_POINTS
from fasthmr.body.hierarchy import MeshHierarchy
from fasthmr.encoders.registry import EncoderConfig
from fasthmr.heads.fastmetro import FastMetroHead, FastMetroHeadConfig
from fasthmr.heads.metro import MetroHead, MetroHeadConfig
from fasthmr.layers.mesh_levels import MeshOperators
from fasthmr.reduction.gtr import GCNRegressorConfig, MLPRegressorConfig, NSRConfig
from fasthmr.reduction.itp import ITPConfig
from fasthmr.reduction.token_learner import TokenLearnerConfig
from fasthmr.types import MeshOutput

MeshHeadConfig = MetroHeadConfig | FastMetroHeadConfig
RegressorConfig = NSRConfig | MLPRegressorConfig | GCNRegressorConfig
TokensConfig = ITPConfig | TokenLearnerConfig


@dataclass(frozen=True, kw_only=True)
class MeshModelConfig:
    """Encoder, head and the two reductions of a `MeshModel`.

    Attributes:
        tokens: How image tokens are reduced, or None (FastMETRO alone).
        regressor: What makes the mesh from joint tokens (TORE's GTR), or None for vertex tokens throughout.
        crop: How squares are cut around boxes: "metro" as METRO's data sets have them, 1.2 times the longer
            side; "hmr2" as HMR 2.0 does, for models that learned from such crops.
        fixed_by_name: A published file of other sizes (image tokens, layers) belongs to another preset.
    """

    encoder: EncoderConfig
    head: MeshHeadConfig
    tokens: TokensConfig | None = None
    regressor: RegressorConfig | None = None
    crop: Literal["metro", "hmr2"] = "metro"
    fixed_by_name: ClassVar[bool] = True

    def __post_init__(self) -> None:
        check_mesh_parts(self.head, self.tokens, self.regressor)
        height, width = self.encoder.image_size
        if height < width:
            raise ValueError(f"MeshModelConfig: pictures of {height} x {width} (h x w) are wider than high")
        if self.crop not in ("metro", "hmr2"):
            raise ValueError(f"MeshModelConfig: crop '{self.crop}' is neither 'metro' nor 'hmr2'")

    @property
    def about_root(self) -> bool:
        """Whether the camera sees the mesh about its regressed root, wherever the model puts that.

        FastMETRO's losses move meshes there first, so that nothing else fixes their place; those of METRO and
        TORE compare and project them as they come. Hands with TORE follow FastMETRO's.
        """
        hand = self.head.joints == HAND_POINTS
        return isinstance(self.head, FastMetroHeadConfig) and (self.regressor is None or hand)

    def build(self) -> MeshModel:
        return MeshModel(self)


def check_mesh_parts(
    head: MeshHeadConfig, tokens: TokensConfig | None, regressor: RegressorConfig | None
) -> None:
    """Whether a head and reductions go together.

    Raises:
        ValueError: They do not; says why.
    """
    if regressor is not None and regressor.dim != head.token_dim:
        raise ValueError(
            f"the regressor reads joint tokens of width {regressor.dim}, the head gives {head.token_dim}"
        )
    if not isinstance(head, MetroHeadConfig):
        return
    if tokens is not None:
        raise ValueError("METRO mixes its tokens from all cells of the map and takes no token reduction")
    if regressor is not None and not isinstance(regressor, NSRConfig):
        raise ValueError("METRO reads its camera from the Neural Shape Regressor; use NSRConfig")


def build_mesh_head(
    head: MeshHeadConfig, tokens: TokensConfig | None = None, regressor: RegressorConfig | None = None
) -> MetroHead | FastMetroHead:
    """A head with its reductions.

    Raises:
        ValueError: The parts do not go together.
    """
    check_mesh_parts(head, tokens, regressor)
    makes_mesh = None if regressor is None else regressor.build(head.joints, head.mesh.vertices[0])
    if isinstance(head, MetroHeadConfig):
        return head.build(makes_mesh)
    reducer = None if tokens is None else tokens.build(head.dims[0], head.grid)
    return head.build(reducer, makes_mesh)


class MeshModel(nn.Module):
    """Square crops to camera, joints and vertices.

    An encoder of pictures that are higher than wide sees the middle columns of a crop.

    Attributes:
        crop_size: Side in pixels of the crops to feed.
        crop_aspect: Width and height that boxes are grown to before the square is taken.
        crop_antialias: Whether large boxes are blurred.
        crop_margin: Side of the square to the longer side of the grown box.
        takes_camera: Whether the model is called with `geometry.cameras.bbox_info` after the crops.
    """

    takes_camera: ClassVar[bool] = False

    def __init__(self, config: MeshModelConfig) -> None:
        super().__init__()
        self.config = config
        self.encoder = config.encoder.build()
        if self.encoder.channels[-1] != config.head.context_dim:
            raise ValueError(
                f"MeshModel: the encoder gives {self.encoder.channels[-1]} channels, "
                f"the head reads {config.head.context_dim}"
            )
        self.head = build_mesh_head(config.head, config.tokens, config.regressor)
        self.crop_size, width = config.encoder.image_size
        metro = config.crop == "metro"
        self.crop_aspect = (1, 1) if metro else (192, 256)
        self.crop_antialias = not metro
        self.crop_margin = 1.2 if metro else 1.0
        self.margin = (self.crop_size - width) // 2

    def set_mesh(self, operators: MeshOperators, template: Float[Tensor, "points 3"] | None = None) -> None:
        """Take over the mesh (`mesh_operators`), and for METRO the body at rest (`rest_template`).

        Raises:
            UsageError: They are of another body.
        """
        self.head.set_mesh(operators, template)

    @property
    def has_mesh(self) -> bool:
        """Whether the mesh of the body is known, from the weights or from `set_mesh`."""
        return self.head.knows_mesh

    def forward(
        self,
        pixels: Float[Tensor, "batch 3 size size"],
        all_levels: bool | None = None,
        mask: Float[Tensor, "batch points 1"] | None = None,
    ) -> MeshOutput:
        """Estimate from normalised crops.

        Args:
            all_levels: Whether levels between the coarsest and the finest are wanted; None for: in training.
            mask: Zero for tokens to hide; METRO's masked vertex modelling.

        Raises:
            UsageError: The mesh is not known yet.
            ValueError: A mask for a head that takes none.
        """
        features = self.encoder(pixels[..., self.margin : pixels.shape[-1] - self.margin])[-1]
        if isinstance(self.head, MetroHead):
            return self.head(features, all_levels, mask)
        if mask is not None:
            raise ValueError("FastMETRO hides no tokens; mask is METRO's")
        return self.head(features)


def mesh_operators(hierarchy: MeshHierarchy) -> MeshOperators:
    """What a head needs of a mesh hierarchy; of a published hand file its first two levels."""
    return MeshOperators(adjacency=hierarchy.adjacency(), up=hierarchy.coarsest_first())


def rest_template(
    joints: Float[Tensor, "joints 3"], coarse: Float[Tensor, "coarse 3"], root: Float[Tensor, "3"]
) -> Float[Tensor, "points 3"]:
    """Template of METRO from a body at rest as the camera sees it (turned upside down for OpenCV's axes).

    Args:
        joints: Of the model's tokens: `skeletons.BODY_JOINTS_OF_17` of the regressed joints, or a hand's 21.
        coarse: Vertices of the coarsest level; empty with a regressor.
        root: Regressed pelvis, or the wrist.
    """
    return torch.cat([joints, coarse]) - root
