"""Pasting people and things into one picture while keeping track of whom each pixel shows."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from jaxtyping import Bool, Float, UInt8

SMALLEST_PERSON_PX = 12
_LEAST_VISIBLE = 0.22


@dataclass(frozen=True, kw_only=True, eq=False)
class Cutout:
    """A person without background; `cut` says which sides (left, top, right, bottom) the crop cut off."""

    rgba: UInt8[np.ndarray, "height width 4"]
    cut: tuple[bool, bool, bool, bool]


class Canvas:
    """A picture being pasted together; `owner` holds the number of the person seen at each pixel."""

    def __init__(self, background: np.ndarray, rng: np.random.Generator) -> None:
        self.rgb = background
        self.owner: np.ndarray = np.zeros(background.shape[:2], np.uint8)
        self.areas: list[float] = []
        self.ignored: list[bool] = []
        self.horizon = rng.uniform(0.1, 0.6)
        self.perspective = rng.random() < 0.5

    def blur(self, sigma: float) -> None:
        """Put all that was pasted so far out of focus."""
        import cv2

        self.rgb = cv2.GaussianBlur(self.rgb, (0, 0), sigma)

    def paste_person(
        self,
        cutout: Cutout,
        height_px: float,
        rng: np.random.Generator,
        *,
        ignored: bool = False,
        near: float | None = None,
        fill: np.ndarray | None = None,
    ) -> None:
        """Put a person in front of all that is there; what the crop cut off stays out of sight."""
        import cv2

        rows, columns = self.owner.shape
        h, w = cutout.rgba.shape[:2]
        left_cut, top_cut, right_cut, bottom_cut = cutout.cut
        # A crop of the upper body is as wide as a whole person half as high again.
        scale = height_px / (max(h, 1.6 * w) if bottom_cut else max(h, 1.1 * w))
        if left_cut and right_cut:
            scale = 1.02 * columns / w
        elif top_cut and bottom_cut:
            scale = 1.02 * rows / h
        squeeze = np.exp(rng.normal(0, 0.05))
        new_h, new_w = max(3, round(h * scale * squeeze)), max(3, round(w * scale / squeeze))
        if max(new_h / rows, new_w / columns) > 3:
            return
        way = cv2.INTER_AREA if new_h < h else cv2.INTER_CUBIC if rng.random() < 0.5 else cv2.INTER_LINEAR
        patch = cv2.resize(cutout.rgba, (new_w, new_h), interpolation=way)
        angle = rng.normal(0, 8)
        if not any(cutout.cut) and rng.random() < 0.25 and new_h > 20:
            patch = _rotated(patch, angle)
            new_h, new_w = patch.shape[:2]
        if fill is not None and rng.random() < 0.3:
            patch[..., :3] = _with_detail(patch[..., :3], fill, rng)
        # Where to: free, or cut by the border of the picture.
        x = (near + rng.normal(0, 0.22) if near is not None else rng.uniform(0, 1)) * columns - new_w / 2
        if rng.random() < 0.85:
            x = np.clip(x, -0.05 * new_w, columns - 0.95 * new_w) if new_w < columns else x
        foot = rng.uniform(0.15, 1.1) * rows
        if self.perspective:
            foot = (self.horizon + height_px / rows * rng.normal(1, 0.1)) * rows
        y = foot - new_h
        if new_h > 0.6 * rows:
            y = rng.uniform(-0.08, 0.3) * rows if rng.random() < 0.8 else rng.uniform(-0.5, 0.1) * new_h
        slack = 0.03 * rng.random()
        if left_cut:
            x = -slack * new_w
        elif right_cut:
            x = columns - new_w * (1 - slack)
        if top_cut:
            y = -slack * new_h
        hidden_cut = bottom_cut and not top_cut and fill is not None and rng.random() < 0.4
        if bottom_cut and not hidden_cut:
            y = rows - new_h * (1 - slack)
        x, y = round(float(x)), round(float(y))
        self.areas.append(float((patch[..., 3] > 127).sum()))
        self.ignored.append(ignored)
        number = len(self.areas)
        if rng.random() < 0.4 and not any(cutout.cut):
            self._shadow(x + new_w / 2, float(y + new_h), float(new_w), rng)
        alpha = np.clip((patch[..., 3].astype(np.float32) - 40) / 190, 0, 1)
        self._paste(patch[..., :3], alpha, x, y, number)
        if hidden_cut and fill is not None:
            wide = int(new_w * rng.uniform(1.02, 2.5))
            start = x - int((wide - new_w) * rng.random())
            level = y + int(new_h * rng.uniform(0.6, 0.97))
            down = rows if rng.random() < 0.6 else level + int(new_h * rng.uniform(0.4, 1.0))
            thing = _thing(fill, (max(down - level, y + new_h - level + 2), wide), rng, solid=True)
            self._paste(thing[..., :3], thing[..., 3].astype(np.float32) / 255, start, level, 0)

    def paste_thing(self, fill: np.ndarray, rng: np.random.Generator, small: bool = False) -> None:
        """Put a thing of any shape in front of all that is there."""
        rows, columns = self.owner.shape
        largest = 0.25 if small else 0.8
        h, w = (np.exp(rng.uniform(np.log(0.02), np.log(largest), size=2)) * min(rows, columns)).astype(
            int
        ) + 2
        if rng.random() < 0.25:  # a pole or a bar
            long, thin = int(rng.uniform(0.2, 1.2) * rows), int(rng.uniform(0.005, 0.04) * rows) + 1
            h, w = (long, thin) if rng.random() < 0.6 else (thin, long)
        thing = _thing(fill, (int(h), int(w)), rng)
        y, x = rng.integers(-h // 2, max(rows - h // 2, 1)), rng.integers(-w // 2, max(columns - w // 2, 1))
        self._paste(thing[..., :3], thing[..., 3].astype(np.float32) / 255, int(x), int(y), 0)

    def people(self) -> tuple[Float[np.ndarray, "persons 4"], Bool[np.ndarray, "persons"]]:
        """Tight boxes of what is seen of each person, and who is ignored."""
        boxes, ignored = [], []
        seen = np.bincount(self.owner.ravel(), minlength=len(self.areas) + 1)
        for number, area in enumerate(self.areas, 1):
            if seen[number] < 6:
                continue
            mine = self.owner == number
            ys, xs = np.flatnonzero(mine.any(1)), np.flatnonzero(mine.any(0))
            box = (xs[0], ys[0], xs[-1] + 1, ys[-1] + 1)
            on_border = box[0] == 0 or box[1] == 0 or box[2] == mine.shape[1] or box[3] == mine.shape[0]
            least = _LEAST_VISIBLE * (0.5 if on_border else 1.0)
            small = max(box[2] - box[0], box[3] - box[1]) < SMALLEST_PERSON_PX
            boxes.append(box)
            ignored.append(bool(self.ignored[number - 1] or small or seen[number] < least * area))
        return np.array(boxes, np.float32).reshape(-1, 4), np.array(ignored, bool)

    def _paste(self, rgb: np.ndarray, alpha: np.ndarray, x: int, y: int, number: int) -> None:
        rows, columns = self.owner.shape
        x0, y0, x1, y1 = max(x, 0), max(y, 0), min(x + rgb.shape[1], columns), min(y + rgb.shape[0], rows)
        if x1 <= x0 or y1 <= y0:
            return
        part = np.s_[y0 - y : y1 - y, x0 - x : x1 - x]
        cover = alpha[part][..., None]
        here = self.rgb[y0:y1, x0:x1]
        here[:] = (here + (rgb[part] - here.astype(np.float32)) * cover + 0.5).astype(np.uint8)
        self.owner[y0:y1, x0:x1][cover[..., 0] > 0.5] = number

    def _shadow(self, x: float, y: float, width: float, rng: np.random.Generator) -> None:
        import cv2

        half = (max(2, int(width * rng.uniform(0.3, 0.8))), max(1, int(width * rng.uniform(0.05, 0.2))))
        mask = np.zeros((4 * half[1] + 3, 2 * half[0] + 3), np.float32)
        cv2.ellipse(mask, (half[0] + 1, 2 * half[1] + 1), (int(half[0] * 0.8), half[1]), 0, 0, 360, 1.0, -1)
        mask = cv2.GaussianBlur(mask, (0, 0), max(half[1] * 0.5, 0.5)) * rng.uniform(0.2, 0.7)
        left, top = int(x) - half[0] - 1, int(y) - 2 * half[1] - 1
        owner = self.owner.copy()
        self._paste(np.zeros((*mask.shape, 3), np.float32), mask, left, top, 0)
        self.owner = owner


def recolour(rgb: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    import cv2

    # Bright pictures are not made brighter, or they would burn out to white.
    gain = min(np.exp(rng.normal(0, 0.16)), max(150 / (float(rgb[::4, ::4].mean()) + 1), 0.7))
    gain = gain * np.exp(rng.normal(0, 0.06, size=3))
    gamma = np.exp(rng.normal(0, 0.18))
    table = 255 * np.clip((np.arange(256)[:, None] / 255) ** gamma * gain, 0, 1)
    return cv2.LUT(np.ascontiguousarray(rgb), table.astype(np.uint8).reshape(256, 1, 3))


def _rotated(patch: np.ndarray, degrees: float) -> np.ndarray:
    import cv2

    h, w = patch.shape[:2]
    matrix = cv2.getRotationMatrix2D((w / 2, h / 2), degrees, 1.0)
    cos, sin = abs(matrix[0, 0]), abs(matrix[0, 1])
    wide, high = int(w * cos + h * sin) + 1, int(w * sin + h * cos) + 1
    matrix[:, 2] += (wide - w) / 2, (high - h) / 2
    return cv2.warpAffine(patch, matrix, (wide, high))


def _cut(fill: np.ndarray, shape: tuple[int, int], rng: np.random.Generator) -> np.ndarray:
    """A random piece of a picture stretched over a shape."""
    import cv2

    share = rng.uniform(0.15, 1.0)
    h, w = max(2, int(fill.shape[0] * share)), max(2, int(fill.shape[1] * share))
    top, left = int(rng.integers(fill.shape[0] - h + 1)), int(rng.integers(fill.shape[1] - w + 1))
    return cv2.resize(
        fill[top : top + h, left : left + w], (shape[1], shape[0]), interpolation=cv2.INTER_LINEAR
    )


def _with_detail(rgb: np.ndarray, fill: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """Multiply by the fine structure of a texture, as of cloth."""
    grain = _cut(fill, rgb.shape[:2], rng).astype(np.float32).mean(-1, keepdims=True)
    grain = 1 + rng.uniform(0.1, 0.5) * (grain / max(float(grain.mean()), 1.0) - 1)
    return np.clip(rgb * grain, 0, 255).astype(np.uint8)


def _thing(
    fill: np.ndarray, shape: tuple[int, int], rng: np.random.Generator, solid: bool = False
) -> np.ndarray:
    """A textured or plain, shaded shape with coverage: box, ellipse, polygon or rounded block."""
    import cv2

    h, w = max(shape[0], 2), max(shape[1], 2)
    low, high = rng.uniform(0.6, 1.2, size=2).tolist()
    sideways = rng.random() < 0.5
    ramp = np.linspace(low, high, w if sideways else h, dtype=np.float32)
    shade = ramp[None, :, None] if sideways else ramp[:, None, None]
    if rng.random() < 0.45:
        color = np.broadcast_to(rng.uniform(10, 245, size=3).astype(np.float32), (h, w, 3))
    else:
        color = recolour(_cut(fill, (h, w), rng), rng).astype(np.float32)
    out = np.empty((h, w, 4), np.uint8)
    out[..., :3] = np.clip(color * shade, 0, 255)
    mask = np.zeros((h, w), np.uint8)
    kind = rng.choice(["box", "rounded"] if solid else ["box", "ellipse", "polygon", "rounded"])
    if kind == "box":
        mask[:] = 255
    elif kind == "ellipse":
        cv2.ellipse(mask, (w // 2, h // 2), (max(w // 2, 1), max(h // 2, 1)), 0, 0, 360, 255, -1, cv2.LINE_AA)
    elif kind == "rounded":
        radius = max(1, int(min(h, w) * rng.uniform(0.1, 0.45)))
        cv2.rectangle(mask, (radius, 0), (w - 1 - radius, h - 1), 255, -1)
        cv2.rectangle(mask, (0, radius), (w - 1, h - 1 if solid else h - 1 - radius), 255, -1)
        for corner in (
            (radius, radius),
            (w - 1 - radius, radius),
            (radius, h - 1 - radius),
            (w - 1 - radius, h - 1 - radius),
        ):
            cv2.circle(mask, corner, radius, 255, -1)
    else:
        points = rng.uniform(0, 1, size=(int(rng.integers(3, 9)), 2)) * (w, h)
        cv2.fillPoly(mask, [points.astype(np.int32)], 255, cv2.LINE_AA)
    out[..., 3] = mask
    return out
