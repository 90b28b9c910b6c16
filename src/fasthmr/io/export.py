"""Chooses the writer of a result by the suffix of its file, and its reader by the schema inside."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import TypeVar

from fasthmr.errors import InputError, UsageError
from fasthmr.io.bvh import write_bvh
from fasthmr.io.coco_json import write_coco_json
from fasthmr.io.glb import write_glb
from fasthmr.io.json_out import write_json
from fasthmr.io.npz import read_npz, write_npz
from fasthmr.io.obj import write_obj
from fasthmr.io.pose_npz import POSE_SCHEMA, read_pose_npz, write_pose_npz
from fasthmr.io.safe_npz import read_npz as read_arrays
from fasthmr.results import Clip, PoseClip

Result = TypeVar("Result", Clip, PoseClip)

_WRITERS: dict[str, Callable[[Clip, Path], Path]] = {
    ".glb": write_glb,
    ".npz": write_npz,
    ".bvh": write_bvh,
    ".obj": write_obj,
    ".json": write_json,
}
_POSE_WRITERS: dict[str, Callable[[PoseClip, Path], Path]] = {
    ".json": write_coco_json,
    ".npz": write_pose_npz,
}


def save_clip(clip: Clip, path: Path) -> Path:
    """Writes a clip in the format of the suffix.

    Raises:
        UsageError: the suffix is not supported, or the format cannot hold this clip.
        ResourceError: the disk is full or the place cannot be written.
    """
    return _save(clip, path, _WRITERS, "results")


def save_pose_clip(clip: PoseClip, path: Path) -> Path:
    """Writes 2D keypoints in the format of the suffix.

    Raises:
        UsageError: the suffix is not supported.
        ResourceError: the disk is full or the place cannot be written.
    """
    return _save(clip, path, _POSE_WRITERS, "keypoints")


def load_result(path: Path) -> Clip | PoseClip:
    """Reads a result file (.npz) of either kind.

    Raises:
        InputError: the file is missing, damaged or no result.
    """
    if not path.is_file():
        raise InputError(f"{path}: no such file")
    schema = read_arrays(path, wanted=("schema",), error=InputError).get("schema")
    return read_pose_npz(path) if str(schema) == POSE_SCHEMA else read_npz(path)


def _save(
    result: Result, path: Path, writers: Mapping[str, Callable[[Result, Path], Path]], what: str
) -> Path:
    writer = writers.get(path.suffix.lower())
    if writer is None:
        known = ", ".join(writers)
        raise UsageError(f"{path}: {what} are saved as {known}, not as '{path.suffix}'")
    return writer(result, path)
