"""Small anchor-free network that finds the boxes of people in a picture.

One class; three levels of cells (8, 16 and 32 pixels). Each cell predicts how far the four sides
of the box lie from its centre (FCOS, arXiv 1904.01355, eq. 1) and one score that learns the
overlap of that box with the true one (joint quality score of GFL, arXiv 2006.04388, sec. 3).
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor, nn

from fasthmr.geometry.boxes import nms

STRIDES = (8, 16, 32)


@dataclass(frozen=True, kw_only=True)
class PersonDetectorConfig:
    """Sizes of the network.

    Attributes:
        widths: Channels at strides 2, 4, 8, 16 and 32.
        depths: Blocks at strides 4, 8, 16 and 32.
        neck: Channels shared by the three levels and the heads.
    """

    widths: tuple[int, int, int, int, int] = (16, 24, 40, 96, 160)
    depths: tuple[int, int, int, int] = (1, 2, 3, 2)
    neck: int = 48

    def __post_init__(self) -> None:
        if min(self.depths) < 1 or min(*self.widths, self.neck) < 2:
            raise ValueError(f"PersonDetectorConfig: depths must be >= 1 and channels >= 2, got {self}")

    def build(self) -> PersonDetector:
        """The network with fresh weights."""
        return PersonDetector(self)


@dataclass(frozen=True, kw_only=True)
class CellPredictions:
    """What all cells of all levels say, finest level first.

    Attributes:
        logits: Score before the sigmoid.
        boxes_xyxy: Boxes in pixels of the network's input.
        centers: Cell centres in pixels.
        strides: Cell size in pixels.
    """

    logits: Float[Tensor, "batch cells"]
    boxes_xyxy: Float[Tensor, "batch cells 4"]
    centers: Float[Tensor, "cells 2"]
    strides: Float[Tensor, "cells"]


def _conv(inputs: int, outputs: int, kernel: int = 1, stride: int = 1, groups: int = 1) -> nn.Sequential:
    return nn.Sequential(
        nn.Conv2d(inputs, outputs, kernel, stride, kernel // 2, groups=groups, bias=False),
        nn.BatchNorm2d(outputs),
    )


class FusedBlock(nn.Module):
    """Full 3x3 convolution and a projection: the faster choice on a CPU where channels are few."""

    def __init__(self, inputs: int, outputs: int, stride: int, expansion: int = 2) -> None:
        super().__init__()
        self.expand = _conv(inputs, inputs * expansion, 3, stride)
        self.project = _conv(inputs * expansion, outputs)
        self.residual = stride == 1 and inputs == outputs

    def forward(self, x: Float[Tensor, "batch c h w"]) -> Float[Tensor, "batch d h2 w2"]:
        """Features, at half the resolution where the stride is 2."""
        y = self.project(F.relu(self.expand(x)))
        return x + y if self.residual else y


class InvertedBlock(nn.Module):
    """Inverted residual (MobileNetV2) with a 5x5 depthwise kernel and a gate from the global mean."""

    def __init__(self, inputs: int, outputs: int, stride: int, expansion: int = 3) -> None:
        super().__init__()
        hidden = inputs * expansion
        self.expand = _conv(inputs, hidden)
        self.depthwise = _conv(hidden, hidden, 5, stride, hidden)
        self.squeeze = nn.Conv2d(hidden, inputs // 2, 1)
        self.excite = nn.Conv2d(inputs // 2, hidden, 1)
        self.project = _conv(hidden, outputs)
        self.residual = stride == 1 and inputs == outputs

    def forward(self, x: Float[Tensor, "batch c h w"]) -> Float[Tensor, "batch d h2 w2"]:
        """Features, at half the resolution where the stride is 2."""
        y = F.relu(self.depthwise(F.relu(self.expand(x))))
        gate = self.excite(F.relu(self.squeeze(y.mean(dim=(2, 3), keepdim=True))))
        y = self.project(y * gate.sigmoid())
        return x + y if self.residual else y


class SeparableConv(nn.Module):
    """Depthwise 5x5 and pointwise convolution."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.depthwise = nn.Conv2d(channels, channels, 5, padding=2, groups=channels, bias=False)
        self.pointwise = _conv(channels, channels)

    def forward(self, x: Float[Tensor, "batch c h w"]) -> Float[Tensor, "batch c h w"]:
        """Features of the same shape."""
        return F.relu(self.pointwise(self.depthwise(x)))


