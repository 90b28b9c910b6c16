"""Crops that are cut and augmented once, for all models of a comparison, and read by several trainings."""

from __future__ import annotations

import json
from dataclasses import asdict
from functools import lru_cache
from pathlib import Path

import torch
from jaxtyping import Float, Int
from safetensors.torch import load_file
from torch import Tensor

from fasthmr.body.skeletons import COCO17_NAMES
from fasthmr.data.augment import RECORD_MARGIN, AugmentConfig, RecordStore, TrainBatch, make_batch
from fasthmr.data.records import POINT_NAMES
from fasthmr.data.shards import load_shards
from fasthmr.errors import InputError, UsageError
from fasthmr.geometry.crops import denormalize, normalize
from fasthmr.io.atomic import write_bytes
from fasthmr.training.chunks import write_chunks

COCO17_POINTS = tuple(POINT_NAMES.index(name) for name in COCO17_NAMES)
"""The COCO key points among the points of records; shoulders, hips and the like are joints of the body."""

_CHUNK = 2048
_NOTE = "crops.json"
_LABELS = ("rotations", "betas", "points", "points_3d", "inside")


def cut_crops(
    records: Path, folder: Path, count: int, image_size: tuple[int, int], *, augment: AugmentConfig | None
) -> None:
    """Write crops of rendered records into a folder, leaving complete files as they are.

    Records come in an order of their own where crops are augmented: those in the shards repeat people. After
    the last the first are cut again, otherwise.

    Args:
        image_size: Height and width; the height is the side of the square that is cut.
        augment: None cuts the records in their order, as they are.

    Raises:
        UsageError: The folder holds crops of another size, or augmented otherwise.
    """
    _same_kind(folder, json.dumps([list(image_size), None if augment is None else asdict(augment)]))
    store = RecordStore(load_shards(records))
    order = torch.arange(len(store))
    if augment is not None:
        order = torch.randperm(len(store), generator=torch.Generator().manual_seed(0))

    def cut(rows: Tensor) -> dict[str, Tensor]:
        raw = store.batch(order[rows % len(store)])
        generator = torch.Generator().manual_seed(int(rows[0]))
        crops = make_batch(raw, augment or AugmentConfig.none(), generator, image_size[0], image_size)
        pixels = denormalize(crops.pixels).round().clamp(0, 255).to(torch.uint8)
        return {"pixels": pixels} | {name: getattr(crops, name) for name in _LABELS}

    write_chunks(folder, count, _CHUNK, cut)


def _same_kind(folder: Path, kind: str) -> None:
    """Note in a folder what crops it holds.

    Raises:
        UsageError: They are others.
    """
    note = folder / _NOTE
    if not note.is_file():
        write_bytes(note, kind.encode())
    elif note.read_text() != kind:
        raise UsageError(
            f"{folder}: holds crops of another size, or augmented otherwise ({note.read_text()}); "
            "give another folder"
        )


class StoredCrops:
    """Crops that `cut_crops` wrote; pictures stay on disk until they are read.

    Args:
        count: How many of them, the first.

    Raises:
        InputError: There are fewer.
    """

    def __init__(self, folder: Path, count: int) -> None:
        self._files = [load_file(path) for path in sorted(folder.glob("*.safetensors"))]
        found = sum(len(file["pixels"]) for file in self._files)
        if found < count:
            raise InputError(f"{folder}: holds {found} crops, not {count}")
        self._count = count

    def __len__(self) -> int:
        return self._count

    @property
    def image_size(self) -> tuple[int, int]:
        """Height and width."""
        rows, columns = self._files[0]["pixels"].shape[-2:]
        return rows, columns

    def labels(self, name: str) -> Tensor:
        """One kind of label of all crops."""
        return torch.cat([file[name] for file in self._files])[: self._count]

    def batch(self, rows: Int[Tensor, "batch"]) -> TrainBatch:
        """Crops by number, without masks."""
        read = {
            name: torch.stack([self._files[row // _CHUNK][name][row % _CHUNK] for row in rows.tolist()])
            for name in ("pixels", *_LABELS)
        }
        height, width = self.image_size
        mask = torch.zeros(len(rows), height // 4, width // 4)
        return TrainBatch(pixels=normalize(read.pop("pixels").float()), mask=mask, **read)

    def of_step(self, step: int, batch_size: int, seed: int) -> TrainBatch:
        """The batch of a step: all crops in an order of their own, then in another."""
        places = torch.arange(step * batch_size, (step + 1) * batch_size)
        epochs, rows = places // self._count, places % self._count
        return self.batch(
            torch.stack(
                [
                    _order(self._count, seed, epoch)[row]
                    for epoch, row in zip(epochs.tolist(), rows.tolist(), strict=True)
                ]
            )
        )


@lru_cache(maxsize=2)
def _order(count: int, seed: int, epoch: int) -> Int[Tensor, "count"]:
    return torch.randperm(count, generator=torch.Generator().manual_seed(seed * 1_000_003 + epoch))


def to_pixels(
    points: Float[Tensor, "batch points 2"], image_size: tuple[int, int]
) -> Float[Tensor, "batch points 2"]:
    """Pixels of crops of (height, width) from crop units; centres lie at integers."""
    height, width = image_size
    return points * height + points.new_tensor(_middle(height, width))


def from_pixels(
    pixels: Float[Tensor, "batch points 2"], image_size: tuple[int, int]
) -> Float[Tensor, "batch points 2"]:
    """Crop units from pixels."""
    height, width = image_size
    return (pixels - pixels.new_tensor(_middle(height, width))) / height


def _middle(height: int, width: int) -> tuple[float, float]:
    """Where the middle of the crop lies in its pixels: those of a 256-pixel crop, averaged (`make_batch`)."""
    shift = 0.5 - 0.5 * height / 256
    return width / 2 - shift, height / 2 - shift


def to_record(points: Float[Tensor, "batch points 2"], side: int) -> Float[Tensor, "batch points 2"]:
    """Pixels of the stored picture, of this side, from crop units of crops that are not augmented."""
    return points * (side / RECORD_MARGIN) + side / 2
