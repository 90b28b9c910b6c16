"""Pictures of what TORE's parts look at: image tokens on the crop, vertices on the joints."""

from __future__ import annotations

from pathlib import Path
from typing import cast

import numpy as np
import torch
import torch.nn.functional as F
from jaxtyping import Float, UInt8
from torch import Tensor

from fasthmr.geometry.crops import denormalize
from fasthmr.io.images import write_image
from fasthmr.layers.neighbours import Neighbours
from fasthmr.models.mesh import MeshModel
from fasthmr.reduction.gtr import NeuralShapeRegressor
from fasthmr.render.overlay import overlay
from fasthmr.training.mesh_subject import MeshSubject
from fasthmr.training.tore_data import MeshBatch
from fasthmr.training.tore_terms import relative_scores
from fasthmr.types import Mesh

_TOKENS, _SAMPLES, _HEIGHT = 6, 4, 96
_BODY_SHOWN, _HAND_SHOWN = (0, 4, 6, 7, 10, 13), (0, 4, 8, 12, 16, 20)


def cluster_maps(model: MeshModel, batch: MeshBatch, path: Path) -> None:
    """Crops, and the cells that some of their image tokens stand for."""
    maps = model.encoder(batch.seen)[-1]
    clusters = model.head(maps).clusters
    grid = tuple(maps.shape[-2:])
    rows = []
    for picture, found in zip(batch.seen[:_SAMPLES], clusters[:_SAMPLES], strict=True):
        chosen = found[found.std(1).argsort(descending=True)[:_TOKENS]]
        shown = torch.cat([relative_scores(chosen), relative_scores(found.mean(0, keepdim=True))])
        crop = _crop(picture)
        rows.append(
            np.concatenate([crop, *(_heat(crop, weights.unflatten(0, grid)) for weights in shown)], axis=1)
        )
    write_image(path, np.concatenate(rows))


def joint_attention(model: MeshModel, batch: MeshBatch, subject: MeshSubject, path: Path) -> None:
    """The body of the first sample, coloured by what its vertices read from each of some joints."""
    regressor = cast(NeuralShapeRegressor, model.head.regressor)
    heard: list[tuple[Tensor, Tensor, Neighbours]] = []
    hook = regressor.register_forward_pre_hook(lambda _, given: heard.append(given))
    model.head(model.encoder(batch.seen)[-1])
    hook.remove()
    read = regressor.attention(*heard[0]).mean((0, 1))
    fine = subject.hierarchy.upsample(read)
    vertices = subject.body(batch.params).vertices[0]
    shown = _BODY_SHOWN if subject.kind == "body" else _HAND_SHOWN
    points, _ = subject.joints(fitted=False)(vertices[None])
    panels = [_coloured(vertices, subject, fine[:, joint], points[0, joint]) for joint in shown]
    write_image(path, np.concatenate(panels, axis=1))


def _coloured(
    vertices: Float[Tensor, "vertices 3"],
    subject: MeshSubject,
    weight: Float[Tensor, " vertices"],
    joint: Float[Tensor, "3"],
) -> UInt8[np.ndarray, "height width 3"]:
    """A mesh seen from the front, bright where the weight is high, with a dot at the joint."""
    share = ((weight - weight.min()) / (weight.max() - weight.min()).clamp(min=1e-9)).clamp(0, 1)[:, None]
    dark, bright = torch.tensor([0.05, 0.05, 0.25]), torch.tensor([1.0, 0.75, 0.1])
    colors = dark + (bright - dark) * share
    low, high = vertices.amin(0), vertices.amax(0)
    extent = float((high - low)[:2].max())
    side = 2 * _HEIGHT
    away = torch.tensor([0.0, 0.0, 20 * extent]) - (low + high) / 2
    focal = 0.9 * side * 20
    K = torch.tensor([[focal, 0, side / 2], [0, focal, side / 2], [0, 0, 1]])
    canvas = np.full((side, side, 3), 255, dtype=np.uint8)
    mesh = Mesh(vertices=vertices + away, faces=subject.body.faces, vertex_colors=colors)
    drawn = overlay(canvas, [mesh], K, alpha=1.0)
    x, y, z = (joint + away).tolist()
    column, row = round(focal * x / z + side / 2), round(focal * y / z + side / 2)
    drawn[max(row - 2, 0) : row + 3, max(column - 2, 0) : column + 3] = (0, 160, 255)
    return drawn


def _crop(picture: Float[Tensor, "3 height width"]) -> UInt8[np.ndarray, "_rows _columns 3"]:
    """The picture at the height that all are shown at."""
    large = F.interpolate(
        denormalize(picture)[None], scale_factor=_HEIGHT / picture.shape[1], mode="bilinear"
    )
    return large[0].permute(1, 2, 0).round().clamp(0, 255).byte().numpy()


def _heat(
    crop: UInt8[np.ndarray, "height width 3"], weights: Float[Tensor, "rows columns"]
) -> UInt8[np.ndarray, "height width 3"]:
    size = crop.shape[:2]
    share = F.interpolate(weights[None, None], size, mode="nearest")[0, 0, ..., None].numpy()
    grey = crop.mean(axis=-1, keepdims=True)
    color = np.array([255.0, 150.0, 0.0])
    return np.clip(grey * (1 - 0.75 * share) * 0.8 + color * 0.75 * share, 0, 255).astype(np.uint8)