class PersonDetector(nn.Module):
    """Convolutional encoder, top-down neck and one head shared by three levels.

    Input sides must be multiples of 32.
    """

    def __init__(self, config: PersonDetectorConfig) -> None:
        super().__init__()
        self.config = config
        widths, blocks = config.widths, (FusedBlock, FusedBlock, InvertedBlock, InvertedBlock)
        self.stem = _conv(3, widths[0], 3, 2)
        self.stages = nn.ModuleList(
            nn.Sequential(
                *(
                    block(widths[i + (j > 0)], widths[i + 1], 2 if j == 0 else 1)
                    for j in range(config.depths[i])
                )
            )
            for i, block in enumerate(blocks)
        )
        self.lateral = nn.ModuleList(_conv(width, config.neck) for width in widths[2:])
        self.smooth = nn.ModuleList(SeparableConv(config.neck) for _ in STRIDES)
        self.tower = nn.Sequential(SeparableConv(config.neck), SeparableConv(config.neck))
        self.score = nn.Conv2d(config.neck, 1, 1)
        self.box = nn.Conv2d(config.neck, 4, 1)
        self.box_scale = nn.Parameter(torch.ones(len(STRIDES)))
        nn.init.normal_(self.score.weight, std=0.01)
        nn.init.normal_(self.box.weight, std=0.01)
        for layer, start in ((self.score, -4.0), (self.box, 1.0)):  # few cells see a person
            assert layer.bias is not None
            nn.init.constant_(layer.bias, start)

    def forward(self, pixels: Float[Tensor, "batch 3 height width"]) -> CellPredictions:
        """Scores and boxes of all cells.

        Args:
            pixels: RGB, 0..1.
        """
        x = F.relu(self.stem((pixels - 0.45) / 0.25))
        levels = []
        for stage in self.stages:
            x = stage(x)
            levels.append(x)
        levels = [lateral(level) for lateral, level in zip(self.lateral, levels[1:], strict=True)]
        for i in (1, 0):
            levels[i] = levels[i] + F.interpolate(levels[i + 1], scale_factor=2.0, mode="nearest")
        logits, boxes, centers, strides = [], [], [], []
        for i, stride in enumerate(STRIDES):
            level = self.tower(self.smooth[i](levels[i]))
            logits.append(self.score(level).flatten(1))
            # softplus keeps the sides positive and grows linearly, so large boxes stay stable
            sides = F.softplus(self.box(level) * self.box_scale[i]) * (2 * stride)
            sides = sides.flatten(2).transpose(1, 2)
            center = _cell_centers(level.shape[-2], level.shape[-1], stride, pixels.device)
            boxes.append(torch.cat([center - sides[..., :2], center + sides[..., 2:]], dim=-1))
            centers.append(center)
            strides.append(torch.full((len(center),), float(stride), device=pixels.device))
        return CellPredictions(
            logits=torch.cat(logits, 1),
            boxes_xyxy=torch.cat(boxes, 1),
            centers=torch.cat(centers),
            strides=torch.cat(strides),
        )


def _cell_centers(rows: int, columns: int, stride: int, device: torch.device) -> Float[Tensor, "cells 2"]:
    y = (torch.arange(rows, device=device) + 0.5) * stride
    x = (torch.arange(columns, device=device) + 0.5) * stride
    return torch.stack([x.repeat(rows), y.repeat_interleave(columns)], dim=-1)


def select_boxes(
    boxes_xyxy: Float[Tensor, "cells 4"],
    logits: Float[Tensor, "cells"],
    *,
    score_threshold: float,
    nms_threshold: float,
    max_boxes: int = 100,
    max_candidates: int = 400,
) -> tuple[Float[Tensor, "persons 4"], Float[Tensor, "persons"]]:
    """Boxes that pass the threshold and are not doubles of a better one, best score first.

    Args:
        nms_threshold: Intersection over union above which the lower of two boxes goes.
    """
    scores = logits.sigmoid()
    candidates = torch.nonzero(scores >= score_threshold).flatten()
    if len(candidates) > max_candidates:
        candidates = candidates[logits[candidates].topk(max_candidates).indices]
    boxes, scores = boxes_xyxy[candidates], scores[candidates]
    kept = nms(boxes, scores, nms_threshold)[:max_boxes]
    return boxes[kept], scores[kept]
