"""The people of a video as result records, each with a smooth motion."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

import numpy as np
import torch
from jaxtyping import Float

from fasthmr.body.skeletons import COCO17_NAMES
from fasthmr.evaluation.coco import rescore
from fasthmr.models.pose import PoseModel
from fasthmr.results import Clip, Person, PoseClip, PosePerson
from fasthmr.runtime.coco_points import no_keypoints
from fasthmr.runtime.intrinsics import PictureCamera
from fasthmr.runtime.record import Recording
from fasthmr.runtime.timing import Stopwatch
from fasthmr.runtime.tracks import CocoPoints, PersonMaker, smooth_motion
from fasthmr.runtime.video_options import VideoOptions
from fasthmr.types import BodyParams

if TYPE_CHECKING:
    from fasthmr.runtime.pipeline import Pipeline


def as_clip(
    pipeline: Pipeline, recording: Recording, options: VideoOptions, watch: Stopwatch, source: str
) -> Clip | PoseClip:
    """The people of a recording, each with a smooth motion."""
    make = ClipMaker(pipeline, recording.camera, recording.size, source)
    smooth = options.motion_filter()
    persons = []
    for number, rows in enumerate(recording.table.people(recording.looks)):
        params = None
        if make.poses:
            with watch("smooth"), torch.inference_mode():
                params = smooth_motion(rows, recording.times, smooth)
        with watch("body"):
            persons.append(make.person(number, rows, params))
    return make.clip(persons, watch, times=recording.times, fps=recording.fps)


class ClipMaker:
    """Makes result records of one video, of all its frames or of a single one.

    Attributes:
        poses: Whether people have poses at all, beside 2D keypoints.
    """

    def __init__(self, pipeline: Pipeline, camera: PictureCamera, size: tuple[int, int], source: str) -> None:
        self._pipeline, self._camera, self._size, self._source = pipeline, camera, size, source
        self.poses = not isinstance(pipeline.model, PoseModel)
        meshes = pipeline.meshes
        self._maker = None
        if self.poses:
            self._maker = PersonMaker(
                params_body=meshes.params_body,
                body=meshes.body,
                left_body=meshes.left_body,
                coco=CocoPoints(meshes.body),
                camera=camera,
                source=source,
            )

    def person(
        self, number: int, rows: Mapping[str, np.ndarray], params: BodyParams | None
    ) -> Person | PosePerson:
        """One person; arguments as for `PersonMaker`, whose motion is None without poses.

        Raises:
            UnsafeFileError: The model gave numbers that are not finite.
            UsageError: Keypoints are asked for and nobody knows them.
        """
        if self._maker is None or params is None:
            return _pose_person(number, rows)
        person = self._maker(number, rows, params)
        return person if self._pipeline.task == "mesh" else _points_of(person, self._pipeline.body.name)

    def clip(
        self,
        persons: Sequence[Person | PosePerson],
        watch: Stopwatch,
        times: Float[np.ndarray, "frames"] | None = None,
        fps: float | None = None,
    ) -> Clip | PoseClip:
        """A clip; of one frame without `times`."""
        frames = 1 if times is None else len(times)
        pipeline, body = self._pipeline, self._pipeline.body
        if pipeline.task == "pose":
            return PoseClip(
                persons=tuple(person for person in persons if isinstance(person, PosePerson)),
                keypoint_names=COCO17_NAMES,
                image_ids=np.arange(frames),
                image_size=self._size,
                fps=fps,
                source=self._source,
                model=pipeline.model_name,
                timings=dict(watch.seconds),
            )
        return Clip(
            persons=tuple(person for person in persons if isinstance(person, Person)),
            faces=body.faces.cpu().numpy(),
            parents=body.parents.cpu().numpy(),
            joint_names=tuple(body.joint_names),
            intrinsics=np.tile(self._camera.K.numpy(), (frames, 1, 1)),
            image_size=self._size,
            camera_source=self._camera.source,
            fps=fps,
            times=times,
            source=self._source,
            body=body.name,
            model=pipeline.model_name,
            lbs_weights=body.lbs_weights.cpu().numpy(),
            pose_fitted=pipeline.meshes.fits_pose,
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
