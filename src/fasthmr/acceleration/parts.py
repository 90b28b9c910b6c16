"""A mesh model taken apart: picture, encoder, head and joints, so that each is computed once."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any

import torch
from jaxtyping import Bool, Float
from torch import Tensor, nn

from fasthmr.body.default_body import load_default_body
from fasthmr.body.lbs import BodyModel
from fasthmr.body.transfer import fit_pose
from fasthmr.errors import UsageError
from fasthmr.layers.block import TransformerBlock
from fasthmr.layers.tokens import TokenState
from fasthmr.models.hmr import CropModel
from fasthmr.models.keypoint_hmr import KeypointHMR
from fasthmr.models.reduced import ReducedEncoder
from fasthmr.types import BodyParams, HMROutput


@dataclass(frozen=True, kw_only=True)
class ModelParts:
    """A model with an encoder of ViT blocks, and the body that its parameters are posed on.

    Make one with `of`.

    Attributes:
        body: Joints of this body are compared. Models trained on SMPL are posed on the free body where no
            other is given, which changes lengths a little but no angles.
    """

    model: Any
    body: BodyModel

    @staticmethod
    def of(model: nn.Module, body: BodyModel | None = None) -> ModelParts:
        """Take a model apart.

        Raises:
            UsageError: It is reduced already, or is no mesh model with ViT blocks.
        """
        encoder = getattr(model, "encoder", None)
        if isinstance(encoder, ReducedEncoder):
            raise UsageError("this model is accelerated already; give the one that it was made from")
        if not isinstance(model, CropModel | KeypointHMR):
            raise UsageError(
                f"{type(model).__name__} is no mesh model of this package; only these are merged"
            )
        blocks = getattr(encoder, "blocks", ())
        if not len(blocks) or not all(isinstance(block, TransformerBlock) for block in blocks):
            raise UsageError(f"{type(encoder).__name__} has no ViT blocks; only these can be merged")
        return ModelParts(model=model, body=body or load_default_body())

    def with_model(self, model: nn.Module) -> ModelParts:
        """The same for a merged copy."""
        return replace(self, model=model)

    @property
    def image_size(self) -> tuple[int, int]:
        """Height and width of the encoder's picture."""
        return self.model.config.encoder.image_size

    @property
    def crop_size(self) -> int:
        """Side of the square crops."""
        return int(self.model.crop_size)

    @property
    def grid(self) -> tuple[int, int]:
        """Rows and columns of tokens before any merge."""
        return self.model.encoder.grid

    @property
    def tokens(self) -> int:
        """Tokens before any merge."""
        return self.grid[0] * self.grid[1]

    @property
    def depth(self) -> int:
        """ViT blocks."""
        encoder = self.model.encoder
        return len(encoder.inner.blocks if isinstance(encoder, ReducedEncoder) else encoder.blocks)

    @property
    def takes_camera(self) -> bool:
        """Whether the head wants to know where a crop lies in its camera."""
        return bool(self.model.takes_camera)

    def params(
        self, maps: list[Tensor], bbox_info: Float[Tensor, "batch 3"] | None = None
    ) -> tuple[BodyParams, Float[Tensor, "batch 3"]]:
        """Pose and shape, and the crop camera, from the encoder's maps."""
        if isinstance(self.model, KeypointHMR):
            pose = self.model.head(maps).pose
            return BodyParams.of_rotmats(pose.rotmats, pose.betas), pose.camera
        output: HMROutput = self.model.head(maps[-1], bbox_info)
        return output.params, output.camera

    def joints(self, params: BodyParams) -> Float[Tensor, "batch joints 3"]:
        """Joints in the frame of the body, metres."""
        return self.body.joints(self.fitted(params))

    def fitted(self, params: BodyParams) -> BodyParams:
        """Parameters that `body` can be posed by."""
        return BodyParams(
            global_orient=params.global_orient,
            body_pose=fit_pose(params.body_pose, self.body),
            betas=params.betas[..., : self.body.num_betas],
        )

    def maps(self, finer: list[Tensor], state: TokenState) -> list[Tensor]:
        """What the head reads, from tokens after the last norm; see `ReducedEncoderConfig.output`."""
        if hasattr(self.model.head, "from_tokens"):
            return [*finer, state.tokens.mT[..., None]]
        return [*finer, state.unmerge(self.grid)]

    @torch.no_grad()
    def predict(
        self,
        pictures: Float[Tensor, "batch 3 height width"],
        masks: Bool[Tensor, "batch height width"] | None = None,
        bbox_info: Float[Tensor, "batch 3"] | None = None,
    ) -> tuple[BodyParams, Float[Tensor, "batch 3"]]:
        """The whole model; masks are left aside by models that take none."""
        takes_mask = getattr(self.model.encoder, "takes_mask", False)
        given = (pictures, masks) if takes_mask and masks is not None else (pictures,)
        return self.params(self.model.encoder(*given), bbox_info)
