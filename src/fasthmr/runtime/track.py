"""Who is who from frame to frame: boxes of people joined to tracks.

After ByteTrack (arXiv 2110.06864: certain detections first, then doubtful ones for the tracks that are left)
and OC-SORT (arXiv 2203.14360: directions between sightings, a second try around the last sighting, a straight
re-update after a gap). Everything is in seconds, so frame rates may vary and detections may come every few
frames only.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
import torch
from jaxtyping import Bool, Float, Int

from fasthmr.geometry.boxes import box_iou
from fasthmr.runtime.box_motion import BoxStates, follow, from_xyxy, predict, start, to_xyxy
from fasthmr.types import Detections

_SPREAD = 0.25  # of the box at each side, when looking around a track
_SURE = 3  # detections
_OF_TRACKS = ("_ids", "_scores", "_last", "_before", "_seen_s", "_before_s", "_certain_s", "_missed", "_hits")
_DIRECTION_S = 0.3  # of the past that tells where somebody is heading


@dataclass(frozen=True, kw_only=True)
class TrackerConfig:
    """What counts as the same person.

    Attributes:
        new_score: Detections above it start tracks; in a video there is time to wait for one.
        high_score: Certain detections lie above it and are looked at first.
        low_score: Those below are ignored; in between they only continue tracks.
        min_iou: Least overlap of a certain detection with where a track is expected.
        min_iou_low: The same for doubtful detections.
        max_growth: A person is at most so many times as high as expected, or as low. A larger jump is
            something else that stands there.
        direction_weight: What a turn by 180 degrees costs, in overlap.
        confirm: Detections after which a track is given.
        doubt_s: For so long after the last certain detection doubtful ones continue a track; what looks a
            little like a person does so for ever.
        coast_s: Expected boxes are given for this long after the last detection.
        keep_s: A track is taken up again for this long; one of fewer than three detections for `coast_s`.
        max_boxes: Of the best detections that are looked at; the assignment takes time with their cube.
        exact: Give detections as they are; otherwise they are smoothed.
    """

    new_score: float = 0.4
    high_score: float = 0.33
    low_score: float = 0.1
    min_iou: float = 0.2
    min_iou_low: float = 0.4
    max_growth: float = 1.65
    direction_weight: float = 0.2
    confirm: int = 1
    doubt_s: float = 2.0
    coast_s: float = 0.5
    keep_s: float = 2.0
    max_boxes: int = 500
    exact: bool = False

    def __post_init__(self) -> None:
        if self.max_growth < 1:
            raise ValueError(f"TrackerConfig: max_growth={self.max_growth}; needed: 1 or more")
        if not 0 <= self.low_score <= self.high_score <= self.new_score:
            raise ValueError(
                f"TrackerConfig: low_score={self.low_score}, high_score={self.high_score} and "
                f"new_score={self.new_score} do not rise"
            )


@dataclass(frozen=True, kw_only=True)
class TrackedBox:
    """A person in one frame.

    Attributes:
        track_id: The same for one person throughout, from 0 on.
        score: Of the detection; 0 without one.
        detected: Whether a detection says so, or only the way the person moved before.
    """

    track_id: int
    box_xyxy: tuple[float, float, float, float]
    score: float
    detected: bool


class Tracker:
    """Joins detections to tracks, frame by frame."""

    def __init__(self, config: TrackerConfig | None = None) -> None:
        self.config = config or TrackerConfig()
        self._now = -math.inf
        self._next_id = 0
        self._states = start(np.zeros((0, 4)))  # at the last sighting
        self._ids = np.zeros(0, dtype=np.int64)
        self._scores = np.zeros(0)
        self._last = np.zeros((0, 4))  # what was measured then
        self._seen_s = np.zeros(0)
        self._certain_s = np.zeros(0)  # of the last certain detection
        self._missed = np.zeros(0, dtype=np.int64)  # updates with detections since
        self._hits = np.zeros(0, dtype=np.int64)
        self._before = np.zeros((0, 2))  # centre of an earlier sighting
        self._before_s = np.zeros(0)

    def update(self, detections: Detections | None, time_s: float) -> list[TrackedBox]:
        """The people in the next frame, in order of `track_id`.

        Args:
            detections: None where nobody looked.
            time_s: Of the frame, after that of the last one.

        Raises:
            ValueError: Time runs backwards.
        """
        if time_s <= self._now:
            raise ValueError(f"the frame at {time_s} s comes after one at {self._now} s")
        self._now = time_s
        detected = np.zeros(len(self._ids), dtype=bool)
        if detections is not None:
            detected = self._look(detections)
        return self._people(detected)

    def _look(self, detections: Detections) -> Bool[np.ndarray, "tracks"]:
        """Takes in detections; which tracks they belong to."""
        config = self.config
        kept = slice(config.max_boxes)
        boxes = detections.boxes_xyxy[kept].detach().cpu().double().numpy()
        scores = detections.scores[kept].detach().cpu().double().numpy()
        measured = from_xyxy(boxes)
        certain = scores >= config.high_score
        doubtful = ~certain & (scores >= config.low_score)

        predicted = self._predicted().position
        expected = to_xyxy(predicted)
        growth = np.abs(np.log(measured[None, :, 3] / predicted[:, None, 3]))
        alike = growth <= math.log(config.max_growth)
        match = np.full(len(self._ids), -1)  # detection of each track
        overlap = _overlaps(expected, boxes)
        gain = overlap - config.direction_weight * self._turns(measured)
        self._assign(match, gain, alike & (overlap >= config.min_iou), certain)
        active = self._now - self._seen_s <= config.coast_s
        active &= self._now - self._certain_s <= config.doubt_s
        self._assign(match, overlap, alike & (overlap >= config.min_iou_low) & active[:, None], doubtful)
        around = np.maximum(
            *(_overlaps(_spread(near), _spread(boxes)) for near in (to_xyxy(self._last), expected))
        )
        self._assign(match, around, alike & (around >= config.min_iou), certain)

        found = match >= 0
        self._sight(np.flatnonzero(found), measured[match[found]], scores[match[found]])
        self._missed[~found] += 1
        taken = np.zeros(len(boxes), dtype=bool)
        taken[match[found]] = True
        lost = self._now - self._seen_s > np.where(self._hits < _SURE, config.coast_s, config.keep_s)
        self._keep(~lost)
        new = np.flatnonzero((scores >= config.new_score) & ~taken)
        self._add(measured[new], scores[new])
        return np.concatenate([found[~lost], np.ones(len(new), dtype=bool)])

    def _assign(
        self,
        match: Int[np.ndarray, "tracks"],
        gain: Float[np.ndarray, "tracks boxes"],
        allowed: Bool[np.ndarray, "tracks boxes"],
        boxes: Bool[np.ndarray, "boxes"],
    ) -> None:
        """Gives free tracks some of the free boxes, such that the sum of gains is largest; in place."""
        from scipy.optimize import linear_sum_assignment

        free = boxes.copy()
        free[match[match >= 0]] = False
        rows, columns = np.flatnonzero(match < 0), np.flatnonzero(free)
        fits = allowed[np.ix_(rows, columns)]
        if not fits.any():
            return
        value = np.where(fits, 1 + gain[np.ix_(rows, columns)], 0)
        for row, column in zip(*linear_sum_assignment(value, maximize=True), strict=True):
            if fits[row, column]:
                match[rows[row]] = columns[column]

    def _turns(self, measured: Float[np.ndarray, "boxes 4"]) -> Float[np.ndarray, "tracks boxes"]:
        """How far the way to each box turns from the way a track went before, 0..1 for 0..180 degrees."""
        went = self._last[:, :2] - self._before
        way = measured[None, :, :2] - self._last[:, None, :2]
        length = np.linalg.norm(went, axis=-1)[:, None] * np.linalg.norm(way, axis=-1)
        # Too short a way has no direction; heights make it the same near and far.
        clear = length > (0.1 * self._last[:, None, 3]) ** 2
        cosine = (went[:, None] * way).sum(-1) / np.maximum(length, 1e-9)
        return np.where(clear, np.arccos(np.clip(cosine, -1, 1)) / np.pi, 0.0)

    def _sight(
        self,
        tracks: Int[np.ndarray, "found"],
        measured: Float[np.ndarray, "found 4"],
        scores: Float[np.ndarray, "found"],
    ) -> None:
        seconds = self._now - self._seen_s[tracks]
        now = follow(
            self._states.take(tracks), self._last[tracks], measured, seconds, self._missed[tracks] + 1
        )
        self._states.position[tracks] = now.position
        self._states.velocity[tracks] = now.velocity
        self._states.covariance[tracks] = now.covariance
        old = tracks[self._now - self._before_s[tracks] > _DIRECTION_S]
        self._before[old], self._before_s[old] = self._last[old, :2], self._seen_s[old]
        self._last[tracks], self._scores[tracks], self._seen_s[tracks] = measured, scores, self._now
        self._certain_s[tracks[scores >= self.config.high_score]] = self._now
        self._missed[tracks] = 0
        self._hits[tracks] += 1

    def _add(self, measured: Float[np.ndarray, "new 4"], scores: Float[np.ndarray, "new"]) -> None:
        count = len(measured)
        self._states = self._states.join(start(measured))
        self._ids = np.concatenate([self._ids, self._next_id + np.arange(count)])
        self._next_id += count
        self._scores = np.concatenate([self._scores, scores])
        self._last = np.concatenate([self._last, measured])
        self._before = np.concatenate([self._before, measured[:, :2]])
        self._seen_s = np.concatenate([self._seen_s, np.full(count, self._now)])
        self._before_s = np.concatenate([self._before_s, np.full(count, self._now)])
        self._certain_s = np.concatenate([self._certain_s, np.full(count, self._now)])
        self._missed = np.concatenate([self._missed, np.zeros(count, dtype=np.int64)])
        self._hits = np.concatenate([self._hits, np.ones(count, dtype=np.int64)])

    def _keep(self, kept: Bool[np.ndarray, "tracks"]) -> None:
        self._states = self._states.take(kept)
        for name in _OF_TRACKS:
            setattr(self, name, getattr(self, name)[kept])

    def _predicted(self) -> BoxStates:
        return predict(self._states, self._now - self._seen_s)

    def _people(self, detected: Bool[np.ndarray, "tracks"]) -> list[TrackedBox]:
        places = self._predicted().position
        if self.config.exact:
            places = np.where(detected[:, None], self._last, places)
        boxes = to_xyxy(places).tolist()
        shown = detected | (self._now - self._seen_s <= self.config.coast_s)
        shown &= self._hits >= self.config.confirm
        return [
            TrackedBox(
                track_id=int(self._ids[i]),
                box_xyxy=tuple(boxes[i]),
                score=float(self._scores[i]) if detected[i] else 0.0,
                detected=bool(detected[i]),
            )
            for i in np.flatnonzero(shown).tolist()
        ]


def _overlaps(
    a: Float[np.ndarray, "tracks 4"], b: Float[np.ndarray, "boxes 4"]
) -> Float[np.ndarray, "tracks boxes"]:
    return box_iou(torch.from_numpy(a), torch.from_numpy(b)).numpy()


def _spread(boxes: Float[np.ndarray, "boxes 4"]) -> Float[np.ndarray, "boxes 4"]:
    size = boxes[:, 2:] - boxes[:, :2]
    return np.hstack([boxes[:, :2] - _SPREAD * size, boxes[:, 2:] + _SPREAD * size])
