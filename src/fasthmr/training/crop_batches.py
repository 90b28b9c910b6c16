"""Batches of crops for training that needs a model's own outputs more than labels.

A source is a function of the step alone, so that a run repeats exactly and goes on from any step.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, fields, replace
from pathlib import Path
from typing import Any

import torch
from jaxtyping import Float, Shaped
from torch import Tensor

from fasthmr.data.augment import AugmentConfig, RecordStore, TrainBatch, make_batch
from fasthmr.data.shards import load_shards
from fasthmr.errors import InputError


@dataclass(frozen=True, kw_only=True)
class CropBatch:
    """Crops as the encoder of a model sees them.

    Attributes:
        pixels: Normalised RGB.
        mask: The person in them, 0 to 1, where somebody knows.
        bbox_info: Where each crop lies in its camera, for models that take it.
        labels: The truth, where somebody knows.
    """

    pixels: Float[Tensor, "batch 3 height width"]
    mask: Shaped[Tensor, "batch height width"] | None = None
    bbox_info: Float[Tensor, "batch 3"] | None = None
    labels: TrainBatch | None = None

    def to(self, device: torch.device) -> CropBatch:
        """The same elsewhere."""
        moved = {f.name: _to(getattr(self, f.name), device) for f in fields(self)}
        return CropBatch(**moved)


BatchSource = Callable[[int], CropBatch]
"""The batch of a step."""


class PictureBatches:
    """Random batches of given pictures, with or without masks; half of them mirrored.

    Args:
        pictures: As the encoder sees them (`model.picture` of square crops).
        masks: As large.
        bbox_info: With it nothing is mirrored, since the camera is not.

    Raises:
        InputError: There are no pictures.
    """

    def __init__(
        self,
        pictures: Float[Tensor, "people 3 height width"],
        masks: Shaped[Tensor, "people height width"] | None = None,
        bbox_info: Float[Tensor, "people 3"] | None = None,
        *,
        batch_size: int = 32,
        seed: int = 0,
    ) -> None:
        if not len(pictures):
            raise InputError("no pictures to train on")
        self._all = CropBatch(pixels=pictures, mask=masks, bbox_info=bbox_info)
        self._batch_size, self._seed = batch_size, seed

    def __call__(self, step: int) -> CropBatch:
        generator = torch.Generator().manual_seed(self._seed * 1_000_003 + step)
        every = self._all
        rows = torch.randint(len(every.pixels), (self._batch_size,), generator=generator)
        pixels, mask = every.pixels[rows], None if every.mask is None else every.mask[rows]
        if every.bbox_info is not None:
            return CropBatch(pixels=pixels, mask=mask, bbox_info=every.bbox_info[rows])
        mirrored = (torch.rand(self._batch_size, generator=generator) < 0.5)[:, None, None]
        pixels = torch.where(mirrored[..., None], pixels.flip(-1), pixels)
        return CropBatch(
            pixels=pixels, mask=None if mask is None else torch.where(mirrored, mask.flip(-1), mask)
        )


class RecordBatches:
    """Random augmented crops of rendered records, with masks and labels.

    Args:
        records: A store, or the folder of its shards.
        image_size: Height and width of the encoder's picture.

    Raises:
        InputError: The folder has no shards.
    """

    def __init__(
        self,
        records: RecordStore | Path | str,
        image_size: tuple[int, int],
        *,
        batch_size: int = 32,
        augment: AugmentConfig | None = None,
        seed: int = 0,
    ) -> None:
        self._store = records if isinstance(records, RecordStore) else RecordStore(load_shards(records))
        self._image_size, self._batch_size, self._seed = image_size, batch_size, seed
        self._augment = AugmentConfig() if augment is None else augment

    def __call__(self, step: int) -> CropBatch:
        generator = torch.Generator().manual_seed(self._seed * 1_000_003 + step)
        rows = torch.randint(len(self._store), (self._batch_size,), generator=generator)
        height, width = self._image_size
        labels = make_batch(self._store.batch(rows), self._augment, generator, height, (height, width))
        return CropBatch(pixels=labels.pixels, mask=labels.pixel_mask(), labels=labels)


def _to(value: Any, device: torch.device) -> Any:
    if isinstance(value, TrainBatch):
        return replace(value, **{f.name: getattr(value, f.name).to(device) for f in fields(value)})
    return None if value is None else value.to(device)
