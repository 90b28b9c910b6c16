"""The people of a video as result records, each with a smooth motion."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

import numpy as np
import torch

from fasthmr.body.skeletons import COCO17_NAMES
from fasthmr.evaluation.coco import rescore
from fasthmr.models.pose import PoseModel
from fasthmr.results import Clip, Person, PoseClip, PosePerson
from fasthmr.runtime.record import Recording
from fasthmr.runtime.recover import no_keypoints
from fasthmr.runtime.timing import Stopwatch
from fasthmr.runtime.tracks import CocoPoints, PersonMaker, smooth_motion
from fasthmr.runtime.video_options import VideoOptions

if TYPE_CHECKING:
    from fasthmr.runtime.pipeline import Pipeline


def as_clip(
    pipeline: Pipeline, recording: Recording, options: VideoOptions, watch: Stopwatch, source: str
) -> Clip | PoseClip:
    """The people of a recording, each with a smooth motion."""
    tracks = list(recording.table.people(recording.looks))
    if isinstance(pipeline.model, PoseModel):
        points = [_pose_person(number, rows) for number, rows in enumerate(tracks)]
        return _pose_clip(pipeline, recording, points, watch, source)
    meshes = pipeline.meshes
    maker = PersonMaker(
        params_body=meshes.params_body,
        body=meshes.body,
        coco=CocoPoints(meshes.body),
        camera=recording.camera,
        source=source,
    )
    smooth = options.motion_filter()
    persons = []
    for number, rows in enumerate(tracks):
        with watch("smooth"), torch.inference_mode():
            params = smooth_motion(rows, recording.times, smooth)
        with watch("body"):
            persons.append(maker(number, rows, params))
    if pipeline.task == "pose":
        points = [_points_of(person, meshes.body.name) for person in persons]
        return _pose_clip(pipeline, recording, points, watch, source)
    body, frames = meshes.body, len(recording.times)
    return Clip(
        persons=tuple(persons),
        faces=body.faces.cpu().numpy(),
        parents=body.parents.cpu().numpy(),
        joint_names=tuple(body.joint_names),
        intrinsics=np.tile(recording.camera.K.numpy(), (frames, 1, 1)),
        image_size=recording.size,
        camera_source=recording.camera.source,
        fps=recording.fps,
        times=recording.times,
        source=source,
        body=body.name,
        model=pipeline.model_name,
        lbs_weights=body.lbs_weights.cpu().numpy(),
        pose_fitted=meshes.fits_pose,
        timings=dict(watch.seconds),
    )


def _pose_person(number: int, rows: Mapping[str, np.ndarray]) -> PosePerson:
    points = rows["keypoints_2d"]
    scores = rescore(torch.from_numpy(points[..., 2]), torch.from_numpy(rows["scores"]))
    return PosePerson(
        track_id=number,
        frames=rows["frames"].copy(),
        boxes_xyxy=rows["boxes_xyxy"].copy(),
        scores=scores.numpy(),
        keypoints_2d=points.copy(),
    )


def _points_of(person: Person, body: str) -> PosePerson:
    if person.keypoints_2d is None:
        raise no_keypoints(body)
    rows = {
        "frames": person.frames,
        "boxes_xyxy": person.boxes_xyxy,
        "scores": person.scores,
        "keypoints_2d": person.keypoints_2d,
    }
    return _pose_person(person.track_id, rows)


def _pose_clip(
    pipeline: Pipeline,
    recording: Recording,
    persons: Sequence[PosePerson],
    watch: Stopwatch,
    source: str,
) -> PoseClip:
    return PoseClip(
        persons=tuple(persons),
        keypoint_names=COCO17_NAMES,
        image_ids=np.arange(len(recording.times)),
        image_size=recording.size,
        fps=recording.fps,
        source=source,
        model=pipeline.model_name,
        timings=dict(watch.seconds),
    )
