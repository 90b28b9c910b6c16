"""What was measured of each person through a video, and how it becomes a smooth motion."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import pairwise

import numpy as np
import torch
from jaxtyping import Float, Int
from torch import Tensor

from fasthmr.body.keypoints import KeypointBody
from fasthmr.body.lbs import BodyModel
from fasthmr.body.posed import lazy_vertices
from fasthmr.body.skeletons import COCO17_NAMES
from fasthmr.geometry.cameras import project
from fasthmr.results import Person
from fasthmr.runtime.follow import PersonInFrame
from fasthmr.runtime.intrinsics import PictureCamera
from fasthmr.runtime.place import as_shown, in_pieces
from fasthmr.runtime.recover import not_finite, side_of
from fasthmr.types import BodyParams, MotionTrack

MotionFilter = Callable[[MotionTrack], MotionTrack]
"""Smooths one person's motion through consecutive frames; gives as many frames as it takes."""

PARAMS = tuple(field.name for field in dataclasses.fields(BodyParams))
"""Names of the tensors of `BodyParams`."""

_CERTAIN_DETECTIONS = 3  # people detected less often are taken for mistakes
_FRAMES_AT_ONCE = 64
_FIRST_ROWS = 64


@dataclass(frozen=True, kw_only=True)
class Measured:
    """What the model says about people, one row for each of them in each frame."""

    frames: tuple[int, ...]
    people: tuple[PersonInFrame, ...]
    values: Mapping[str, np.ndarray]


