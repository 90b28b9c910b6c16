"""The motion decoder for people who are seen live: windows that end at the newest frame.

The decoder sees the stretches of the last seconds on a fixed grid of time, so that a stretch stands for the
same frames in every window and windows that overlap agree on their latents; they also start from the same
noise. The stretch of the newest frame goes on with that frame, unread, as clips that end early do in
training.

Frames that may wait are seen by several windows and get their mean, with triangular weights. Without a wait
only one window knows a frame, at its very end, where it jitters: there a light One-Euro filter follows.
"""

from __future__ import annotations

import dataclasses
import math
from collections import deque
from dataclasses import dataclass

import torch
from jaxtyping import Float
from torch import Tensor

from fasthmr.models.motion_decoder import MotionDecoder
from fasthmr.models.motion_filter import FRAME_RATE
from fasthmr.temporal.live import LiveStep, LiveWindow
from fasthmr.temporal.representation import sample_frames
from fasthmr.temporal.smoothing import OneEuroConfig, OneEuroFilter
from fasthmr.temporal.windows import fade_weights, frame_places
from fasthmr.types import BodyParams, MotionTrack

STRETCHES = 9
"""Of a window; more of the past changes nothing that can be measured."""

_LIGHT = OneEuroConfig(rotation_min=2.0)
_PLACE_DELAY = 5  # frames of the future that make a polynomial steadier than One-Euro
_EVEN = 1e-3  # of a frame; nearer to the grid than this is on it


@dataclass(frozen=True, kw_only=True)
class _Window:
    """What one run of the decoder says.

    Attributes:
        start: Place of the first frame on the grid of time.
        newest: Place of the last frame that was known.
        poses: From `start` to the end of the stretch of `newest`.
    """

    start: int
    newest: int
    poses: Float[Tensor, "frames 2 channels"]


class LiveDecoder:
    """A `LiveFilter` of one person.

    Args:
        delay_s: Frames are taken about this many seconds after they came.
    """

    def __init__(self, decoder: MotionDecoder, delay_s: float = 0.0) -> None:
        self._decoder = decoder
        self._patch = decoder.config.denoiser.patch
        self._size = self._patch * min(STRETCHES, decoder.config.denoiser.latents)
        self._delay = round(delay_s * FRAME_RATE)
        self._hop = max((self._delay + 1) // 2, 1)
        self._start_s = 0.0
        self._times: deque[float] = deque()
        self._numbers: deque[Tensor] = deque()
        self._shapes = torch.zeros(0)
        self._count = 0
        self._windows: deque[_Window] = deque(maxlen=-(-(self._delay + 1) // self._hop) + 1)
        self._waiting: deque[MotionTrack] = deque()
        plain = LiveStep(OneEuroFilter().stepper())
        self._place = LiveWindow(self._smooth_place) if self._delay >= _PLACE_DELAY else plain
        self._limbs = LiveStep(None if self._delay else OneEuroFilter(_LIGHT).stepper())

    @torch.no_grad()
    def push(self, frame: MotionTrack) -> None:
        betas = self._decoder.known_betas(frame.params.betas)
        time = float(frame.times[0])
        if not self._count:
            self._start_s, self._shapes = time, torch.zeros_like(betas)
        self._shapes = self._shapes + betas
        self._count += 1
        shaped = dataclasses.replace(frame.params, betas=self._betas)
        self._numbers.append(self._decoder.frame_numbers(dataclasses.replace(frame, params=shaped)))
        self._times.append(time)
        self._waiting.append(frame)
        self._place.push(frame)
        first = time - (self._size + self._delay) / FRAME_RATE
        while len(self._times) > 2 and self._times[1] < first:
            self._times.popleft()
            self._numbers.popleft()

    @torch.no_grad()
    def take(self) -> BodyParams:
        frame = self._waiting.popleft()
        place = (float(frame.times[0]) - self._start_s) * FRAME_RATE
        self._decode(math.ceil(place - _EVEN))
        rotmats = self._decoder.rotations(self._poses(place)[None], self._betas)
        params = BodyParams(
            global_orient=rotmats[:, :1],
            body_pose=rotmats[:, 1:],
            betas=self._betas,
            transl=frame.params.transl,
        )
        self._limbs.push(dataclasses.replace(frame, params=params))
        return dataclasses.replace(self._limbs.take(), betas=self._betas, transl=self._place.take().transl)

    @property
    def _betas(self) -> Float[Tensor, "1 num_betas"]:
        """The mean shape so far."""
        return self._shapes / self._count

    def _smooth_place(self, track: MotionTrack) -> MotionTrack:
        assert track.params.transl is not None
        moved = self._decoder.config.place.place(track.params.transl, track.times)
        return dataclasses.replace(track, params=dataclasses.replace(track.params, transl=moved))

    def _decode(self, needed: int) -> None:
        """Runs the decoder where a frame of the grid is not known, or the last run is long ago."""
        newest = math.ceil((self._times[-1] - self._start_s) * FRAME_RATE - _EVEN)
        last = self._windows[-1].newest if self._windows else -1
        if needed <= last and newest - last < self._hop:
            return
        end = (newest // self._patch + 1) * self._patch
        start = max(end - self._size, 0)
        times = torch.tensor(self._times, dtype=torch.float64) - self._start_s
        places = frame_places(times, torch.arange(start, end, dtype=torch.float64) / FRAME_RATE)
        numbers = sample_frames(torch.cat(list(self._numbers)), places)
        poses = self._decoder(numbers[None], (torch.arange(start, end) <= newest)[None])[0]
        self._windows.append(_Window(start=start, newest=newest, poses=poses))

    def _poses(self, place: float) -> Float[Tensor, "2 channels"]:
        """Numbers at a place on the grid of time."""
        left = math.floor(place + _EVEN)
        share = place - left
        if share < _EVEN:
            return self._mean(left)
        return torch.lerp(self._mean(left), self._mean(left + 1), share)

    def _mean(self, place: int) -> Float[Tensor, "2 channels"]:
        """What the windows say that know a frame, those that know more of its future or past the more."""
        weights = fade_weights(self._delay + 1)
        known = [w for w in self._windows if w.start <= place <= w.newest]
        shares = torch.stack([weights[min(w.newest - place, self._delay)] for w in known])
        poses = torch.stack([w.poses[place - w.start] for w in known])
        return (shares[:, None, None] * poses).sum(0) / shares.sum()
