"""People cut out of the frames of a video and measured by the model, many at once."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import fields
from typing import Protocol, runtime_checkable

import numpy as np
import torch
from torch import Tensor

from fasthmr.models.pose import PoseModel
from fasthmr.runtime.coco_points import coco_scores, measured_points
from fasthmr.runtime.follow import FollowedFrame, PersonInFrame
from fasthmr.runtime.intrinsics import PictureCamera
from fasthmr.runtime.left_hands import Left
from fasthmr.runtime.place import place_params
from fasthmr.runtime.pose import find_keypoints
from fasthmr.runtime.recover import MeshRecovery
from fasthmr.runtime.timing import Stopwatch
from fasthmr.runtime.tracks import PARAMS, Measured
from fasthmr.types import Crop


@runtime_checkable
class Measure(Protocol):
    """Takes frames with people in them; gives what is measured, perhaps later."""

    def push(self, followed: FollowedFrame) -> list[Measured]:
        """Takes a frame; gives what is ready."""
        ...

    def flush(self) -> list[Measured]:
        """What is not ready yet."""
        ...


class MeshMeasure:
    """Pose, shape and place of people, from crops of several frames at once.

    Args:
        batch_size: Crops to wait for; 1 for no wait.
        features: Keep the model's features, too.
    """

    def __init__(
        self,
        meshes: MeshRecovery,
        camera: PictureCamera,
        *,
        batch_size: int,
        features: bool,
        watch: Stopwatch,
    ) -> None:
        self._meshes, self._camera = meshes, camera
        self._batch_size, self._features, self._watch = batch_size, features, watch
        self._crops: list[Crop] = []
        self._frames: list[int] = []
        self._people: list[PersonInFrame] = []

    def push(self, followed: FollowedFrame) -> list[Measured]:
        if followed.people:
            with self._watch("crop"):
                boxes, left = _boxes(followed.people), _left(followed.people)
                self._crops.append(self._meshes.cut(followed.frame.rgb, boxes, left))
            self._frames += [followed.frame.index] * len(followed.people)
            self._people += followed.people
        return self.flush() if len(self._people) >= self._batch_size else []

    def flush(self) -> list[Measured]:
        if not self._people:
            return []
        frames, people = tuple(self._frames), tuple(self._people)
        crop = Crop(**{name: torch.cat([getattr(c, name) for c in self._crops]) for name in _CROP})
        self._crops, self._frames, self._people = [], [], []
        with self._watch("model"):
            output = self._meshes.run(crop, _boxes(people), self._camera, _left(people))
        with self._watch("body"):
            params = place_params(output, crop, self._camera, self._meshes.params_body)
            values = {name: _array(getattr(params, name)) for name in PARAMS}
            points = measured_points(output, crop)
            if points is not None:
                values["keypoints_2d"] = _array(points)
            scores = coco_scores(output)
            if scores is not None:
                values["keypoint_scores"] = _array(scores)
            if self._features and output.features is not None:
                values["features"] = _array(output.features).astype(np.float16)
        return [Measured(frames=frames, people=people, values=values)]


class PoseMeasure:
    """COCO's 17 keypoints of people, frame by frame."""

    def __init__(self, model: PoseModel, *, batch_size: int, device: torch.device, watch: Stopwatch) -> None:
        self._model, self._batch_size, self._device, self._watch = model, batch_size, device, watch

    def push(self, followed: FollowedFrame) -> list[Measured]:
        people = followed.people
        if not people:
            return []
        points = find_keypoints(
            self._model, followed.frame.rgb, _boxes(people), self._batch_size, self._device, self._watch
        )
        frames = (followed.frame.index,) * len(people)
        return [Measured(frames=frames, people=people, values={"keypoints_2d": _array(points)})]

    def flush(self) -> list[Measured]:
        return []


_CROP = tuple(field.name for field in fields(Crop))


def _boxes(people: Sequence[PersonInFrame]) -> Tensor:
    return torch.tensor([person.box_xyxy for person in people])


def _left(people: Sequence[PersonInFrame]) -> Left | None:
    """Which are left hands, if they are hands."""
    sides = [person.left for person in people if person.left is not None]
    return torch.tensor(sides) if sides else None


def _array(values: Tensor) -> np.ndarray:
    return values.detach().float().cpu().numpy()
