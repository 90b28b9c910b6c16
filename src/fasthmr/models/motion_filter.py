"""A motion decoder as a filter of tracks of any length and frame rate."""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass
from typing import ClassVar

import torch
from jaxtyping import Float
from torch import Tensor

from fasthmr.models.motion_decoder import MotionDecoder
from fasthmr.temporal.representation import sample_frames
from fasthmr.temporal.smoothing import median_shape
from fasthmr.temporal.windows import frame_places
from fasthmr.types import BodyParams, MotionTrack

FRAME_RATE = 30.0
"""Frames per second of the clips that the model was trained on."""

_RATES = (22.0, 40.0)
"""Videos with other rates are brought to `FRAME_RATE` and back; training warps time by as much."""

_SHORTEST = 9


@dataclass(frozen=True, kw_only=True, eq=False)
class DecoderFilter:
    """A motion filter: a decoder between the records of a track.

    Attributes:
        takes_features: What tells a pipeline to hand over the features of the image model.
    """

    decoder: MotionDecoder
    takes_features: ClassVar[bool] = True

    def __call__(self, track: MotionTrack) -> MotionTrack:
        """The smooth motion of a track; times, boxes, scores and features stay as they are."""
        decoder, params = self.decoder, track.params
        if len(track.times) < 2:
            return track
        assert params.transl is not None
        with torch.no_grad():
            betas = median_shape(params.betas)
            there, back = _even_times(track.times)
            numbers = decoder.frame_numbers(track)
            poses = decoder.poses(numbers if there is None else sample_frames(numbers, there))
            poses = poses if back is None else sample_frames(poses.flatten(1), back).unflatten(1, (2, -1))
            rotmats = decoder.rotations(poses, decoder.known_betas(betas))
            moved = BodyParams(
                global_orient=rotmats[:, :1],
                body_pose=rotmats[:, 1:],
                betas=betas,
                transl=decoder.config.place.place(params.transl, track.times),
            )
        return dataclasses.replace(track, params=moved)


def _even_times(
    times: Float[Tensor, "frames"],
) -> tuple[Float[Tensor, "even"] | None, Float[Tensor, "frames"] | None]:
    """Where frames at `FRAME_RATE` lie among those given, and the other way; None where those will do."""
    steps = times.diff().double()
    rate = 1 / steps.median().clamp(min=1e-6)
    steady = bool((steps.max() < 1.5 * steps.median()) & (rate > _RATES[0]) & (rate < _RATES[1]))
    if steady:
        return None, None
    seconds = (times - times[0]).double()
    count = max(round(float(seconds[-1]) * FRAME_RATE) + 1, _SHORTEST)
    even = torch.linspace(0, float(seconds[-1]), count, dtype=torch.float64)
    return frame_places(seconds, even), seconds / seconds[-1].clamp(min=1e-9) * (count - 1)
