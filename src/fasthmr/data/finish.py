"""From drawn people and background to a photograph: compositing, exposure, blur, noise, JPEG."""

from __future__ import annotations

import numpy as np
from jaxtyping import Float, UInt8

from fasthmr.data.figures import Rendered


def composite(
    rendered: Rendered, background: UInt8[np.ndarray, "height width 3"]
) -> UInt8[np.ndarray, "height width 3"]:
    """Draw colour-times-coverage over the background."""
    import cv2

    uncovered = cv2.merge([255 - rendered.rgba[..., 3]] * 3)
    behind = cv2.multiply(background, uncovered, scale=1 / 255)
    return cv2.add(np.ascontiguousarray(rendered.rgba[..., :3]), behind)


def soften_background(
    background: UInt8[np.ndarray, "height width 3"], rng: np.random.Generator
) -> UInt8[np.ndarray, "height width 3"]:
    """Out-of-focus blur for a quarter of the backgrounds."""
    import cv2

    if rng.random() > 0.25:
        return background
    sigma = rng.uniform(0.5, 3.0) * background.shape[0] / 160
    return cv2.GaussianBlur(background, (0, 0), sigma)


def photograph(
    picture: UInt8[np.ndarray, "height width 3"], rng: np.random.Generator
) -> UInt8[np.ndarray, "height width 3"]:
    """Light camera effects, the same on people and background: exposure, blur, noise, JPEG."""
    import cv2

    exposed, blurred, noisy, packed = rng.random(4)
    if exposed < 0.6:
        picture = cv2.LUT(picture, exposure_table(rng))
    if blurred < 0.4:
        picture = cv2.GaussianBlur(picture, (0, 0), rng.uniform(0.3, 0.9) * picture.shape[0] / 160)
    if noisy < 0.4:
        sigma = rng.uniform(1.0, 7.0)
        noise = rng.standard_normal(picture.shape, dtype=np.float32)
        if rng.random() < 0.5:
            noise = noise[..., :1] + 0.3 * noise
        picture = np.clip(picture + sigma * noise, 0, 255).astype(np.uint8)
    if packed < 0.5:
        quality = int(rng.integers(35, 96))
        done, data = cv2.imencode(".jpg", picture[..., ::-1], [cv2.IMWRITE_JPEG_QUALITY, quality])
        unpacked = cv2.imdecode(data, cv2.IMREAD_COLOR) if done else None
        if unpacked is not None:
            picture = np.ascontiguousarray(unpacked[..., ::-1])
    return picture


def exposure_table(rng: np.random.Generator) -> UInt8[np.ndarray, "256 1 3"]:
    """What each grey level becomes under a random exposure and white balance."""
    gain = 2 ** rng.uniform(-0.7, 0.7) * rng.uniform(0.88, 1.12, size=3)
    level = (np.arange(256)[:, None] / 255) ** 2.2 * gain
    # A shoulder instead of a hard clip keeps bright walls from burning out.
    level = np.where(level > 0.8, 0.8 + 0.2 * np.tanh((level - 0.8) / 0.2), level)
    return np.clip(np.round(255 * level ** (1 / 2.2)), 0, 255).astype(np.uint8).reshape(256, 1, 3)


def darken(
    background: UInt8[np.ndarray, "height width 3"], light_left: Float[np.ndarray, "height width"]
) -> UInt8[np.ndarray, "height width 3"]:
    """Apply a floor shadow: the share of linear light that is left."""
    import cv2

    share = cv2.merge([np.float32(255) * light_left ** np.float32(1 / 2.2)] * 3)
    return cv2.multiply(background, share.astype(np.uint8), scale=1 / 255)
