"""Boxes around a part of a person, for training on pictures that show no more (HMR 2.0, released code).

Strong crops of HMR 2.0b: hips upwards, shoulders upwards, head, torso, an arm, the legs or one leg.
"""

from __future__ import annotations

import numpy as np
from jaxtyping import Float
from torch import Tensor

_EXTRA = 25
"""First of the 19 regressed points among the 44."""


def _points(openpose: tuple[int, ...], extra: tuple[int, ...]) -> tuple[int, ...]:
    return (*openpose, *(_EXTRA + i for i in extra))


PART_POINTS: dict[str, tuple[int, ...]] = {
    "hips": _points((*range(10), 12, 15, 16, 17, 18), (2, 3, *range(6, 19))),
    "shoulders": _points((0, 1, 2, 5, 15, 16, 17, 18), (8, 9, 12, 13, 17, 18)),
    "head": _points((0, 1, 2, 5, 15, 16, 17, 18), (12, 13, 17, 18)),
    "torso": _points((1, 2, 5, 8, 9, 12), (2, 3, 8, 9, 12, 14, 15, 16)),
    "right_arm": _points((2, 3, 4), (6, 7, 8)),
    "left_arm": _points((5, 6, 7), (9, 10, 11)),
    "legs": _points((*range(8, 15), *range(19, 25)), (0, 1, 2, 3, 4, 5, 14)),
    "right_leg": _points((9, 10, 11, 22, 23, 24), (0, 1, 2)),
    "left_leg": _points((12, 13, 14, 19, 20, 21), (3, 4, 5)),
}
"""Points of the 44 whose box makes each crop; `hips` and `shoulders` reach up to the head.

The head keeps the OpenPose shoulders, as in the release.
"""

_GROWTH = dict.fromkeys(PART_POINTS, 1.1) | {"shoulders": 1.2, "head": 1.3}
_BOX_GROWTH = 1.2
_SMALLEST = 4.0
_FULL_BODY: dict[str, float] = {
    "hips": 0.2,
    **dict.fromkeys(
        ("shoulders", "head", "torso", "right_arm", "left_arm", "legs", "right_leg", "left_leg"), 0.1
    ),
}
_UPPER_BODY: dict[str, float] = dict.fromkeys(("shoulders", "head", "torso", "right_arm", "left_arm"), 0.2)

# Limb points, each as OpenPose and as regressed point: one of the two is enough.
_LIMBS = ((2, 3, 4, 5, 6, 7, 10, 11, 13, 14), _points((), (8, 7, 6, 9, 10, 11, 1, 0, 4, 5)))
_LOWER = _points((10, 11, 13, 14), (1, 0, 4, 5))
_UPPER = _points((0, 1, 15, 16, 17, 18), (8, 9, 12, 13, 17, 18))


def part_odds(keypoints_2d: Float[Tensor, "44 3"]) -> dict[str, float]:
    """Probability of each part for a person with these labelled points; empty where no part fits.

    A whole person shows all limbs; an upper body shows no knee or ankle, and two points about the head.
    """
    seen = keypoints_2d[:, 2] > 0
    if bool((seen[list(_LIMBS[0])] | seen[list(_LIMBS[1])]).all()):
        return dict(_FULL_BODY)
    if not seen[list(_LOWER)].any() and int(seen[list(_UPPER)].sum()) >= 2:
        return dict(_UPPER_BODY)
    return {}


def part_square(keypoints_2d: Float[Tensor, "44 3"], part: str) -> tuple[tuple[float, float], float] | None:
    """Centre and side of the square around a part, pixels; None where its points tell too little."""
    points = keypoints_2d[list(PART_POINTS[part])]
    if float(points[:, 2].sum()) <= 1:
        return None
    known = points[points[:, 2] > 0, :2].double()
    low, high = known.amin(dim=0), known.amax(dim=0)
    middle = ((low + high) / 2).tolist()
    side = float((high - low).max()) * _BOX_GROWTH * _GROWTH[part]
    return None if side < _SMALLEST else ((middle[0], middle[1]), side)


def extreme_crop(
    center: tuple[float, float],
    side: float,
    keypoints_2d: Float[Tensor, "44 3"],
    rng: np.random.Generator,
) -> tuple[tuple[float, float], float]:
    """The square of a part drawn by chance, or the given square where none fits."""
    odds = part_odds(keypoints_2d)
    if not odds:
        return center, side
    part = str(rng.choice(list(odds), p=list(odds.values())))
    return part_square(keypoints_2d, part) or (center, side)
