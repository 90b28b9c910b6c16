"""What METRO-like models learn from here: crops, or maps of a frozen trunk, with meshes at several levels."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol, runtime_checkable

import torch
import torch.nn.functional as F
from jaxtyping import Float
from safetensors.torch import load_file
from torch import Tensor, nn

from fasthmr.data.augment import AugmentConfig, RecordStore, TrainBatch, make_batch
from fasthmr.data.hands import load_hands
from fasthmr.errors import InputError
from fasthmr.geometry.cameras import project
from fasthmr.geometry.crops import normalize
from fasthmr.training.chunks import write_chunks
from fasthmr.training.mesh_subject import BODY_14, MeshSubject
from fasthmr.training.tore_losses import MeshJoints, MeshLabels
from fasthmr.types import BodyParams

_CHUNK = 512


@dataclass(frozen=True, kw_only=True)
class MeshBatch:
    """Samples of one step.

    Attributes:
        seen: What the model (or its head, behind a frozen trunk) reads.
        params: The truth, in the frame of the camera.
        annotated: Joints are measured against those of the labels, and some samples may have no mesh;
            otherwise against those of the true mesh.
    """

    seen: Tensor
    params: BodyParams
    labels: MeshLabels
    annotated: bool = False


@runtime_checkable
class MeshSource(Protocol):
    """Samples that can be drawn by number."""

    def __len__(self) -> int: ...

    def batch(self, indices: Tensor, generator: torch.Generator | None) -> MeshBatch:
        """Samples, changed at random where there is a generator."""
        ...


def labels_of(
    subject: MeshSubject, joints: MeshJoints, params: BodyParams, joints_2d: Float[Tensor, "batch joints 3"]
) -> MeshLabels:
    """Everything about the regressed root."""
    with torch.no_grad():
        levels = subject.levels(params)
        points, root = joints(levels[-1])
    known = points.new_ones(len(points))
    return MeshLabels(
        joints_2d=joints_2d,
        joints_3d=torch.cat([points - root, points.new_ones(*points.shape[:2], 1)], dim=-1),
        vertices=tuple(level - root for level in levels),
        has_3d=known,
        has_mesh=known,
    )


class BodyCrops:
    """Crops of rendered people, cut anew each time."""

    def __init__(self, subject: MeshSubject, store: RecordStore, image_size: tuple[int, int]) -> None:
        self.subject, self.store, self.image_size = subject, store, image_size
        self._joints = subject.joints(fitted=True)

    def __len__(self) -> int:
        return len(self.store)

    def batch(self, indices: Tensor, generator: torch.Generator | None) -> MeshBatch:
        crops = self.crops(indices, generator)
        return self.labelled(crops.pixels, crops.rotations, crops.betas, crops.points, crops.inside)

    def crops(self, indices: Tensor, generator: torch.Generator | None) -> TrainBatch:
        """The crops with the labels of the records."""
        augment = AugmentConfig.none() if generator is None else AugmentConfig()
        generator = generator or torch.Generator().manual_seed(0)
        return make_batch(self.store.batch(indices), augment, generator, self.image_size[0], self.image_size)

    def labelled(
        self, seen: Tensor, rotations: Tensor, betas: Tensor, points: Tensor, inside: Tensor
    ) -> MeshBatch:
        """A batch from what is known of the records."""
        params = BodyParams.of_rotmats(rotations, betas)
        places = torch.cat([2 * points[:, BODY_14], inside[:, BODY_14, None].to(points)], dim=-1)
        return MeshBatch(
            seen=seen, params=params, labels=labels_of(self.subject, self._joints, params, places)
        )


_STORED = ("rotations", "betas", "points", "inside")


def cache_maps(
    crops: BodyCrops, trunk: nn.Module, folder: Path, count: int, *, augmented: bool, seed: int = 0
) -> None:
    """Write what a frozen trunk sees of `count` crops into a folder, leaving complete files as they are.

    Later crops than there are records show the same people again, cut and degraded otherwise.
    """

    def look(rows: Tensor) -> dict[str, Tensor]:
        start = int(rows[0])
        generator = torch.Generator().manual_seed(seed * 1_000_003 + start) if augmented else None
        batch = crops.crops(rows % len(crops), generator)
        with torch.no_grad():
            seen = trunk(batch.pixels)[-1].half()
        return {"seen": seen} | {name: getattr(batch, name) for name in _STORED}

    write_chunks(folder, count, _CHUNK, look)


class CachedMaps:
    """Maps of a frozen trunk, written by `cache_maps`."""

    def __init__(self, crops: BodyCrops, folder: Path) -> None:
        files = [load_file(path) for path in sorted(folder.glob("*.safetensors"))]
        if not files:
            raise InputError(f"{folder}: no maps")
        self._crops = crops
        self._stored = {name: torch.cat([file[name] for file in files]) for name in files[0]}

    def __len__(self) -> int:
        return len(self._stored["seen"])

    def batch(self, indices: Tensor, generator: torch.Generator | None) -> MeshBatch:
        rows: dict[str, Any] = {name: tensor[indices] for name, tensor in self._stored.items()}
        return self._crops.labelled(rows.pop("seen").float(), **rows)


class HandCrops:
    """Drawn hands; a generator turns them and changes their colours."""

    def __init__(self, subject: MeshSubject, folder: Path) -> None:
        self.subject, self._stored = subject, load_hands(folder)
        self._joints = subject.joints(fitted=True)
        self._places = torch.cat([self._places_of(rows) for rows in torch.arange(len(self)).split(256)])

    def __len__(self) -> int:
        return len(self._stored["rgb"])

    def _places_of(self, rows: Tensor) -> Float[Tensor, "rows 21 3"]:
        """Joints in the picture, from -1 to 1, all of them known."""
        stored = {name: self._stored[name][rows] for name in ("rotations", "betas", "transl", "K")}
        params = BodyParams.of_rotmats(stored["rotations"], stored["betas"], stored["transl"])
        points, _ = self._joints(self.subject.levels(params)[-1])
        pixels = project(points, stored["K"])
        side = self._stored["rgb"].shape[1]
        return torch.cat([(2 * pixels + 1) / side - 1, torch.ones_like(pixels[..., :1])], dim=-1)

    def batch(self, indices: Tensor, generator: torch.Generator | None) -> MeshBatch:
        pixels = self._stored["rgb"][indices].permute(0, 3, 1, 2).float()
        rotations, places = self._stored["rotations"][indices], self._places[indices]
        if generator is not None:
            count = len(indices)
            gain = torch.rand(count, 3, 1, 1, generator=generator) * 0.5 + 0.75
            pixels = (pixels * gain).clamp(0, 255)
            pixels, rotations, places = _turned(pixels, rotations, places, generator)
        params = BodyParams.of_rotmats(rotations, self._stored["betas"][indices])
        return MeshBatch(
            seen=normalize(pixels),
            params=params,
            labels=labels_of(self.subject, self._joints, params, places),
        )


def _turned(
    pixels: Tensor, rotations: Tensor, places: Tensor, generator: torch.Generator
) -> tuple[Tensor, Tensor, Tensor]:
    """Pictures turned about their middle and enlarged by a tenth at most, with their labels.

    For the camera of drawn hands a turn about the middle is a turn of the hand, exactly.
    """
    count = len(pixels)
    angle = torch.rand(count, generator=generator) * (2 * torch.pi)
    scale = 0.9 + 0.2 * torch.rand(count, generator=generator)
    cos, sin, zero = angle.cos(), angle.sin(), torch.zeros(count)
    plane = torch.stack([cos, sin, -sin, cos], dim=-1).unflatten(-1, (2, 2))  # y points down
    source = torch.cat([plane.mT / scale[:, None, None], torch.zeros(count, 2, 1)], dim=-1)
    grid = F.affine_grid(source, list(pixels.shape), align_corners=False)
    pixels = F.grid_sample(pixels, grid, padding_mode="reflection", align_corners=False)
    turn = torch.stack([cos, sin, zero, -sin, cos, zero, zero, zero, zero + 1], dim=-1).unflatten(-1, (3, 3))
    rotations = torch.cat([turn[:, None] @ rotations[:, :1], rotations[:, 1:]], dim=1)
    moved = places[..., :2] @ plane.mT * scale[:, None, None]
    return pixels, rotations, torch.cat([moved, places[..., 2:]], dim=-1)
