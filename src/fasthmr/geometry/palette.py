"""Colours that tell people apart, the same in every output."""

from __future__ import annotations

# Clay tones of about equal lightness, neighbours far apart in hue; linear RGB.
_TONES = (
    (0.52, 0.34, 0.25),
    (0.22, 0.37, 0.52),
    (0.34, 0.46, 0.24),
    (0.53, 0.39, 0.16),
    (0.40, 0.29, 0.48),
    (0.20, 0.45, 0.42),
    (0.55, 0.29, 0.34),
    (0.37, 0.38, 0.40),
)


def person_color(index: int) -> tuple[float, float, float]:
    """Linear RGB 0..1 for a person; repeats after eight."""
    return _TONES[index % len(_TONES)]
