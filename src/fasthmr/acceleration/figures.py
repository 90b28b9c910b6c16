"""Pictures of a report: the similarity of layers, and bodies before and after side by side."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
import torch.nn.functional as F
from jaxtyping import Float, UInt8
from torch import Tensor, nn

from fasthmr.acceleration.frames import Frames
from fasthmr.acceleration.parts import ModelParts
from fasthmr.geometry.cameras import crop_camera_to_full, default_focal, intrinsics
from fasthmr.geometry.crops import IMAGENET_MEAN, IMAGENET_STD
from fasthmr.layers.block import TransformerBlock
from fasthmr.reduction.cka import MinibatchCKA
from fasthmr.reduction.eclm import Groups
from fasthmr.render.overlay import overlay
from fasthmr.types import Mesh

Picture = UInt8[np.ndarray, "height width 3"]

# Dark blue to yellow in even steps of lightness.
_RAMP = np.array(
    [(15, 20, 60), (45, 50, 130), (40, 105, 150), (45, 155, 130), (130, 200, 90), (250, 230, 70)], dtype=float
)
_TOKENS = 32  # of each picture
_PICTURES = 16  # in a batch


@torch.no_grad()
def layer_similarity(
    parts: ModelParts, frames: Frames, *, batches: int = 6, seed: int = 0
) -> Float[Tensor, "layers layers"]:
    """Minibatch CKA of what leaves each block; an example is one of 32 random tokens of a person."""
    generator = torch.Generator().manual_seed(seed)
    cka = MinibatchCKA()
    size = min(_PICTURES, len(frames))
    for start in range(0, min(batches * size, len(frames) - size + 1), size):
        state = parts.model.encoder.before_blocks(frames.pictures[start : start + size])[1]
        tokens = state.tokens
        rows = torch.randperm(tokens.shape[1], generator=generator)[:_TOKENS]
        layers = []
        for block in parts.model.encoder.blocks:
            assert isinstance(block, TransformerBlock)
            tokens = block(tokens)
            layers.append(tokens[:, rows].flatten(0, 1))
        cka.update(layers)
    return cka.compute()


def draw_similarity(similarity: Float[Tensor, "layers layers"], groups: Groups | None = None) -> Picture:
    """A heat map with layer numbers; merged groups are framed."""
    import cv2

    depth = len(similarity)
    cell = max(14, min(44, 520 // depth))
    left, top, bar = 44, 16, 90
    side = cell * depth
    canvas = np.full((top + side + 36, left + side + bar, 3), 255, dtype=np.uint8)
    values = similarity.clamp(0, 1).numpy()[::-1]  # block 0 at the bottom left
    canvas[top : top + side, left : left + side] = _color(values).repeat(cell, 0).repeat(cell, 1)
    step = 1 if cell >= 24 else 4

    def write(text: str, x: int, y: int) -> None:
        cv2.putText(canvas, text, (x, y), cv2.FONT_HERSHEY_SIMPLEX, 0.42, (40, 40, 40), 1, cv2.LINE_AA)

    for layer in range(0, depth, step):
        write(str(layer), left + layer * cell + cell // 2 - 8, top + side + 18)
        write(str(layer), left - 26, top + side - layer * cell - cell // 2 + 5)
    for group in groups or ():
        if len(group) > 1:
            low, high = left + group[0] * cell, left + (group[-1] + 1) * cell - 1
            bottom, upper = top + side - group[0] * cell - 1, top + side - (group[-1] + 1) * cell
            cv2.rectangle(canvas, (low, upper), (high, bottom), (220, 40, 40), 2)
    ramp = _color(np.linspace(1, 0, side)[:, None]).repeat(16, 1)
    canvas[top : top + side, left + side + 16 : left + side + 32] = ramp
    for value in (0.0, 0.5, 1.0):
        write(f"{value:.1f}", left + side + 38, top + 5 + round((1 - value) * (side - 1)))
    return canvas


def _color(values: Float[np.ndarray, "rows columns"]) -> UInt8[np.ndarray, "rows columns 3"]:
    place = values * (len(_RAMP) - 1)
    low = np.minimum(place.astype(int), len(_RAMP) - 2)
    share = (place - low)[..., None]
    return (_RAMP[low] * (1 - share) + _RAMP[low + 1] * share).round().astype(np.uint8)


def draw_people(
    parts: ModelParts, frames: Frames, models: Sequence[nn.Module], *, height: int = 256
) -> Picture:
    """One row for each person: the picture, then the body as each model sees it."""
    rows = []
    predictions = [
        parts.with_model(model).predict(frames.pictures, frames.masks, frames.bbox_info) for model in models
    ]
    pictures = F.interpolate(frames.pictures, scale_factor=height / parts.image_size[0], mode="bilinear")
    mean, std = (torch.tensor(values)[:, None, None] for values in (IMAGENET_MEAN, IMAGENET_STD))
    levels = ((pictures * std + mean) * 255).round().clamp(0, 255).byte().permute(0, 2, 3, 1)
    size = torch.tensor([levels.shape[2], levels.shape[1]], dtype=torch.float32)
    focal = default_focal(size)
    for index, rgb in enumerate(levels):
        row = [rgb.numpy()]
        for params, camera in predictions:
            vertices = parts.body(parts.fitted(params)).vertices[index]
            transl = crop_camera_to_full(
                camera[index : index + 1], size[None] / 2, size[1:], size[None], focal.expand(1)
            )
            mesh = Mesh(vertices=vertices + transl, faces=parts.body.faces)
            row.append(overlay(rgb.numpy(), [mesh], intrinsics(focal, size), alpha=0.85))
        rows.append(np.concatenate(row, axis=1))
    half = (len(rows) + 1) // 2
    if half < len(rows):
        rows += [np.full_like(rows[0], 255)] * (2 * half - len(rows))
        gap = np.full((rows[0].shape[0], 12, 3), 255, dtype=np.uint8)
        rows = [np.concatenate((rows[i], gap, rows[i + half]), axis=1) for i in range(half)]
    return np.concatenate(rows, axis=0)
