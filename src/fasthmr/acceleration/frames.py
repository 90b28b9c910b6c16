"""Crops of people to calibrate and to judge on: from pictures, videos or a folder of rendered records."""

from __future__ import annotations

import logging
from collections.abc import Iterator
from dataclasses import dataclass, fields, replace
from pathlib import Path
from typing import Literal

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from fasthmr.acceleration.masks import CHOICES, NAMES, PictureMasks, crop_masks, picture_masks
from fasthmr.acceleration.parts import ModelParts
from fasthmr.acceleration.pictures import files_of, pictures_of
from fasthmr.data.augment import RECORD_MARGIN, AugmentConfig, RecordStore, make_batch
from fasthmr.data.shards import load_shards
from fasthmr.errors import InputError, UsageError
from fasthmr.geometry.cameras import bbox_info
from fasthmr.geometry.crops import crop_pictures
from fasthmr.reduction.mask_tokens import ellipse_in_crop
from fasthmr.runtime.detect import Detector, load_detector
from fasthmr.runtime.intrinsics import IntrinsicsEstimator
from fasthmr.runtime.sources import is_video
from fasthmr.types import BodyParams, Crop

_log = logging.getLogger(__name__)
_BATCH = 64
_FRAMES_OF_VIDEO = 200

Labels = Literal["auto", "none"]


@dataclass(frozen=True, kw_only=True)
class Frames:
    """People as the encoder of one model sees them.

    Attributes:
        pictures: Normalised.
        masks: The person; None stands for no protection of anybody (plain token merging).
        joints: True joints in camera axes, metres; None where nobody knows them.
        bbox_info: Place of the crops in their cameras, for models that take it.
        picture_ids: Which picture or video each was cut from; frames of a lone video count as pictures.
        mask_source: Where the masks come from, in words.
        source: Folder.
    """

    pictures: Float[Tensor, "people 3 height width"]
    picture_ids: Int[Tensor, "people"]
    source: str
    mask_source: str
    masks: Bool[Tensor, "people height width"] | None = None
    joints: Float[Tensor, "people joints 3"] | None = None
    bbox_info: Float[Tensor, "people 3"] | None = None

    def __len__(self) -> int:
        return len(self.pictures)

    def rows(self, index: Int[Tensor, "chosen"] | slice) -> Frames:
        """Some of the people."""
        values = {field.name: getattr(self, field.name) for field in fields(self)}
        chosen = {key: value[index] for key, value in values.items() if isinstance(value, Tensor)}
        return replace(self, **chosen)

    def batches(self, size: int) -> Iterator[Frames]:
        """The people in order, up to `size` at a time."""
        for start in range(0, len(self), size):
            yield self.rows(slice(start, start + size))

    def split(self, held_out: float, seed: int = 0) -> tuple[Frames, Frames]:
        """Calibration part and held-out part, both in random order; people of one picture stay together.

        Raises:
            InputError: There are fewer than two pictures with people.
        """
        generator = torch.Generator().manual_seed(seed)
        names = self.picture_ids.unique()
        if len(names) < 2:
            raise InputError(
                f"{self.source}: people in {len(names)} picture; at least 2 are needed, one to choose what "
                "is merged and one to judge it, and some hundred are better"
            )
        order = names[torch.randperm(len(names), generator=generator)]
        count = min(max(1, round(held_out * len(names))), len(names) - 1)
        parts = []
        for chosen in (order[count:], order[:count]):
            rows = torch.isin(self.picture_ids, chosen).nonzero()[:, 0]
            parts.append(self.rows(rows[torch.randperm(len(rows), generator=generator)]))
        return parts[0], parts[1]

    def describe(self) -> str:
        """One line for reports."""
        count = len(self.picture_ids.unique())
        labelled = "with true joints" if self.joints is not None else "without labels"
        return f"{len(self)} people in {count} pictures, {labelled}; masks: {self.mask_source}"


def is_records(source: Path) -> bool:
    """Whether a folder holds rendered records."""
    return source.is_dir() and any(source.glob("*.labels.npz"))


def load_frames(
    source: Path | str,
    parts: ModelParts,
    *,
    masks: str = "self",
    labels: Labels = "auto",
    detector: str | Path | Detector = "auto",
    limit: int = 2048,
    seed: int = 0,
) -> Frames:
    """People from a folder (file, glob, list) of pictures and videos or a folder of rendered records.

    Of a video, up to 200 frames spread over its length are read.

    Args:
        masks: "true": those of records; "ellipse" in the detection box; "self" where the model shall find
            the person itself (masks of records then serve to teach it); "none" to protect nobody; a folder
            with a mask picture of the same name for each picture; or an .onnx model (see
            `masks.OnnxSegmenter`).
        labels: "auto" takes true joints where there are some.
        limit: Take at most this many people, chosen by `seed`.

    Raises:
        UsageError: An unknown choice, or a camera or stream.
        InputError: No pictures, none that can be read, nobody in them, or masks that do not fit.
    """
    if limit < 2:
        raise UsageError(f"limit={limit} people are too few; at least 2")
    if is_records(Path(source)):
        return record_frames(Path(source), parts, masks=masks, labels=labels, limit=limit, seed=seed)
    return _picture_frames(str(source), parts, masks, detector, limit, seed)


