"""Plain filters for the motion of one person: One-Euro and Savitzky-Golay.

Rotations are filtered on the group of rotations, not as numbers. The place is filtered as the direction it is
seen in and the logarithm of its depth: the direction is known well and the depth badly, and a person who is
smoothed in both stays over the same pixels. The shape becomes one for the whole track.

A motion filter is any callable from a `MotionTrack` to one of the same length; these two are such.
"""

from __future__ import annotations

import dataclasses
import math
from dataclasses import dataclass

import torch
from jaxtyping import Float, Int
from torch import Tensor

from fasthmr.geometry.quaternions import quat_to_vector, turn_quat
from fasthmr.geometry.rotations import quat_wxyz_to_rotmat, rotmat_to_quat_wxyz
from fasthmr.types import BodyParams, MotionTrack

_NEAREST = 1e-2  # metres; depths below cannot be seen
_FRAMES_AT_ONCE = 256


@dataclass(frozen=True, kw_only=True)
class OneEuroConfig:
    """Cutoff frequencies in Hz: `min` at rest, plus `gain` for each unit of speed (CHI 2012, eq. 7).

    Attributes:
        rotation_min: For joints.
        rotation_gain: Per rad/s.
        place_min: For the direction that the person is seen in.
        place_gain: Per metre/s across the line of sight.
        depth_min: For the distance.
        depth_gain: Per relative change of depth in a second.
        speed_cutoff: Of the speeds themselves.
    """

    rotation_min: float = 1.0
    rotation_gain: float = 0.3
    place_min: float = 1.0
    place_gain: float = 1.0
    depth_min: float = 0.5
    depth_gain: float = 4.0
    speed_cutoff: float = 0.5

    def build(self) -> OneEuroFilter:
        return OneEuroFilter(self)


class OneEuroFilter:
    """A low-pass filter whose cutoff rises with the speed (Casiez et al., CHI 2012); sees the past only."""

    def __init__(self, config: OneEuroConfig | None = None) -> None:
        self.config = config or OneEuroConfig()

    def __call__(self, track: MotionTrack) -> MotionTrack:
        """The whole track at once; its shape is the median of all frames."""
        smooth = self.stepper()(track)
        return dataclasses.replace(
            smooth, params=dataclasses.replace(smooth.params, betas=median_shape(track.params.betas))
        )

    def stepper(self) -> OneEuroStepper:
        """The filter for a person whose frames come one after another."""
        return OneEuroStepper(self.config)


class OneEuroStepper:
    """One person's filter: each call goes on where the last one ended.

    The shape is the mean of all frames so far.
    """

    def __init__(self, config: OneEuroConfig) -> None:
        self.config = config
        self._last: _Motion | None = None
        self._raw: _Motion | None = None
        self._turning = self._moving = torch.zeros(0)
        self._shape_sum = torch.zeros(0)
        self._frames = 0

    def __call__(self, track: MotionTrack) -> MotionTrack:
        """Smooths the next frames, one or more, whose times go on from the last ones."""
        given = _Motion.of(track)
        if not len(given.times):
            return track
        smooth = []
        for index in range(len(given.times)):
            smooth.append(self._step(given.frame(index)))
        total = track.params.betas.cumsum(0) + (self._shape_sum if self._frames else 0)
        count = torch.arange(self._frames + 1, self._frames + 1 + len(total)).to(total)
        self._frames += len(total)
        self._shape_sum = total[-1]
        return _with_motion(track, _Motion.stack(smooth), total / count[:, None])

    def _step(self, now: _Motion) -> _Motion:
        if self._last is None or self._raw is None:
            self._turning = torch.zeros_like(now.quats[..., 1:])
            self._moving = torch.zeros_like(now.place)
            self._last = self._raw = now
            return now
        config = self.config
        seconds = float(now.times - self._raw.times)
        follow = _share(config.speed_cutoff, seconds)
        turn = quat_to_vector(self._raw.quats, now.quats) / seconds
        move = (now.place - self._raw.place) / seconds
        self._turning = self._turning + follow * (turn - self._turning)
        self._moving = self._moving + follow * (move - self._moving)

        depth = self._last.place[2].exp()
        across = torch.linalg.vector_norm(self._moving[:2]) * depth
        cutoff = config.rotation_min + config.rotation_gain * torch.linalg.vector_norm(self._turning, dim=-1)
        place = config.place_min + config.place_gain * across
        far = config.depth_min + config.depth_gain * self._moving[2].abs()
        share = _share(torch.stack([place, place, far]), seconds)
        way = quat_to_vector(self._last.quats, now.quats)
        self._last = _Motion(
            times=now.times,
            quats=turn_quat(self._last.quats, _share(cutoff, seconds)[..., None] * way),
            place=self._last.place + share * (now.place - self._last.place),
        )
        self._raw = now
        return self._last


