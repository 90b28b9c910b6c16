"""Camera files: what is read, how it is scaled, what is refused."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest

from fasthmr.errors import InputError
from fasthmr.runtime.calibration import read_calibration

K = [[500.0, 0, 310], [0, 510.0, 250], [0, 0, 1]]


@pytest.mark.parametrize(
    "content",
    [
        {"K": K},
        {"camera_matrix": K, "image_size": [640, 480]},
        {
            "camera_matrix": {"rows": 3, "cols": 3, "data": [500, 0, 310, 0, 510, 250, 0, 0, 1]},
            "width": 640,
            "height": 480,
        },
        {"fx": 500, "fy": 510, "cx": 310, "cy": 250},
        {"K": K, "dist_coeffs": [0, 0, 0, 0, 0]},
        K,
    ],
)
def test_json(content: object, tmp_path: Path) -> None:
    (tmp_path / "c.json").write_text(json.dumps(content))
    np.testing.assert_array_equal(read_calibration(tmp_path / "c.json").for_size((640, 480)), K)


@pytest.mark.parametrize(
    "text",
    [
        "500 0 310\n0 510 250\n0 0 1\n",
        "# fx fy cx cy\n500, 510, 310, 250",
        "500 510 310 250 640 480",
        "500 0 310 0 510 250 0 0 1 640 480",
    ],
)
def test_text(text: str, tmp_path: Path) -> None:
    (tmp_path / "c.txt").write_text(text)
    np.testing.assert_array_equal(read_calibration(tmp_path / "c.txt").for_size((640, 480)), K)


def test_npz(tmp_path: Path) -> None:
    np.savez(tmp_path / "c.npz", mtx=np.array(K), dist=np.zeros(5), image_size=np.array([640, 480]))
    np.testing.assert_array_equal(read_calibration(tmp_path / "c.npz").for_size((640, 480)), K)


def test_pictures_of_another_size(tmp_path: Path) -> None:
    (tmp_path / "c.json").write_text(json.dumps({"K": K, "image_size": [640, 480]}))
    half = read_calibration(tmp_path / "c.json").for_size((320, 240))
    # (0, 0) is the centre of the top left pixel: the left edge -0.5 stays where it is.
    np.testing.assert_allclose(half, [[250, 0, 154.75], [0, 255, 124.75], [0, 0, 1]])
    with pytest.raises(InputError, match="640x480 pixels, this one has 480x640"):
        read_calibration(tmp_path / "c.json").for_size((480, 640))


@pytest.mark.parametrize(
    ("content", "expected"),
    [
        ({"K": [[-500, 0, 1], [0, 5, 1], [0, 0, 1]]}, "fx, fy > 0"),
        ({"K": [[500, 0, 1], [0, 500, 1], [0, 1, 1]]}, "last row"),
        ({"K": [[500, 3, 1], [0, 500, 1], [0, 0, 1]]}, "skew"),
        ({"K": [[500, 0, 1], [0, 1500, 1], [0, 0, 1]]}, "twofold"),
        ({"K": [[1.2, 0, 0.5], [0, 1.2, 0.5], [0, 0, 1]]}, "in pixels"),
        ({"K": [[500, 0], [0, 500]]}, "shape"),
        ({"K": "abc"}, "not made of numbers"),
        ({"K": [[500, 0, 1], [0, 500, 1], [0, 0]]}, "not made of numbers"),
        ({"K": {"K": 1}}, "not made of numbers"),
        ({"fx": 500, "fy": 500, "cx": 3}, "needed: a 3x3 matrix"),
        ({"fx": [1, 2], "fy": 500, "cx": 3, "cy": 4}, "one number each"),
        ({}, "has nothing"),
        ({"K": K, "dist": [0.1, 0, 0, 0]}, "undistort"),
        ({"K": K, "k1": -0.2}, "undistort"),
        ({"K": K, "image_size": [640]}, "image size"),
        ({"K": K, "image_size": [0, 480]}, "image size"),
        ("12", "not a list of numbers|not made of numbers|shape"),
        (7, "shape"),
    ],
)
def test_wrong_json(content: object, expected: str, tmp_path: Path) -> None:
    (tmp_path / "c.json").write_text(json.dumps(content))
    with pytest.raises(InputError, match=expected) as caught:
        read_calibration(tmp_path / "c.json")
    assert "c.json" in str(caught.value)
    assert "\n" not in str(caught.value)


def test_not_finite(tmp_path: Path) -> None:
    (tmp_path / "c.json").write_text('{"K": [[NaN, 0, 1], [0, 500, 1], [0, 0, 1]]}')
    with pytest.raises(InputError, match="not finite"):
        read_calibration(tmp_path / "c.json")


def test_the_principal_point_lies_inside(tmp_path: Path) -> None:
    (tmp_path / "c.json").write_text(json.dumps({"K": K}))
    with pytest.raises(InputError, match="lies outside the picture of 200x100"):
        read_calibration(tmp_path / "c.json").for_size((200, 100))


@pytest.mark.parametrize("content", [b"", b"1 2 3", b"fx = 5", b"{", b"\xff\xfe\x00", b"[" * 100_000])
def test_files_that_are_no_camera(content: bytes, tmp_path: Path) -> None:
    (tmp_path / "c.txt").write_bytes(content)
    with pytest.raises(InputError, match=r"c\.txt"):
        read_calibration(tmp_path / "c.txt")


def test_files_that_are_not_there_or_too_large(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="no such camera file"):
        read_calibration(tmp_path / "c.json")
    (tmp_path / "c.json").write_bytes(b" " * (2 << 20))
    with pytest.raises(InputError, match="more than 1 MB"):
        read_calibration(tmp_path / "c.json")
    (tmp_path / "c.npz").write_bytes(b"no archive")
    with pytest.raises(InputError, match=r"c\.npz"):
        read_calibration(tmp_path / "c.npz")