class TrackTable:
    """Measurements of people, kept by person; about 1 kB for each frame of each."""

    def __init__(self) -> None:
        self._tracks: dict[int, _Rows] = {}

    def add(self, parts: Iterable[Measured]) -> None:
        """Adds a row for each person; the frames of one person come in rising order."""
        for part in parts:
            for row, (frame, person) in enumerate(zip(part.frames, part.people, strict=True)):
                rows = self._tracks.setdefault(person.track_id, _Rows())
                rows.append(
                    {
                        "frames": np.int64(frame),
                        "boxes_xyxy": np.array(person.box_xyxy, dtype=np.float32),
                        "scores": np.float32(person.score),
                        "detected": np.bool_(person.sight == "detected"),
                        "expected": np.bool_(person.sight == "expected"),
                        **({} if person.left is None else {"left": np.bool_(person.left)}),
                        **{name: value[row] for name, value in part.values.items()},
                    }
                )

    def people(self, looks: int) -> Iterator[dict[str, np.ndarray]]:
        """The measurements of each person, in the order in which they came.

        Frames at the end in which a person was looked for in vain are left out, and so are people who were
        detected too seldom.

        Args:
            looks: Frames in which people were looked for at all.
        """
        enough = min(_CERTAIN_DETECTIONS, max(1, looks // 2))
        for rows in sorted(self._tracks.values(), key=lambda rows: int(rows["frames"][0])):
            if rows["detected"].sum() < enough:
                continue
            end = int(np.flatnonzero(~rows["expected"])[-1]) + 1
            yield {name: rows[name][:end] for name in rows.names}


class _Rows:
    """Arrays that grow, each by doubling its memory."""

    def __init__(self) -> None:
        self._arrays: dict[str, np.ndarray] = {}
        self._count = 0

    @property
    def names(self) -> tuple[str, ...]:
        return tuple(self._arrays)

    def append(self, row: Mapping[str, np.ndarray | np.generic]) -> None:
        for name, value in row.items():
            array = self._arrays.get(name)
            if array is None:
                array = np.empty((_FIRST_ROWS, *value.shape), dtype=value.dtype)
            elif len(array) == self._count:
                array = np.concatenate([array, np.empty_like(array)])
            array[self._count] = value
            self._arrays[name] = array
        self._count += 1

    def __getitem__(self, name: str) -> np.ndarray:
        return self._arrays[name][: self._count]


def smooth_motion(
    rows: Mapping[str, np.ndarray], times: Float[np.ndarray, "clip_frames"], smooth: MotionFilter | None
) -> BodyParams:
    """The motion of one person, each run of consecutive frames filtered on its own.

    Args:
        rows: Measurements, see `TrackTable.people`.
        times: Of all frames of the clip, seconds.
    """
    tensors = {name: torch.from_numpy(value) for name, value in rows.items()}
    parts = []
    for run in consecutive(rows["frames"]):
        track = MotionTrack(
            params=BodyParams(**{name: tensors[name][run] for name in PARAMS}),
            times=torch.from_numpy(times[rows["frames"][run]]).float(),
            boxes_xyxy=tensors["boxes_xyxy"][run],
            scores=tensors["scores"][run],
            features=tensors["features"][run].float() if "features" in tensors else None,
        )
        parts.append(track.params if smooth is None else smooth(track).params)
    return BodyParams(**{name: torch.cat([getattr(part, name) for part in parts]) for name in PARAMS})


def consecutive(frames: Int[np.ndarray, "frames"]) -> list[slice]:
    """Runs of rows in which no frame is missing."""
    bounds = [0, *(np.flatnonzero(np.diff(frames) > 1) + 1).tolist(), len(frames)]
    return [slice(start, end) for start, end in pairwise(bounds) if end > start]


@dataclass(frozen=True, kw_only=True)
class PersonMaker:
    """Makes the records of people in a video.

    Attributes:
        params_body: The body that the measured parameters mean.
        body: The body to show.
        left_body: Mirror image of it, for hands.
        coco: Points of that body.
    """

    params_body: BodyModel
    body: BodyModel
    left_body: BodyModel | None
    coco: CocoPoints
    camera: PictureCamera
    source: str

    @torch.inference_mode()
    def __call__(self, track_id: int, rows: Mapping[str, np.ndarray], params: BodyParams) -> Person:
        """One person; the surface is computed when it is asked for.

        Args:
            rows: Measurements, see `TrackTable.people`.
            params: Their motion, smoothed or not.

        Raises:
            UnsafeFileError: The model gave numbers that are not finite.
        """
        parts = [self._shown(part) for part in in_pieces(params, _FRAMES_AT_ONCE)]
        arrays = {
            name: np.concatenate([getattr(part, name).float().cpu().numpy() for part in parts])
            for name in PARAMS
        }
        if not all(np.isfinite(array).all() for array in arrays.values()):
            raise not_finite(self.source)
        left = bool(rows["left"][0]) if "left" in rows else None
        body = self.left_body if left and self.left_body is not None else self.body
        joints = np.concatenate([body.joints(part).float().cpu().numpy() for part in parts])
        return Person(
            track_id=track_id,
            frames=rows["frames"].copy(),
            boxes_xyxy=rows["boxes_xyxy"].copy(),
            scores=rows["scores"].copy(),
            vertices=lazy_vertices(body, **arrays),
            joints=joints,
            keypoints_2d=self._keypoints(rows, parts),
            side=None if left is None else side_of(left),
            **arrays,
        )

    def _shown(self, params: BodyParams) -> BodyParams:
        device = self.body.v_template.device
        moved = BodyParams(**{name: getattr(params, name).to(device) for name in PARAMS})
        return as_shown(moved, self.params_body, self.body)

    def _keypoints(self, rows: Mapping[str, np.ndarray], parts: Sequence[BodyParams]) -> np.ndarray | None:
        """Those of the model's heat maps, if they are COCO's; else those of the body, where it has them."""
        measured = rows.get("keypoints_2d")
        if measured is not None:
            return measured.copy()
        if not self.coco.known:
            return None
        xy = np.concatenate([self.coco(part, self.camera).numpy() for part in parts])
        scores = rows.get("keypoint_scores")
        if scores is None:
            scores = np.broadcast_to(rows["scores"][:, None], xy.shape[:2])
        return np.concatenate([xy, scores[..., None]], axis=-1).astype(np.float32)


class CocoPoints:
    """COCO-17 points of a posed body in the picture."""

    def __init__(self, body: BodyModel) -> None:
        self._body = body
        self._rows = [body.keypoint_names.index(name) for name in COCO17_NAMES if name in body.keypoint_names]
        self.known = len(self._rows) == len(COCO17_NAMES)
        self._quick = KeypointBody(body, self._rows) if self.known and body.posedirs is None else None

    def __call__(self, params: BodyParams, camera: PictureCamera) -> Float[Tensor, "frames 17 2"]:
        """Pixels; the body must know these points."""
        if self._quick is None:
            points = self._body.keypoints(self._body(params).vertices)[..., self._rows, :]
        else:
            points = self._quick(params)[..., self._body.num_joints :, :]
        points = points.double().cpu()
        return project(points, camera.K.expand(len(points), 3, 3))
