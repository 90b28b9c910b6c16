"""Colours that tell people apart, the same in every output."""

from __future__ import annotations

# Clay tones of about equal lightness, neighbours far apart in hue; linear RGB.
_TONES = (
    (0.72, 0.50, 0.38),
    (0.33, 0.54, 0.76),
    (0.50, 0.66, 0.36),
    (0.76, 0.57, 0.25),
    (0.59, 0.44, 0.71),
    (0.30, 0.65, 0.60),
    (0.78, 0.43, 0.50),
    (0.58, 0.60, 0.62),
)


def person_color(index: int) -> tuple[float, float, float]:
    """Linear RGB 0..1 for a person; repeats after eight."""
    return _TONES[index % len(_TONES)]
