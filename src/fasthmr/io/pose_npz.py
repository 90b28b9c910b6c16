"""2D keypoints as .npz: every array of the clip, no pickles, a schema inside."""

from __future__ import annotations

from dataclasses import fields
from pathlib import Path
from typing import Any

import numpy as np

from fasthmr.io.clip_schema import SCHEMA_VERSION
from fasthmr.io.people_npz import read_people, write_arrays
from fasthmr.results import PoseClip, PosePerson

POSE_SCHEMA = "fasthmr.pose"

_CLIP_FIELDS = {
    "schema": ("U", ()),
    "schema_version": ("iu", ()),
    "units": ("U", ()),
    "num_persons": ("iu", ()),
    "keypoint_names": ("U", ("K",)),
    "image_ids": ("iu", ("N",)),
    "image_size": ("iu", (2,)),
    "fps": ("f", ()),
    "source": ("U", ()),
    "model": ("U", ()),
    "timing_names": ("U", ("S",)),
    "timing_seconds": ("f", ("S",)),
}
_PERSON_FIELDS = {
    "track_id": ("iu", ()),
    "frames": ("iu", ("f",)),
    "boxes_xyxy": ("f", ("f", 4)),
    "scores": ("f", ("f",)),
    "keypoints_2d": ("f", ("f", "K", 3)),
}


def write_pose_npz(clip: PoseClip, path: Path) -> Path:
    """Writes the clip; `read_pose_npz` gives it back (floats as float32)."""
    arrays: dict[str, np.ndarray] = {
        "schema": np.array(POSE_SCHEMA),
        "schema_version": np.array(SCHEMA_VERSION),
        "units": np.array("pixels"),
        "num_persons": np.array(len(clip.persons)),
        "keypoint_names": np.array(clip.keypoint_names, dtype=np.str_),
        "image_ids": np.asarray(clip.image_ids, dtype=np.int64),
        "image_size": np.array(clip.image_size, dtype=np.int64),
        "fps": np.array(np.nan if clip.fps is None else clip.fps, dtype=np.float64),
        "source": np.array(clip.source),
        "model": np.array(clip.model),
        "timing_names": np.array(list(clip.timings), dtype=np.str_),
        "timing_seconds": np.array(list(clip.timings.values()), dtype=np.float64),
    }
    for index, person in enumerate(clip.persons):
        for field in fields(PosePerson):
            kind = np.int64 if field.name in ("track_id", "frames") else np.float32
            arrays[f"person_{index:03d}/{field.name}"] = np.asarray(getattr(person, field.name), dtype=kind)
    return write_arrays(path, arrays)


def read_pose_npz(path: Path) -> PoseClip:
    """Reads what `write_pose_npz` wrote, checking every name, type and shape.

    Raises:
        InputError: the file is missing, damaged, unsafe or of another schema.
    """
    own, people, _ = read_people(path, POSE_SCHEMA, _CLIP_FIELDS, _PERSON_FIELDS)
    persons = []
    for arrays in people:
        values: dict[str, Any] = {field.name: arrays[field.name] for field in fields(PosePerson)}
        values["track_id"] = int(arrays["track_id"])
        persons.append(PosePerson(**values))
    seconds = own["timing_seconds"].tolist()
    return PoseClip(
        persons=tuple(persons),
        keypoint_names=tuple(own["keypoint_names"].tolist()),
        image_ids=own["image_ids"],
        image_size=(int(own["image_size"][0]), int(own["image_size"][1])),
        fps=None if np.isnan(own["fps"]) else float(own["fps"]),
        source=str(own["source"]),
        model=str(own["model"]),
        timings=dict(zip(own["timing_names"].tolist(), seconds, strict=True)),
    )