@dataclass(frozen=True, kw_only=True)
class SavitzkyGolay:
    """Polynomials fitted around every frame, by its true time; looks at the past and the future.

    With evenly spaced frames this is the filter of Savitzky and Golay (Anal. Chem. 1964); at the ends the
    window is not centred.

    Attributes:
        window: Frames of each fit, odd.
        order: Of the polynomials.
    """

    window: int = 15
    order: int = 2

    def __post_init__(self) -> None:
        if self.window % 2 == 0 or not 0 <= self.order < self.window:
            raise ValueError(
                f"SavitzkyGolay: window={self.window} is not odd or not above order={self.order}"
            )

    def __call__(self, track: MotionTrack) -> MotionTrack:
        """The whole track; its shape is the median of all frames."""
        given = _Motion.of(track)
        fits = self._fits(track.times)
        if fits is None:
            return _with_motion(track, given, median_shape(track.params.betas))
        rows, weights = fits
        quats = torch.empty_like(given.quats)
        for some in torch.arange(len(rows)).split(_FRAMES_AT_ONCE):
            centre = given.quats[some]
            steps = quat_to_vector(centre[:, None], given.quats[rows[some]])
            quats[some] = turn_quat(centre, (weights[some][..., None, None] * steps).sum(1))
        place = (weights[..., None] * given.place[rows]).sum(1)
        smooth = _Motion(times=given.times, quats=quats, place=place)
        return _with_motion(track, smooth, median_shape(track.params.betas))

    def place(
        self, transl: Float[Tensor, "frames 3"], times: Float[Tensor, "frames"]
    ) -> Float[Tensor, "frames 3"]:
        """The place alone, as the filter smooths it."""
        fits = self._fits(times)
        if fits is None:
            return transl
        rows, weights = fits
        return _from_place((weights[..., None] * _to_place(transl)[rows]).sum(1))

    def _fits(
        self, times: Float[Tensor, "frames"]
    ) -> tuple[Int[Tensor, "frames size"], Float[Tensor, "frames size"]] | None:
        """The frames around each frame, and what each of them adds to it; None of too few frames."""
        frames = len(times)
        size = min(self.window, frames - (frames + 1) % 2)
        if size <= self.order:
            return None
        first = (torch.arange(frames) - size // 2).clamp(0, frames - size)
        rows = first[:, None] + torch.arange(size)
        return rows, self._weights(times[rows] - times[:, None])

    def _weights(self, seconds: Float[Tensor, "frames window"]) -> Float[Tensor, "frames window"]:
        """What each frame of a window adds to the value of the polynomial at time zero."""
        scaled = seconds.double() / seconds.abs().amax(-1, keepdim=True).clamp(min=1e-9).double()
        powers = scaled[..., None] ** torch.arange(self.order + 1)
        return torch.linalg.pinv(powers)[:, 0].to(seconds)


@dataclass(frozen=True, kw_only=True)
class _Motion:
    """What is filtered.

    Attributes:
        quats: All rotations of the body, the root's first.
        place: x / z, y / z and log z.
    """

    times: Float[Tensor, "*frames"]
    quats: Float[Tensor, "*frames joints 4"]
    place: Float[Tensor, "*frames 3"]

    @classmethod
    def of(cls, track: MotionTrack) -> _Motion:
        params = track.params
        assert params.transl is not None
        return cls(
            times=track.times,
            quats=rotmat_to_quat_wxyz(params.rotmats),
            place=_to_place(params.transl),
        )

    def frame(self, index: int) -> _Motion:
        return _Motion(times=self.times[index], quats=self.quats[index], place=self.place[index])

    @classmethod
    def stack(cls, frames: list[_Motion]) -> _Motion:
        return cls(
            times=torch.stack([frame.times for frame in frames]),
            quats=torch.stack([frame.quats for frame in frames]),
            place=torch.stack([frame.place for frame in frames]),
        )


def _with_motion(
    track: MotionTrack, motion: _Motion, betas: Float[Tensor, "frames num_betas"]
) -> MotionTrack:
    rotations = quat_wxyz_to_rotmat(motion.quats)
    params = BodyParams(
        global_orient=rotations[:, :1],
        body_pose=rotations[:, 1:],
        betas=betas,
        transl=_from_place(motion.place),
    )
    return dataclasses.replace(track, params=params)


def _to_place(transl: Float[Tensor, "frames 3"]) -> Float[Tensor, "frames 3"]:
    """x / z, y / z and log z."""
    depth = transl[:, 2:].clamp(min=_NEAREST)
    return torch.cat([transl[:, :2] / depth, depth.log()], dim=1)


def _from_place(place: Float[Tensor, "frames 3"]) -> Float[Tensor, "frames 3"]:
    depth = place[:, 2:].exp()
    return torch.cat([place[:, :2] * depth, depth], dim=1)


def median_shape(betas: Float[Tensor, "frames num_betas"]) -> Float[Tensor, "frames num_betas"]:
    """One shape for all frames."""
    if not len(betas):
        return betas
    own = betas.contiguous()  # torch 2.13 gives garbage for the median of an expanded tensor
    return own.median(0).values.expand_as(betas)


def _share(cutoff: float | Tensor, seconds: float) -> Tensor:
    """How far a low-pass filter goes towards a new value (CHI 2012, eq. 2 to 4)."""
    turned = 2 * math.pi * torch.as_tensor(cutoff) * seconds
    return turned / (1 + turned)
