"""How videos are read, and which filters of motion have a name."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from functools import cache

from fasthmr.errors import UsageError, did_you_mean
from fasthmr.models.live_decoder import LiveDecoder
from fasthmr.models.motion_decoder import MotionDecoder
from fasthmr.models.motion_filter import DecoderFilter
from fasthmr.runtime.tracks import MotionFilter
from fasthmr.temporal.live import LiveFilter, LiveStep, LiveWindow
from fasthmr.temporal.smoothing import OneEuroFilter, SavitzkyGolay
from fasthmr.zoo import create_model, pretrained_file

_DECODER = "fasthmr_motion"
_DECODED = ("fasthmr_m_fast", "fasthmr_m")
"""Image models whose features the decoder reads: the one it was trained with, and what that was made of."""


@cache
def _decoder() -> MotionFilter:
    decoder = create_model(_DECODER, pretrained=True)
    assert isinstance(decoder, MotionDecoder)
    return DecoderFilter(decoder=decoder)


SMOOTHERS: Mapping[str, Callable[[], MotionFilter] | None] = {
    "auto": SavitzkyGolay,
    "decoder": _decoder,
    "one-euro": OneEuroFilter,
    "savgol": SavitzkyGolay,
    "none": None,
}
"""Motion filters by name. The decoder needs weights that come with the package; "auto" may mean it, too."""

_LOOKS_PER_SECOND = 10
_LONGEST_DELAY_S = 5.0


@dataclass(frozen=True, kw_only=True)
class VideoOptions:
    """How videos are read.

    Attributes:
        every: Take every n-th frame only.
        max_frames: Take so many frames at most.
        detect_every: Look for people in every n-th of these frames, and follow them in between; about ten
            times a second if None.
        smooth: Name of a motion filter (`SMOOTHERS`; "auto" is the decoder for `fasthmr_m` and
            `fasthmr_m_fast`, and Savitzky-Golay for other image models), or a callable from `MotionTrack` to
            one of the same length. With an attribute `takes_features` it gets the features of the image
            model, too. Cameras and streams: see `live_filter`.
        delay: Seconds by which frames of cameras and streams may come later, so that filters see what
            follows; 0.15 is enough for the decoder.

    Raises:
        UsageError: A number is below 1, the delay is not between 0 and 5, or there is no such filter.
    """

    every: int = 1
    max_frames: int | None = None
    detect_every: int | None = None
    smooth: str | MotionFilter = "auto"
    delay: float = 0.0

    def __post_init__(self) -> None:
        for name in ("every", "max_frames", "detect_every"):
            value = getattr(self, name)
            if value is not None and value < 1:
                raise UsageError(f"{name} is {value}; needed: 1 or more")
        if not 0 <= self.delay <= _LONGEST_DELAY_S:
            raise UsageError(f"delay is {self.delay:g}; needed: 0 to {_LONGEST_DELAY_S:g} seconds")
        if isinstance(self.smooth, str) and self.smooth not in SMOOTHERS:
            known = tuple(SMOOTHERS)
            raise UsageError(
                f"unknown motion filter '{self.smooth}'{did_you_mean(self.smooth, known)}; "
                f"use {', '.join(known)}"
            )
        if self.smooth == "decoder" and pretrained_file(_DECODER) is None:
            raise UsageError(
                f"no weights of '{_DECODER}' come with the package; use another motion filter, or give a "
                "DecoderFilter of weights that `fasthmr train diffusion_decoder` made"
            )

    def for_model(self, name: str) -> VideoOptions:
        """The options for an image model: which filter "auto" means is known then."""
        if self.smooth == "auto" and name in _DECODED and pretrained_file(_DECODER) is not None:
            return replace(self, smooth="decoder")
        return self

    @property
    def takes_features(self) -> bool:
        """Whether the motion filter reads the features of the image model."""
        return self.smooth == "decoder" or bool(getattr(self.smooth, "takes_features", False))

    def looks_every(self, fps: float) -> int:
        """Frames from one detection to the next, in a video of this many frames a second."""
        return self.detect_every or max(round(fps / self.every / _LOOKS_PER_SECOND), 1)

    def motion_filter(self) -> MotionFilter | None:
        """What smooths the motion of a person, if anything."""
        if not isinstance(self.smooth, str):
            return self.smooth
        make = SMOOTHERS[self.smooth]
        return None if make is None else make()

    def live_filter(self) -> LiveFilter:
        """What smooths the motion of a person who is seen live.

        The decoder looks at windows that end at the newest frame. Other filters that need a future run again
        and again on the last frames, or are replaced by One-Euro where there is no delay.
        """
        smooth = self.motion_filter()
        if smooth is None:
            return LiveStep(None)
        if isinstance(smooth, DecoderFilter):
            return LiveDecoder(smooth.decoder, self.delay)
        if isinstance(smooth, OneEuroFilter) or not self.delay:
            chosen = smooth if isinstance(smooth, OneEuroFilter) else OneEuroFilter()
            return LiveStep(chosen.stepper())
        return LiveWindow(smooth)