def record_frames(
    folder: Path,
    parts: ModelParts,
    *,
    masks: str = "self",
    labels: Labels = "auto",
    limit: int = 2048,
    seed: int = 0,
) -> Frames:
    """People of rendered records, cut as the model's training or evaluation cuts them.

    Raises:
        UsageError: Another source of masks than records have.
        InputError: There are none.
    """
    if masks not in CHOICES:
        raise UsageError(f"masks={masks}: rendered records carry their own; use {', '.join(CHOICES)}")
    store = RecordStore(load_shards(folder))
    generator = torch.Generator().manual_seed(seed)
    rows = torch.randperm(len(store), generator=generator)[:limit].sort().values
    height, width = parts.image_size
    batches = [
        make_batch(store.batch(some), AugmentConfig.none(), generator, height, (height, width))
        for some in rows.split(_BATCH)
    ]
    joints = None
    if labels == "auto":
        joints = torch.cat(
            [parts.joints(BodyParams.of_rotmats(batch.rotations, batch.betas)) for batch in batches]
        )
    frames = Frames(
        pictures=torch.cat([batch.pixels for batch in batches]),
        picture_ids=rows,
        source=str(folder),
        mask_source=NAMES[masks],
        joints=joints,
        bbox_info=_record_info(store, rows) if parts.takes_camera else None,
    )
    if masks == "none":
        return frames
    if masks == "ellipse":
        return replace(frames, masks=_record_ellipses(store, rows, (height, width)))
    return replace(frames, masks=torch.cat([batch.pixel_mask() for batch in batches]) >= 0.5)


def _record_squares(
    store: RecordStore, count: int
) -> tuple[Float[Tensor, "count 2"], Float[Tensor, "count"]]:
    """Centre and side of the box square in the stored pictures, which is the same in all."""
    return torch.full((count, 2), store.side / 2), torch.full((count,), store.side / RECORD_MARGIN)


def _record_info(store: RecordStore, rows: Tensor) -> Float[Tensor, "people 3"]:
    """Place of the squares of records in their cameras."""
    K = torch.from_numpy(store.labels("K"))[rows]
    center, size = _record_squares(store, len(rows))
    return bbox_info(center, size, K[:, :2, 2], (K[:, 0, 0] * K[:, 1, 1]).sqrt())


def _record_ellipses(
    store: RecordStore, rows: Tensor, image_size: tuple[int, int]
) -> Bool[Tensor, "people height width"]:
    boxes = torch.from_numpy(store.labels("box_xyxy"))[rows]
    height, width = image_size
    square = ellipse_in_crop(boxes, *_record_squares(store, len(rows)), height)
    margin = (height - width) // 2
    return square[..., margin : margin + width]


def _picture_frames(
    source: str,
    parts: ModelParts,
    masks: str,
    detector: str | Path | Detector,
    limit: int,
    seed: int,
) -> Frames:
    paths = files_of(source)
    provider = picture_masks(masks, paths)
    find = load_detector(detector)
    model = parts.model
    cameras = IntrinsicsEstimator(takes_camera=parts.takes_camera, network=getattr(model, "intrinsics", None))
    order = torch.randperm(len(paths), generator=torch.Generator().manual_seed(seed)).tolist()
    found: list[Frames] = []
    unreadable: list[str] = []
    for index, path, rgb in pictures_of(paths, order, min(_FRAMES_OF_VIDEO, limit), unreadable):
        if sum(map(len, found)) >= limit:
            break
        people = find(rgb)
        if not len(people.scores):
            continue
        boxes = people.boxes_xyxy.cpu()
        crop = crop_pictures(
            rgb, boxes, parts.crop_size, aspect=model.crop_aspect, antialias=model.crop_antialias
        )
        info = None
        if parts.takes_camera:
            camera = cameras.for_picture(rgb, None if is_video(path) else path)
            count = len(boxes)
            info = bbox_info(
                crop.box_center,
                crop.box_size,
                camera.principal.float().expand(count, 2),
                camera.focal.float().expand(count),
            )
        found.append(
            Frames(
                pictures=parts.model.picture(crop.pixels),
                picture_ids=torch.full((len(boxes),), index),
                source=source,
                mask_source=provider.name,
                masks=_masks(provider, parts, path, rgb, boxes, crop),
                bbox_info=info,
            )
        )
    if not found:
        if len(unreadable) == len(paths):
            raise InputError(f"{source}: none of {len(paths)} files can be read; first: {unreadable[0]}")
        raise InputError(
            f"{source}: nobody was found in {len(paths)} files; give pictures or videos of people"
        )
    return _join(found).rows(slice(limit))


def _masks(
    provider: PictureMasks, parts: ModelParts, path: Path, rgb: object, boxes: Tensor, crop: Crop
) -> Bool[Tensor, "people height width"] | None:
    if provider.kind == "none":
        return None
    if provider.kind == "ellipse":
        square = ellipse_in_crop(boxes, crop.box_center, crop.box_size, parts.crop_size)
    else:
        square = crop_masks(provider(path, rgb), boxes, parts.crop_size, parts.model.crop_aspect)
    return parts.model.picture_mask(square) > 0


def _join(found: list[Frames]) -> Frames:
    values = {field.name: [getattr(frames, field.name) for frames in found] for field in fields(Frames)}
    joined = {key: torch.cat(parts) for key, parts in values.items() if isinstance(parts[0], Tensor)}
    return replace(found[0], **joined)
