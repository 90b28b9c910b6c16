"""Pictures with many cut-out people and their boxes, for training the person detector.

Cut-outs come from rendered crops with a mask; a scene pastes them at any size on a background,
one behind another, cut by the border of the picture or hidden by things, and keeps the tight box
of what is still seen of each.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from jaxtyping import Bool, Float, UInt8

from fasthmr.data.backgrounds import View, draw_background
from fasthmr.data.collage import Canvas, Cutout, recolour
from fasthmr.data.environments import EnvironmentLibrary
from fasthmr.data.finish import photograph
from fasthmr.data.framing import sample_camera


@dataclass(frozen=True, kw_only=True, eq=False)
class Scene:
    """A picture and the people in it.

    Attributes:
        boxes_xyxy: Tight boxes of what is seen of each person, pixels.
        ignored: People too small, hidden or blurred to ask for, and not to punish either.
    """

    rgb: UInt8[np.ndarray, "height width 3"]
    boxes_xyxy: Float[np.ndarray, "persons 4"]
    ignored: Bool[np.ndarray, "persons"]


def cut_out(rgbm: UInt8[np.ndarray, "height width 4"]) -> Cutout | None:
    """The masked person of a rendered crop; None where next to nothing of it is seen."""
    seen = rgbm[..., 3] > 127
    rows, columns = np.flatnonzero(seen.any(1)), np.flatnonzero(seen.any(0))
    if len(rows) < 24 or len(columns) < 12:
        return None
    top, bottom, left, right = rows[0], rows[-1] + 1, columns[0], columns[-1] + 1
    inner = seen[top:bottom, left:right]
    lines = (inner[:, 0], inner[0], inner[:, -1], inner[-1])
    at_border = (left == 0, top == 0, right == seen.shape[1], bottom == seen.shape[0])
    # A long straight edge is the border of the photo that the crop was taken from, not a limb.
    straight = [line.mean() > 0.45 and line.sum() > 10 for line in lines]
    on_left, on_top, on_right, below = (bool(a or b) for a, b in zip(at_border, straight, strict=True))
    return Cutout(
        rgba=np.ascontiguousarray(rgbm[top:bottom, left:right]), cut=(on_left, on_top, on_right, below)
    )


class PersonScenes:
    """Scenes, each reproducible from (seed, index).

    Args:
        cutouts: Rendered crops (n, height, width, 4): RGB and the mask of one person.
        library: Backgrounds, and textures for things.
        backgrounds: How many backgrounds to draw once and reuse (cropped, flipped, tinted).
    """

    def __init__(
        self,
        cutouts: Sequence[UInt8[np.ndarray, "n height width 4"]],
        library: EnvironmentLibrary,
        *,
        seed: int = 0,
        backgrounds: int = 500,
        background_side: int = 448,
    ) -> None:
        self.cutouts = cutouts
        self.library = library
        self.seed = seed
        self.ends = np.cumsum([len(shard) for shard in cutouts])
        rng = np.random.default_rng([seed, 1])
        self.backgrounds = [_background(library, background_side, rng) for _ in range(backgrounds)]
        self.fills = [
            library.picture(item, kind)
            for kind, items in (
                ("texture", library.textures),
                ("swatch", library.swatches),
                ("photo", library.photos),
            )
            for item in items
        ]

    def cutout(self, rng: np.random.Generator) -> Cutout:
        """A random person, flipped and recoloured."""
        while True:
            number = int(rng.integers(self.ends[-1]))
            shard = int(np.searchsorted(self.ends, number, side="right"))
            row = number - (int(self.ends[shard - 1]) if shard else 0)
            cutout = cut_out(np.asarray(self.cutouts[shard][row]))
            if cutout is None or (sum(cutout.cut) > 2 and rng.random() < 0.8):
                continue
            rgba, cut = cutout.rgba.copy(), cutout.cut
            if rng.random() < 0.5:
                rgba, cut = np.ascontiguousarray(rgba[:, ::-1]), (cut[2], cut[1], cut[0], cut[3])
            rgba[..., :3] = recolour(rgba[..., :3], rng)
            return Cutout(rgba=rgba, cut=cut)

    def scene(self, index: int, size: tuple[int, int]) -> Scene:
        """The scene of an index at (height, width)."""
        rng = np.random.default_rng([self.seed, 2, index])
        canvas = Canvas(self._crop_background(size, rng), rng)
        plan = rng.choice(len(_PLANS), p=[plan[0] for plan in _PLANS])
        _, least, most, low, high = _PLANS[plan]
        for _ in range(int(rng.integers(0, 5)) if rng.random() < 0.6 else 0):
            canvas.paste_thing(self._fill(rng), rng)
        if rng.random() < 0.12:
            for _ in range(int(rng.integers(4, 24))):  # spectators, out of focus
                canvas.paste_person(self.cutout(rng), rng.uniform(0.08, 0.3) * size[0], rng, ignored=True)
            canvas.blur(rng.uniform(1.0, 3.0) * size[0] / 256)
        elif rng.random() < 0.3:
            canvas.blur(np.exp(rng.uniform(-1, 1.3)) * size[0] / 256)
        count = int(rng.integers(least, most + 1))
        shared = np.exp(rng.uniform(np.log(low), np.log(high))) if count else 0.0
        heights = shared * np.exp(rng.normal(0, 0.18, size=count))
        if count > 1 and rng.random() < 0.35:
            heights = np.exp(rng.uniform(np.log(low), np.log(high), size=count))
        centre = rng.uniform(0.2, 0.8)
        for height in np.sort(heights):
            if rng.random() < 0.12:
                canvas.paste_thing(self._fill(rng), rng)
            beside = centre if count > 2 and rng.random() < 0.5 else None
            canvas.paste_person(
                self.cutout(rng), float(height) * size[0], rng, near=beside, fill=self._fill(rng)
            )
        for _ in range(int(rng.integers(1, 3)) if rng.random() < 0.3 else 0):
            canvas.paste_thing(self._fill(rng), rng, small=count > 0)
        boxes, ignored = canvas.people()
        return Scene(rgb=_finish(canvas.rgb, rng), boxes_xyxy=boxes, ignored=ignored)

    def _fill(self, rng: np.random.Generator) -> np.ndarray:
        return self.fills[int(rng.integers(len(self.fills)))]

    def _crop_background(self, size: tuple[int, int], rng: np.random.Generator) -> np.ndarray:
        import cv2

        picture = self.backgrounds[int(rng.integers(len(self.backgrounds)))]
        side = picture.shape[0]
        scale = side / max(size) * rng.uniform(0.5, 1.0)
        h, w = min(side, int(size[0] * scale)), min(side, int(size[1] * scale))
        top, left = int(rng.integers(side - h + 1)), int(rng.integers(side - w + 1))
        crop = picture[top : top + h, left : left + w][:, :: int(rng.choice([-1, 1]))]
        resized = cv2.resize(np.ascontiguousarray(crop), (size[1], size[0]), interpolation=cv2.INTER_LINEAR)
        return recolour(resized, rng)


# Share, fewest and most people, lowest and highest height as a share of the picture's height.
_PLANS = (
    (0.10, 0, 0, 0.1, 0.2),
    (0.22, 1, 1, 0.3, 1.5),
    (0.20, 1, 3, 0.12, 0.9),
    (0.20, 2, 8, 0.35, 0.9),
    (0.16, 3, 9, 0.1, 0.35),
    (0.12, 6, 16, 0.05, 0.2),
)


def _background(library: EnvironmentLibrary, side: int, rng: np.random.Generator) -> np.ndarray:
    focal = side / 2 / np.tan(np.deg2rad(rng.uniform(12, 45)))
    K = np.array([[focal, 0, side / 2], [0, focal, side / 2], [0, 0, 1.0]])
    view = View(
        R_pano_camera=sample_camera(rng),
        K=K,
        size=(side, side),
        floor=rng.uniform(1.1, 2.2),
        distance=rng.uniform(2, 8),
    )
    return draw_background(library, view, rng)[0]


def _finish(rgb: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """Whole-picture effects: grey pictures, motion blur, low resolution, then those of a camera."""
    import cv2

    grey, moved, coarse = rng.random(3)
    if grey < 0.12:
        rgb = np.repeat(cv2.cvtColor(rgb, cv2.COLOR_RGB2GRAY)[..., None], 3, axis=2)
    if moved < 0.08:
        length = int(rng.integers(2, 8))
        kernel = np.zeros((length, length), np.float32)
        end = (rng.random(2) * (length - 1)).astype(int).tolist()
        cv2.line(kernel, (0, 0) if rng.random() < 0.5 else (length - 1, 0), (end[0], length - 1), 1.0)
        rgb = cv2.filter2D(rgb, -1, kernel / max(float(kernel.sum()), 1.0))
    if coarse < 0.15:
        size = (rgb.shape[1], rgb.shape[0])
        factor = rng.uniform(0.35, 0.8)
        small = cv2.resize(rgb, None, fx=factor, fy=factor, interpolation=cv2.INTER_AREA)
        rgb = cv2.resize(small, size, interpolation=cv2.INTER_LINEAR)
    return photograph(rgb, rng)
