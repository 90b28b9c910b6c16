"""Results as .npz: every array of the clip, no pickles, a schema inside.

Beside the fields of `Person`, each person carries the AMASS names: `poses` (axis-angle, all joints in a
row) and `trans`; the file carries `gender` and `mocap_framerate`, and the `times` of a variable frame rate.
Hands carry their `side`; triangles of left ones run the other way round than `faces`.

A rest mesh stands for surfaces that are computed on demand, see `rest_surface`.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import fields
from pathlib import Path
from typing import Any

import numpy as np
import torch

from fasthmr.body.skeletons import tree_levels
from fasthmr.errors import InputError
from fasthmr.geometry.rotations import rotmat_to_axis_angle
from fasthmr.io.clip_schema import CAMERA_AXES, SCHEMA, SCHEMA_VERSION, UNITS
from fasthmr.io.people_npz import indices_fit, read_people, write_arrays
from fasthmr.io.rest_surface import read_surface, surface_arrays
from fasthmr.results import Clip, LazyVertices, Person

_CLIP_FIELDS = {
    "schema": ("U", ()),
    "schema_version": ("iu", ()),
    "units": ("U", ()),
    "axes": ("U", ()),
    "num_persons": ("iu", ()),
    "faces": ("iu", ("T", 3)),
    "parents": ("iu", ("J",)),
    "joint_names": ("U", ("J",)),
    "intrinsics": ("f", ("N", 3, 3)),
    "camera_source": ("U", ()),
    "image_size": ("iu", (2,)),
    "fps": ("f", ()),
    "times": ("f", ("N",)),
    "source": ("U", ()),
    "body": ("U", ()),
    "model": ("U", ()),
    "timing_names": ("U", ("S",)),
    "timing_seconds": ("f", ("S",)),
    "lbs_weights": ("f", ("V", "J")),
    "pose_fitted": ("b", ()),
    "gender": ("U", ()),
    "mocap_framerate": ("f", ()),
}
_PERSON_FIELDS = {
    "track_id": ("iu", ()),
    "frames": ("iu", ("f",)),
    "boxes_xyxy": ("f", ("f", 4)),
    "scores": ("f", ("f",)),
    "vertices": ("f", ("f", "V", 3)),
    "rest_vertices": ("f", ("V", 3)),
    "rest_joints": ("f", ("J", 3)),
    "surface_error_mm": ("f", (2,)),
    "joints": ("f", ("f", "J", 3)),
    "global_orient": ("f", ("f", 1, 3, 3)),
    "body_pose": ("f", ("f", "P", 3, 3)),
    "betas": ("f", ("f", "B")),
    "transl": ("f", ("f", 3)),
    "keypoints_2d": ("f", ("f", 17, 3)),
    "poses": ("f", ("f", "A")),
    "trans": ("f", ("f", 3)),
    "side": ("U", ()),
}
_OPTIONAL = {
    *(
        "lbs_weights",
        "pose_fitted",
        "keypoints_2d",
        "side",
        "mocap_framerate",
        "gender",
        "poses",
        "trans",
        "camera_source",
        "times",
    ),
    *("vertices", "rest_vertices", "rest_joints", "surface_error_mm"),
}


def write_npz(clip: Clip, path: Path) -> Path:
    """Writes the clip; `read_npz` gives it back (floats as float32)."""
    arrays: dict[str, np.ndarray] = {
        "schema": np.array(SCHEMA),
        "schema_version": np.array(SCHEMA_VERSION),
        "units": np.array(UNITS),
        "axes": np.array(CAMERA_AXES),
        "num_persons": np.array(len(clip.persons)),
        "faces": np.asarray(clip.faces, dtype=np.int32),
        "parents": np.asarray(clip.parents, dtype=np.int32),
        "joint_names": np.array(clip.joint_names, dtype=np.str_),
        "intrinsics": np.asarray(clip.intrinsics, dtype=np.float64),
        "camera_source": np.array(clip.camera_source),
        "image_size": np.array(clip.image_size, dtype=np.int64),
        "fps": np.array(np.nan if clip.fps is None else clip.fps, dtype=np.float64),
        "source": np.array(clip.source),
        "body": np.array(clip.body),
        "model": np.array(clip.model),
        "timing_names": np.array(list(clip.timings), dtype=np.str_),
        "timing_seconds": np.array(list(clip.timings.values()), dtype=np.float64),
        "gender": np.array("neutral"),
        "pose_fitted": np.array(clip.pose_fitted),
    }
    if clip.fps is not None:
        arrays["mocap_framerate"] = arrays["fps"]
    if clip.times is not None:
        arrays["times"] = np.asarray(clip.times, dtype=np.float64)
    if clip.lbs_weights is not None:
        arrays["lbs_weights"] = np.asarray(clip.lbs_weights, dtype=np.float32)
    for index, person in enumerate(clip.persons):
        arrays.update({f"person_{index:03d}/{name}": value for name, value in _person_arrays(person, clip)})
    return write_arrays(path, arrays)


def read_npz(path: Path) -> Clip:
    """Reads what `write_npz` wrote, checking every name, type and shape.

    Raises:
        InputError: the file is missing, damaged, unsafe or of another schema.
    """
    own, people, sizes = read_people(path, SCHEMA, _CLIP_FIELDS, _PERSON_FIELDS, _OPTIONAL)
    if people and not indices_fit(own["faces"], sizes["V"]):
        raise InputError(f"{path}: 'faces' point outside the {sizes['V']} vertices")
    try:
        tree_levels(own["parents"].tolist())
    except ValueError as problem:
        raise InputError(f"{path}: {problem}") from None
    if own["fps"] <= 0:
        raise InputError(f"{path}: 'fps' is not positive")
    if not (np.diff(own.get("times", np.zeros(0))) > 0).all():
        raise InputError(f"{path}: 'times' do not increase")
    for index, arrays in enumerate(people):
        at_rest = "lbs_weights" in own and {"rest_vertices", "rest_joints"} <= arrays.keys()
        if str(arrays.get("side", "left")) not in ("left", "right"):
            raise InputError(f"{path}: 'person_{index:03d}/side' is neither left nor right")
        if not at_rest and "vertices" not in arrays:
            raise InputError(f"{path}: array 'person_{index:03d}/vertices' is missing")
    return _clip(own, people)


def _person_arrays(person: Person, clip: Clip) -> Iterator[tuple[str, np.ndarray]]:
    yield "track_id", np.array(person.track_id)
    yield "frames", np.asarray(person.frames, dtype=np.int64)
    at_rest = (
        isinstance(person.vertices, LazyVertices) and len(person.frames) and clip.lbs_weights is not None
    )
    if at_rest:
        yield from surface_arrays(person, clip).items()
    if person.side is not None:
        yield "side", np.array(person.side)
    left_out = {"track_id", "frames", "side", *(["vertices"] if at_rest else [])}
    for field in fields(Person):
        value = getattr(person, field.name)
        if field.name not in left_out and value is not None:
            yield field.name, np.asarray(value, dtype=np.float32)
    rotations = np.concatenate([person.global_orient, person.body_pose], axis=1)
    axis_angle = rotmat_to_axis_angle(torch.from_numpy(rotations).double()).numpy()
    yield "poses", axis_angle.reshape(len(rotations), -1).astype(np.float32)
    yield "trans", np.asarray(person.transl, dtype=np.float32)


def _clip(own: dict[str, np.ndarray], people: list[dict[str, np.ndarray]]) -> Clip:
    persons = []
    for arrays in people:
        values: dict[str, Any] = {field.name: arrays.get(field.name) for field in fields(Person)}
        values["track_id"] = int(arrays["track_id"])
        values["side"] = None if "side" not in arrays else str(arrays["side"])
        if "vertices" not in arrays:
            values["vertices"] = read_surface(arrays, own)
        persons.append(Person(**values))
    seconds = own["timing_seconds"].tolist()
    return Clip(
        persons=tuple(persons),
        faces=own["faces"],
        parents=own["parents"],
        joint_names=tuple(own["joint_names"].tolist()),
        intrinsics=own["intrinsics"],
        image_size=(int(own["image_size"][0]), int(own["image_size"][1])),
        camera_source=str(own.get("camera_source", "")),
        fps=None if np.isnan(own["fps"]) else float(own["fps"]),
        times=own.get("times"),
        source=str(own["source"]),
        body=str(own["body"]),
        model=str(own["model"]),
        lbs_weights=own.get("lbs_weights"),
        pose_fitted=bool(own.get("pose_fitted", False)),
        timings=dict(zip(own["timing_names"].tolist(), seconds, strict=True)),
    )
