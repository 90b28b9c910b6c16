"""What a camera does to the frames of a synthetic clip: exposure, blur, grain, streaks, edges."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from jaxtyping import Float, UInt8

from fasthmr.data.finish import exposure_table

_LONGEST_STREAK = 24.0


@dataclass(frozen=True, kw_only=True, eq=False)
class Film:
    """What a camera does to every frame alike.

    Attributes:
        blur: Standard deviation in crop pixels, 0 for none.
        grain: Noise picture, larger than a frame; every frame takes another part of it.
        shutter: Share of the frame's time during which light comes in; a passing background is blurred.
        quality: JPEG quality.
    """

    table: UInt8[np.ndarray, "256 1 3"] | None
    blur: float
    grain: np.ndarray | None
    shutter: float
    quality: int


def sample_film(size: tuple[int, int], rng: np.random.Generator) -> Film:
    exposed, blurred, noisy = rng.random(3)
    table = exposure_table(rng)
    blur = rng.uniform(0.3, 0.9) * size[0] / 160
    sigma = rng.uniform(1.0, 6.0)
    grain = rng.normal(size=(size[0] + 64, size[1] + 64, 3))
    if rng.random() < 0.5:
        grain = grain[..., :1] + 0.3 * grain
    return Film(
        table=table if exposed < 0.6 else None,
        blur=blur if blurred < 0.4 else 0.0,
        grain=np.round(sigma * grain).astype(np.int16) if noisy < 0.5 else None,
        shutter=rng.uniform(0.1, 0.6),
        quality=int(rng.integers(70, 96)),
    )


def developed(rgb: np.ndarray, film: Film, rng: np.random.Generator) -> np.ndarray:
    """Exposure, blur and grain of one frame."""
    import cv2

    if film.table is not None:
        rgb = cv2.LUT(rgb, film.table)
    if film.blur:
        rgb = cv2.GaussianBlur(rgb, (0, 0), film.blur)
    if film.grain is not None:
        top, left = rng.integers(64, size=2)
        grain = film.grain[top : top + rgb.shape[0], left : left + rgb.shape[1]]
        rgb = np.clip(rgb + grain, 0, 255).astype(np.uint8)
    return rgb


def streaked(
    background: UInt8[np.ndarray, "height width 3"], way: Float[np.ndarray, "2"]
) -> UInt8[np.ndarray, "height width 3"]:
    """Blur a background along the way (pixels) it goes while the shutter is open."""
    import cv2

    length = float(np.hypot(*way))
    if length < 0.8:
        return background
    half = int(np.ceil(min(length, _LONGEST_STREAK) / 2))
    kernel = np.zeros((2 * half + 1, 2 * half + 1), dtype=np.float32)
    step = way / length * min(length, _LONGEST_STREAK) / 2
    for share in np.linspace(-1, 1, 4 * half + 1):
        x, y = np.round(half + share * step).astype(int)
        kernel[y, x] += 1
    return cv2.filter2D(background, -1, kernel / kernel.sum(), borderType=cv2.BORDER_REFLECT_101)


def blacken(rgb: np.ndarray, mask: np.ndarray, inside: np.ndarray) -> None:
    """Nothing is seen beyond the edges of the full picture."""
    height, width = mask.shape
    left, top = np.clip(np.ceil(inside[:2]), 0, [width, height]).astype(int)
    right, bottom = np.clip(np.floor(inside[2:]) + 1, 0, [width, height]).astype(int)
    for part in (rgb, mask):
        part[:top], part[bottom:], part[:, :left], part[:, right:] = 0, 0, 0, 0
