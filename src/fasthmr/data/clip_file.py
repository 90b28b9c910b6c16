"""The file of one rendered clip: crops as JPEG, masks as packed bits, labels as arrays."""

from __future__ import annotations

import zlib
from collections.abc import Sequence
from pathlib import Path
from typing import Any
from zipfile import BadZipFile

import numpy as np
from jaxtyping import UInt8

from fasthmr.data.clip_scene import ClipPlan, SyntheticClips
from fasthmr.data.framing import project
from fasthmr.data.records import KEYPOINTS_IN_POINTS
from fasthmr.data.synthetic import SyntheticPeople
from fasthmr.errors import InputError
from fasthmr.io.atomic import atomic_path

_PACKED = ("jpegs", "jpeg_ends", "masks", "mask_ends")


def save_clip(source: SyntheticClips, index: int, path: Path) -> None:
    """Draw one clip into a file."""
    import cv2

    plan = source.plan(index)
    jpegs, masks = [], []
    quality = [cv2.IMWRITE_JPEG_QUALITY, plan.film.quality]
    for rgb, mask in source.draw(plan):
        done, data = cv2.imencode(".jpg", np.ascontiguousarray(rgb[..., ::-1]), quality)
        assert done, "OpenCV writes any 8-bit picture as JPEG"
        jpegs.append(data.reshape(-1))
        bits = zlib.compress(np.packbits(mask > 127).tobytes(), 6)
        masks.append(np.frombuffer(bits, dtype=np.uint8))
    arrays = clip_labels(source.people, plan)
    for name, pieces in (("jpeg", jpegs), ("mask", masks)):
        arrays[f"{name}s"] = np.concatenate(pieces)
        arrays[f"{name}_ends"] = np.cumsum([len(piece) for piece in pieces])
    with atomic_path(path) as temporary:
        np.savez(temporary, **arrays)  # pyright: ignore[reportArgumentType]


def clip_labels(people: SyntheticPeople, plan: ClipPlan) -> dict[str, np.ndarray]:
    """The labels of a clip, named as in `SyntheticClip`."""
    posed, camera = plan.posed, plan.camera
    points = np.concatenate([posed.joints, posed.keypoints[:, list(KEYPOINTS_IN_POINTS)]], axis=1)
    points_2d = np.stack([project(here, K) for here, K in zip(points, plan.K_crop, strict=True)])
    inside = plan.inside()[:, None]
    low, high = np.maximum(inside[..., :2], 0), np.minimum(inside[..., 2:], np.array(plan.size[::-1]))
    pelvis = people.body.J_template[0] + people.body.J_shapedirs[0] @ plan.betas
    labels: dict[str, Any] = {
        "betas": plan.betas,
        "rotations": posed.rotations,
        "transl": posed.joints[:, 0] - pelvis,
        "joints_3d": points,
        "points_2d": points_2d,
        "coco17": project(posed.keypoints[:, :17], camera.K),
        "K": camera.K,
        "K_crop": plan.K_crop,
        "image_size": np.array(camera.image_size),
        "boxes_xyxy": plan.tracked.boxes_xyxy,
        "scores": plan.tracked.scores,
        "person_xyxy": plan.true_boxes,
        "box_center": plan.centers,
        "box_size": plan.sides,
        "R_camera_world": camera.R_camera_world,
        "t_camera_world": camera.t_camera_world,
    }
    return {name: np.asarray(value, dtype=np.float32) for name, value in labels.items()} | {
        "points_inside": np.asarray(((points_2d >= low) & (points_2d < high)).all(axis=-1)),
        "index": np.array(plan.index),
        "action": np.array(plan.action),
        "camera": np.array(camera.kind),
        "hand_held": np.array(camera.hand_held),
    }


def read_labels(path: Path) -> dict[str, Any]:
    """The labels of a file; single values as Python objects.

    Raises:
        InputError: The file is not one that `save_clip` wrote.
    """
    try:
        with path.open("rb") as file, np.load(file, allow_pickle=False) as data:
            labels = {name: data[name] for name in data.files if name not in _PACKED}
    except (OSError, ValueError, EOFError, BadZipFile) as error:
        raise InputError(f"{path}: {error}; delete the file and render again") from error
    return labels | {name: value.item() for name, value in labels.items() if value.ndim == 0}


def read_pictures(path: Path, frames: Sequence[int]) -> UInt8[np.ndarray, "frames side side 4"]:
    """Crops of some frames: RGB, and the mask as 0 or 255.

    Raises:
        InputError: The file has been damaged.
    """
    import cv2

    with np.load(path, allow_pickle=False) as data:
        jpegs, jpeg_ends, masks, mask_ends = (data[name] for name in _PACKED)
    found = []
    for frame in frames:
        bgr = cv2.imdecode(_piece(jpegs, jpeg_ends, frame), cv2.IMREAD_COLOR)
        try:
            packed = zlib.decompress(_piece(masks, mask_ends, frame).tobytes())
        except zlib.error:
            packed = b""
        if bgr is None or not packed:
            raise InputError(f"{path}: frame {frame} is damaged; delete the file and render again")
        bits = np.frombuffer(packed, dtype=np.uint8)
        mask = np.unpackbits(bits, count=bgr.shape[0] * bgr.shape[1]).reshape(bgr.shape[:2])
        found.append(np.dstack([bgr[..., ::-1], mask * np.uint8(255)]))
    return np.stack(found)


def _piece(data: UInt8[np.ndarray, "bytes"], ends: np.ndarray, frame: int) -> UInt8[np.ndarray, "piece"]:
    frame = range(len(ends))[frame]
    return data[ends[frame - 1] if frame else 0 : ends[frame]]
