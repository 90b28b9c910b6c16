"""Drawn keypoints: sides, thresholds, line widths, points out of reach."""

from __future__ import annotations

import numpy as np
import pytest

from fasthmr.body.skeletons import COCO17_NAMES
from fasthmr.render.skeleton import draw_keypoints

GREY = np.full((200, 160, 3), 120, np.uint8)
LEFT_KNEE, LEFT_ANKLE = COCO17_NAMES.index("left_knee"), COCO17_NAMES.index("left_ankle")
RIGHT_KNEE, RIGHT_ANKLE = COCO17_NAMES.index("right_knee"), COCO17_NAMES.index("right_ankle")


def person(**places: tuple[float, float, float]) -> np.ndarray:
    points = np.zeros((17, 3))
    for name, place in places.items():
        points[COCO17_NAMES.index(name)] = place
    return points


def box(side: float = 150.0) -> np.ndarray:
    return np.array([0.0, 0.0, side / 2, side])


def drawn(*people: np.ndarray, side: float = 150.0) -> np.ndarray:
    return draw_keypoints(GREY, people, [box(side)] * len(people))


def test_sides_have_their_colours() -> None:
    result = drawn(
        person(
            left_knee=(100, 50, 1), left_ankle=(100, 150, 1), right_knee=(40, 50, 1), right_ankle=(40, 150, 1)
        )
    )
    left, right = result[100, 100].astype(int), result[100, 40].astype(int)
    assert left[0] > left[2] + 100
    assert right[2] > right[0] + 100
    np.testing.assert_array_equal(result[100, 70], GREY[100, 70])
    assert result is not GREY and (GREY == 120).all()


def test_a_limb_needs_both_ends() -> None:
    result = drawn(person(left_knee=(100, 50, 0.9), left_ankle=(100, 150, 0.29)))
    assert (result[50, 100] != 120).any()
    assert (result[100:, :] == 120).all()
    assert (drawn(person(left_knee=(100, 50, 0.1))) == 120).all()


def test_nobody_gives_a_copy() -> None:
    np.testing.assert_array_equal(drawn(), GREY)


@pytest.mark.parametrize("x", [np.nan, np.inf, 1e12, -1e12])
def test_points_out_of_reach_are_left_out(x: float) -> None:
    result = drawn(person(left_knee=(x, 50, 1), left_ankle=(100, 150, 1)))
    assert (result[:140] == 120).all()
    assert (result[150, 100] != 120).any()


def test_points_outside_the_picture_still_show_their_limb() -> None:
    result = drawn(person(left_knee=(100, -100, 1), left_ankle=(100, 150, 1)))
    assert (result[0, 100] != 120).any()


def test_large_people_have_wider_lines() -> None:
    legs = person(left_knee=(100, 50, 1), left_ankle=(100, 150, 1))
    widths = [int((drawn(legs, side=side)[100] != 120).any(1).sum()) for side in (50, 400, 1500, 9000)]
    assert widths == sorted(widths)
    assert widths[0] <= 8 and widths[2] >= 12 and widths[3] < 30


def test_the_first_person_is_on_top() -> None:
    left = person(left_knee=(100, 50, 1), left_ankle=(100, 150, 1))
    right = person(right_knee=(100, 50, 1), right_ankle=(100, 150, 1))
    assert drawn(left, right)[100, 100, 0] > 200
    assert drawn(right, left)[100, 100, 2] > 200
