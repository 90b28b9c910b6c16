"""Keypoint-guided SMPL head: heat maps first, then pose from one token per body point.

A head that only cross-attends from a zero query stands still when trained from scratch on little
data. Here every body point has a supervised heat map; its soft-argmax position, depth and the features
under its heat become a token (part attention as in PARE, arXiv 2104.08527; integral regression as in
arXiv 1711.08229), and a small transformer over these tokens reads off joint rotations. The transformer
also runs on positions alone, so it can be pre-trained as a 2.5D-to-pose lifter on unlimited pose pairs.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor, nn

from fasthmr.geometry.rotations import rot6d_to_rotmat, rotmat_to_rot6d
from fasthmr.layers.block import TransformerBlock


@dataclass(frozen=True, kw_only=True)
class KeypointSMPLConfig:
    """Sizes of a `KeypointSMPLHead`.

    Attributes:
        channels: Channels of the encoder's maps at strides 4, 8 and `token_stride`.
        token_stride: Stride of the coarsest map.
        points: Body points with a heat map; the first `joints` are the joints of the body.
    """

    channels: tuple[int, int, int] = (64, 128, 256)
    token_stride: Literal[8, 16] = 16
    points: int = 35
    joints: int = 24
    num_betas: int = 10
    dim: int = 192
    depth: int = 3
    heads: int = 6
    map_channels: int = 64

    def build(self) -> KeypointSMPLHead:
        return KeypointSMPLHead(self)


@dataclass(frozen=True, kw_only=True)
class BodyPoints:
    """Body points read from the maps.

    Attributes:
        xy: Position in crop units (pixel / crop side - 0.5).
        z: Depth in metres relative to the root joint.
        score: Probability that the point lies inside the crop.
    """

    xy: Float[Tensor, "batch points 2"]
    z: Float[Tensor, "batch points"]
    score: Float[Tensor, "batch points"]


@dataclass(frozen=True, kw_only=True)
class PoseEstimate:
    """Rotation matrices, shape and weak-perspective crop camera (s, tx, ty).

    Attributes:
        token: The token of the whole picture that shape and camera are read from, after the norm.
    """

    rotmats: Float[Tensor, "batch joints 3 3"]
    betas: Float[Tensor, "batch num_betas"]
    camera: Float[Tensor, "batch 3"]
    token: Float[Tensor, "batch dim"] | None = None


@dataclass(frozen=True, kw_only=True)
class KeypointSMPLOutput:
    """Everything the losses need.

    Attributes:
        heat_logits: Logits over all cells and, last, over "outside the crop".
        mask_logits: Person (of this crop) against everything else.
    """

    heat_logits: Float[Tensor, "batch points cells_1"]
    mask_logits: Float[Tensor, "batch rows columns"]
    points: BodyPoints
    pose: PoseEstimate


def cell_centers(rows: int, columns: int) -> Float[Tensor, "cells 2"]:
    """Centres of heat-map cells, row by row, in crop units (pixel / 256 - 0.5 of the 256-pixel crop).

    A cell of c pixels covers pixels c j .. c j + c - 1; the columns show the middle of the crop.
    """
    y, x = torch.meshgrid(
        (torch.arange(rows) + 0.5) / rows - 0.5,
        (torch.arange(columns) + 0.5 - columns / 2) / rows,
        indexing="ij",
    )
    return torch.stack((x.flatten(), y.flatten()), dim=-1) - 0.5 / 256


class PointMaps(nn.Module):
    """Brings three encoder maps to stride 4 and reads heat, depth and mask from it."""

    def __init__(self, config: KeypointSMPLConfig) -> None:
        super().__init__()
        c4, c8, c16 = config.channels
        width = config.map_channels
        self.points = config.points
        self.to_stride8 = config.token_stride // 8
        self.up16 = nn.Conv2d(c16, width * self.to_stride8**2, 1)
        self.skip8 = nn.Conv2d(c8, width, 1)
        self.mix8 = nn.Sequential(
            nn.BatchNorm2d(width), nn.ReLU(), nn.Conv2d(width, width, 3, 1, 1, bias=False)
        )
        self.up8 = nn.Conv2d(width, width * 4, 1)
        self.skip4 = nn.Conv2d(c4, width, 1)
        self.mix4 = nn.Sequential(
            nn.BatchNorm2d(width),
            nn.ReLU(),
            nn.Conv2d(width, width, 3, 1, 1, bias=False),
            nn.BatchNorm2d(width),
            nn.ReLU(),
        )
        self.read = nn.Conv2d(width, 2 * config.points + 1, 1)
        self.outside = nn.Linear(c16, config.points)

    def forward(self, maps: list[Tensor]) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        """Return heat logits (b, points, cells + 1), depth (b, points, cells), mask (b, h, w), features."""
        f4, f8, f16 = maps
        x = F.pixel_shuffle(self.up16(f16), self.to_stride8) + self.skip8(f8)
        x = self.mix8(x)
        x = self.mix4(F.pixel_shuffle(self.up8(x), 2) + self.skip4(f4))
        heat, depth, mask = self.read(x).split((self.points, self.points, 1), dim=1)
        outside = self.outside(f16.mean(dim=(2, 3)))
        heat_logits = torch.cat((heat.flatten(2), outside.unsqueeze(-1)), dim=-1)
        return heat_logits, depth.flatten(2), mask[:, 0], x


class PoseDecoder(nn.Module):
    """Transformer over one token per body point and one for the whole picture."""

    def __init__(self, config: KeypointSMPLConfig) -> None:
        super().__init__()
        self.joints = config.joints
        dim = config.dim
        self.geometry = nn.Sequential(nn.Linear(4, dim), nn.GELU(), nn.Linear(dim, dim))
        self.features = nn.Linear(config.channels[-1] + config.map_channels, dim)
        self.whole = nn.Linear(config.channels[-1], dim)
        self.embedding = nn.Parameter(torch.empty(1, config.points + 1, dim).normal_(std=0.02))
        self.blocks = nn.ModuleList(
            TransformerBlock(dim=dim, heads=config.heads, mlp_ratio=4) for _ in range(config.depth)
        )
        self.norm = nn.LayerNorm(dim, eps=1e-6)
        self.rotation = nn.Linear(dim, 6)
        self.rotation_bias = nn.Parameter(torch.empty(config.joints, 6))
        self.start_from(torch.eye(3).repeat(config.joints, 1, 1))
        self.betas = nn.Linear(dim, config.num_betas)
        self.camera = nn.Linear(dim, 3)
        for readout in (self.rotation, self.betas, self.camera):
            nn.init.normal_(readout.weight, std=0.01)
            nn.init.zeros_(readout.bias)
        self.register_buffer("camera_mean", torch.tensor([0.9, 0.0, 0.0]))

    def start_from(self, rotmats: Float[Tensor, "joints 3 3"]) -> None:
        """Let untrained readouts give these rotations, the root turned to face the camera upright.

        Without the turn (camera y points down) training ends in bodies that stand on their heads and bend
        every joint to reach the points.
        """
        facing = torch.diag(torch.tensor([1.0, -1.0, -1.0]))
        start = torch.cat((facing[None], rotmats[1:].to(facing)))
        with torch.no_grad():
            self.rotation_bias.copy_(rotmat_to_rot6d(start, layout="columns"))

    def forward(
        self,
        points: BodyPoints,
        point_features: Float[Tensor, "batch points channels"] | None = None,
        whole: Float[Tensor, "batch channels2"] | None = None,
    ) -> PoseEstimate:
        """Read the pose. Without features the decoder acts as a lifter of positions alone."""
        geometry = torch.cat((points.xy * 2, points.z.unsqueeze(-1) * 2, points.score.unsqueeze(-1)), dim=-1)
        tokens = self.geometry(geometry)
        # Where a point is outside the crop its soft-argmax position says nothing.
        tokens = tokens * points.score.unsqueeze(-1)
        root = self.embedding[:, -1:].expand(tokens.shape[0], -1, -1)
        if point_features is not None and whole is not None:
            tokens = tokens + self.features(point_features)
            root = root + self.whole(whole).unsqueeze(1)
        tokens = torch.cat((tokens + self.embedding[:, :-1], root), dim=1)
        for block in self.blocks:
            tokens = block(tokens)
        tokens = self.norm(tokens)
        rot6d = self.rotation(tokens[:, : self.joints]).float() + self.rotation_bias
        last = tokens[:, -1]
        return PoseEstimate(
            rotmats=rot6d_to_rotmat(rot6d, layout="columns"),
            betas=self.betas(last).float(),
            camera=self.camera(last).float() + self.camera_mean,
            token=last,
        )


class KeypointSMPLHead(nn.Module):
    """Maps of strides 4, 8 and `token_stride` to body points, rotations, shape and camera."""

    def __init__(self, config: KeypointSMPLConfig) -> None:
        super().__init__()
        self.config = config
        self.maps = PointMaps(config)
        self.decoder = PoseDecoder(config)

    def forward(self, maps: list[Tensor]) -> KeypointSMPLOutput:
        heat_logits, depth, mask_logits, fine = self.maps(maps)
        probability = heat_logits.float().softmax(dim=-1)
        inside = probability[..., :-1]
        score = 1 - probability[..., -1]
        attention = inside / inside.sum(dim=-1, keepdim=True).clamp(min=1e-6)
        cells = cell_centers(*mask_logits.shape[-2:]).to(attention)
        points = BodyPoints(
            xy=attention @ cells,
            z=(attention * depth.float()).sum(dim=-1),
            score=score,
        )
        # Heat and depth learn from their own labels alone: the decoder's early errors would drown them.
        attention = attention.detach()
        given = BodyPoints(xy=points.xy.detach(), z=points.z.detach(), score=points.score.detach())
        coarse = maps[-1]
        rows, columns = mask_logits.shape[-2:]
        ratio = rows // coarse.shape[-2]
        pooled = F.avg_pool2d(attention.unflatten(-1, (rows, columns)), ratio).flatten(2) * ratio**2
        gathered = torch.cat(
            (
                pooled.to(coarse.dtype) @ coarse.flatten(2).transpose(1, 2),
                attention.to(fine.dtype) @ fine.flatten(2).transpose(1, 2),
            ),
            dim=-1,
        )
        pose = self.decoder(given, gathered, coarse.mean(dim=(2, 3)))
        return KeypointSMPLOutput(heat_logits=heat_logits, mask_logits=mask_logits, points=points, pose=pose)
