"""Results as .json: people, boxes, joints in 3D and 2D, pose, shape and camera, without the surface."""

from __future__ import annotations

import json
import math
from pathlib import Path
from typing import Any

import numpy as np

from fasthmr.body.skeletons import COCO17_NAMES
from fasthmr.io.atomic import write_bytes
from fasthmr.io.clip_schema import CAMERA_AXES, SCHEMA, SCHEMA_VERSION, UNITS
from fasthmr.results import Clip, Person

_DECIMALS = 5


def write_json(clip: Clip, path: Path) -> Path:
    """Writes the clip as text, numbers rounded to 1e-5; a number that is not finite becomes null."""
    text = json.dumps(clip_record(clip), allow_nan=False, ensure_ascii=False, separators=(",", ":"))
    return write_bytes(path, text.encode("utf-8", errors="replace"))


def clip_record(clip: Clip) -> dict[str, Any]:
    """The clip as plain lists, dicts and numbers."""
    return {
        "schema": SCHEMA,
        "schema_version": SCHEMA_VERSION,
        "units": UNITS,
        "axes": CAMERA_AXES,
        "source": clip.source,
        "image_size": {"width": clip.image_size[0], "height": clip.image_size[1]},
        "fps": clip.fps,
        "times": None if clip.times is None else _plain(clip.times),
        "model": clip.model,
        "body": clip.body,
        "pose_fitted": clip.pose_fitted,
        "joint_names": list(clip.joint_names),
        "parents": clip.parents.tolist(),
        "keypoint_names": list(COCO17_NAMES),
        "intrinsics": _plain(clip.intrinsics),
        "camera_source": clip.camera_source,
        "persons": [_person(person, clip) for person in clip.persons],
        "timings": {name: _plain(np.array(seconds)) for name, seconds in clip.timings.items()},
    }


def _person(person: Person, clip: Clip) -> dict[str, Any]:
    projected = np.einsum("fij,fkj->fki", clip.intrinsics[person.frames], person.joints.astype(np.float64))
    with np.errstate(divide="ignore", invalid="ignore"):
        joints_2d = np.where(projected[..., 2:] > 0, projected[..., :2] / projected[..., 2:], np.nan)
    columns = {
        "box_xyxy": person.boxes_xyxy,
        "score": person.scores,
        "transl": person.transl,
        "joints_3d": person.joints,
        "joints_2d": joints_2d,
        "global_orient": person.global_orient,
        "body_pose": person.body_pose,
        "betas": person.betas,
    }
    if person.keypoints_2d is not None:
        columns["keypoints_2d"] = person.keypoints_2d
    return {
        "track_id": int(person.track_id),
        **({} if person.side is None else {"side": person.side}),
        "frames": [
            {"frame": int(frame)} | {name: _plain(values[index]) for name, values in columns.items()}
            for index, frame in enumerate(person.frames)
        ],
    }


def _plain(values: np.ndarray | np.floating) -> Any:
    rounded = np.asarray(values, dtype=np.float64).round(_DECIMALS).tolist()
    return rounded if np.isfinite(values).all() else _nulled(rounded)


def _nulled(value: Any) -> Any:
    if isinstance(value, list):
        return [_nulled(item) for item in value]
    return value if math.isfinite(value) else None
