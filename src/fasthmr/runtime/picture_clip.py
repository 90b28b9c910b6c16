"""The people of a picture as result records."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from fasthmr.body.skeletons import COCO17_NAMES
from fasthmr.models.pose import PoseModel
from fasthmr.results import Clip, PoseClip, PosePerson
from fasthmr.runtime.intrinsics import Picture, PictureCamera
from fasthmr.runtime.pose import as_pose_persons, find_keypoints
from fasthmr.runtime.sources import picture_number
from fasthmr.runtime.timing import Stopwatch
from fasthmr.types import Detections

if TYPE_CHECKING:
    from fasthmr.runtime.pipeline import Pipeline


def mesh_clip(
    pipeline: Pipeline,
    rgb: Picture,
    people: Detections,
    path: Path | None,
    camera: PictureCamera | None,
    watch: Stopwatch,
) -> Clip:
    """A body or hand for every detection; nobody is a valid result.

    Args:
        path: Of the picture, where it has one.
        camera: Of the picture; found out if not given.
    """
    camera = camera or _camera(pipeline, rgb, path, watch)
    source, meshes, body = str(path or "picture"), pipeline.meshes, pipeline.body
    return Clip(
        persons=meshes.persons(rgb, people, camera, watch, source) if len(people.scores) else (),
        faces=body.faces.cpu().numpy(),
        parents=body.parents.cpu().numpy(),
        joint_names=tuple(body.joint_names),
        intrinsics=camera.K[None].numpy(),
        image_size=(rgb.shape[1], rgb.shape[0]),
        camera_source=camera.source,
        source=path.name if path else "",
        body=body.name,
        model=pipeline.model_name,
        lbs_weights=body.lbs_weights.cpu().numpy(),
        pose_fitted=meshes.fits_pose,
        timings=dict(watch.seconds),
    )


def pose_clip(
    pipeline: Pipeline,
    rgb: Picture,
    people: Detections,
    path: Path | None,
    camera: PictureCamera | None,
    image_id: int | None,
    watch: Stopwatch,
) -> PoseClip:
    """COCO's keypoints for every detection; arguments as for `mesh_clip` and `Pipeline.recover`."""
    model = pipeline.model
    persons: tuple[PosePerson, ...] = ()
    if len(people.scores):
        if isinstance(model, PoseModel):
            boxes = people.boxes_xyxy
            points = find_keypoints(model, rgb, boxes, pipeline.batch_size, pipeline.device, watch)
        else:
            camera = camera or _camera(pipeline, rgb, path, watch)
            points = pipeline.meshes.keypoints(rgb, people, camera, watch)
        persons = as_pose_persons(people, points, str(path or "picture"))
    number = picture_number(path) if image_id is None and path is not None else image_id
    return PoseClip(
        persons=persons,
        keypoint_names=COCO17_NAMES,
        image_ids=np.array([number or 0], dtype=np.int64),
        image_size=(rgb.shape[1], rgb.shape[0]),
        source=path.name if path else "",
        model=pipeline.model_name,
        timings=dict(watch.seconds),
    )


def _camera(pipeline: Pipeline, rgb: Picture, path: Path | None, watch: Stopwatch) -> PictureCamera:
    with watch("camera"):
        return pipeline.cameras.for_picture(rgb, path)
