"""Skeletons as .bvh: what is written is read again, gaps and clocks, and files of others and of vandals."""

from __future__ import annotations

import dataclasses
import os
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from fasthmr.errors import InputError
from fasthmr.io.bvh import BvhMotion, track_motion, write_motion
from fasthmr.io.bvh_reader import read_bvh
from fasthmr.results import Clip, Person

MakeClip = Callable[..., Clip]

_VIEWER = np.array([1, -1, -1])


def _read(path: Path, clip: Clip) -> tuple[BvhMotion, np.ndarray]:
    """A motion, and its joints in the order of the clip."""
    motion = read_bvh(path)
    return motion, motion.joints()[:, [motion.joint_names.index(name) for name in clip.joint_names]]


def test_round_trip_keeps_the_joints(body_clip: Clip, tmp_path: Path) -> None:
    assert body_clip.save(tmp_path / "a.bvh") == tmp_path / "a_track1.bvh"
    assert sorted(os.listdir(tmp_path)) == ["a_track1.bvh", "a_track4.bvh"]
    for person in body_clip.persons:
        motion, joints = _read(tmp_path / f"a_track{person.track_id}.bvh", body_clip)
        assert len(joints) == 10 and motion.frame_time == pytest.approx(1 / 25)
        np.testing.assert_allclose(joints[person.frames], person.joints * _VIEWER, atol=1e-5)
        for place, name in enumerate(motion.joint_names):  # the tree, too
            parent = body_clip.parents[body_clip.joint_names.index(name)]
            above = motion.parents[place]
            assert (above < 0) == (parent < 0)
            assert parent < 0 or motion.joint_names[above] == body_clip.joint_names[parent]


def test_frames_without_the_person_are_held_or_interpolated(body_clip: Clip, tmp_path: Path) -> None:
    body_clip.save(tmp_path / "a.bvh")
    person = body_clip.persons[1]
    _, joints = _read(tmp_path / "a_track4.bvh", body_clip)
    np.testing.assert_allclose(joints[[0, 1]], joints[[2, 2]], atol=1e-6)
    np.testing.assert_allclose(joints[[8, 9]], joints[[7, 7]], atol=1e-6)
    roots = person.joints[:, 0] * _VIEWER
    np.testing.assert_allclose(joints[5, 0], (roots[2] + roots[3]) / 2, atol=1e-5)
    assert np.abs(joints[5] - joints[4]).max() > 0.01


def test_layout_and_units(body_clip: Clip, tmp_path: Path) -> None:
    person = body_clip.persons[0]
    path = dataclasses.replace(body_clip, persons=(person,)).save(tmp_path / "a.bvh")
    assert path == tmp_path / "a.bvh"
    lines = [line.strip() for line in path.read_text().splitlines()]
    assert lines[:3] == ["HIERARCHY", "ROOT pelvis", "{"]
    assert lines[3:5] == [
        "OFFSET 0.000000 0.000000 0.000000",
        "CHANNELS 6 Xposition Yposition Zposition Zrotation Xrotation Yrotation",
    ]
    assert lines.count("CHANNELS 3 Zrotation Xrotation Yrotation") == 23
    assert lines.count("End Site") == 5
    motion = lines.index("MOTION")
    assert lines[motion + 1 : motion + 3] == ["Frames: 10", "Frame Time: 0.04000000"]
    first = np.array(lines[motion + 3].split(), dtype=float)
    assert len(first) == 3 + 3 * 24 and len(lines) == motion + 3 + 10
    np.testing.assert_allclose(first[:3] / 100, person.joints[0, 0] * _VIEWER, atol=1e-6)
    shin = np.linalg.norm(person.joints[0, 7] - person.joints[0, 4])
    read = read_bvh(path)
    assert np.linalg.norm(read.offsets[read.joint_names.index("left_ankle")]) == pytest.approx(shin, abs=1e-6)


def test_ends_are_head_hands_and_feet(body_clip: Clip) -> None:
    motion = track_motion(body_clip.persons[0], body_clip)
    ends = {motion.joint_names[joint]: end for joint, end in motion.ends.items()}
    assert sorted(ends) == ["head", "left_foot", "left_hand", "right_foot", "right_hand"]
    assert ends["head"][1] > 0.1 and ends["left_foot"][2] > 0.04
    assert ends["left_hand"][0] > 0.05 and ends["right_hand"][0] < -0.05
    bare = track_motion(body_clip.persons[0], dataclasses.replace(body_clip, lbs_weights=None))
    assert sorted(bare.ends) == sorted(motion.ends)


def test_a_variable_frame_rate_is_sampled_evenly(body_clip: Clip, tmp_path: Path) -> None:
    times = np.cumsum([0, 0.04, 0.04, 0.04, 0.2, 0.04, 0.04, 0.04, 0.04, 0.04])
    clip = dataclasses.replace(body_clip, persons=body_clip.persons[:1], times=times)
    motion, joints = _read(clip.save(tmp_path / "a.bvh"), clip)
    assert motion.frame_time == pytest.approx(0.04) and len(joints) == 14
    person = clip.persons[0]
    np.testing.assert_allclose(joints[[0, 3, 8, 13]], person.joints[[0, 3, 4, 9]] * _VIEWER, atol=1e-4)
    # A clock with rounded milliseconds is an even one.
    rounded = dataclasses.replace(clip, times=np.round(np.arange(10) / 29.97, 3), fps=29.97)
    motion, joints = _read(rounded.save(tmp_path / "b.bvh"), clip)
    assert len(joints) == 10 and motion.frame_time == pytest.approx(1 / 29.97, abs=1e-4)
    np.testing.assert_allclose(joints, person.joints * _VIEWER, atol=1e-5)


@pytest.mark.parametrize("frames", [0, 1, 5])
def test_nobody_gives_a_file_that_reads(make_clip: MakeClip, tmp_path: Path, frames: int) -> None:
    motion = read_bvh(make_clip(0, frames).save(tmp_path / "a.bvh"))
    assert motion.rotations.shape == (0, 3, 3, 3) and motion.joint_names == ("pelvis", "spine", "head")


def test_a_picture_gives_one_frame(make_clip: MakeClip, tmp_path: Path) -> None:
    clip = make_clip(1)
    _, joints = _read(clip.save(tmp_path / "a.bvh"), clip)
    np.testing.assert_allclose(joints, clip.persons[0].joints * _VIEWER, atol=1e-5)


def test_names_with_spaces_and_braces_do_not_break_the_file(make_clip: MakeClip, tmp_path: Path) -> None:
    clip = dataclasses.replace(make_clip(1), joint_names=("my hip", "{x}", ""))
    assert read_bvh(clip.save(tmp_path / "a.bvh")).joint_names == ("my_hip", "_x_", "joint_2")


_FOREIGN = """HIERARCHY
ROOT Hips
{
  OFFSET 0.0 0.0 0.0
  CHANNELS 6 Xposition Yposition Zposition Yrotation Xrotation Zrotation
  JOINT Left Arm
  {
    OFFSET 10 0 0
    CHANNELS 6 Xposition Yposition Zposition Xrotation Yrotation Zrotation
    End Site
    {
      OFFSET 1 2 3
    }
  }
  JOINT Stiff
  {
    OFFSET 0 1e1 0
    CHANNELS 0
  }
}
MOTION
Frames: 2
Frame Time: 0.008333
1 2 3 90 0 0  12 0 0 0 0 0
0 0 0 0 0 0   10 0 0 0 0 90
"""


def test_other_programs_files(tmp_path: Path) -> None:
    (tmp_path / "a.bvh").write_bytes(_FOREIGN.replace("\n", "\r\n").encode())
    motion = read_bvh(tmp_path / "a.bvh", metres_per_unit=1.0)
    assert motion.joint_names == ("Hips", "Left Arm", "Stiff") and motion.parents == (-1, 0, 0)
    joints = motion.joints()
    np.testing.assert_allclose(joints[0], [[1, 2, 3], [1, 2, -9], [1, 12, 3]], atol=1e-12)
    np.testing.assert_allclose(joints[1], [[0, 0, 0], [10, 0, 0], [0, 10, 0]], atol=1e-12)
    np.testing.assert_allclose(motion.rotations[1, 1], [[0, -1, 0], [1, 0, 0], [0, 0, 1]], atol=1e-12)
    # And back: the joint that changes its place keeps its channels for that.
    again = read_bvh(write_motion(motion, tmp_path / "b.bvh"))
    np.testing.assert_allclose(again.joints(), joints, atol=1e-5)
    np.testing.assert_allclose(again.ends[1], [1, 2, 3])


@pytest.mark.parametrize(
    ("old", "new", "expected"),
    [
        ("HIERARCHY", "HIERACHY", "HIERARCHY is expected"),
        ("MOTION", "MOTIONS", "no line MOTION"),
        ("Frames: 2", "Frames: 3", "24 numbers where 3 frames of 12"),
        ("Frames: 2", "Frames: -2", "no lines 'Frames:'"),
        ("Frames: 2", "Frames: 999999999", "too many"),
        ("0.008333", "0", "frame time"),
        ("0.008333", "nan", "not finite"),
        ("1 2 3 90", "1 2 x 90", "something else than numbers"),
        ("1 2 3 90", "1 2 1,5 90", "something else than numbers"),
        ("1 2 3 90", "1 2 1e999 90", "not finite"),
        ("1 2 3 90", "1 2 3 é", "something else than numbers"),
        ("  OFFSET 10 0 0", "  OFFSET 10 0", "could not convert"),
        ("    OFFSET 10 0 0\n", "", "'Left Arm' has no OFFSET"),
        (
            "Yrotation Xrotation Zrotation\n  JOINT",
            "Yrotation Xrotation Wrotation\n  JOINT",
            "unknown channel",
        ),
        ("CHANNELS 0", "CHANNELS 99", "'99' channels"),
        ("  JOINT Stiff", "}\nROOT Other", "more than one skeleton"),
        ("JOINT Stiff\n  {", "JOINT Stiff", "where|breaks off|without"),
        ("    }\n  }\n", "    }\n", "breaks off"),
        ("JOINT Left", "JAVELIN Left", "'JAVELIN' where"),
    ],
)
def test_damaged_files(tmp_path: Path, old: str, new: str, expected: str) -> None:
    assert old in _FOREIGN
    (tmp_path / "a.bvh").write_text(_FOREIGN.replace(old, new, 1), encoding="utf-8")
    with pytest.raises(InputError, match=expected) as caught:
        read_bvh(tmp_path / "a.bvh")
    assert "a.bvh" in str(caught.value) and "\n" not in str(caught.value)


def test_files_that_exhaust(tmp_path: Path) -> None:
    deep = "HIERARCHY\nROOT a\n{\nOFFSET 0 0 0\n" + "JOINT b\n{\nOFFSET 0 0 0\n" * 200 + "}\n" * 201
    wide = "HIERARCHY\nROOT a\n{\nOFFSET 0 0 0\n" + "JOINT b\n{\nOFFSET 0 0 0\n}\n" * 2000 + "}\n"
    for text in (deep, wide, "HIERARCHY\nROOT " + "a " * 10**5):
        (tmp_path / "a.bvh").write_text(text + "MOTION\nFrames: 0\nFrame Time: 1\n")
        with pytest.raises(InputError):
            read_bvh(tmp_path / "a.bvh")
    with pytest.raises(InputError, match="no such file"):
        read_bvh(tmp_path / "missing.bvh")
    with (tmp_path / "large.bvh").open("wb") as file:
        file.truncate(2**28)
    with pytest.raises(InputError, match="larger than"):
        read_bvh(tmp_path / "large.bvh")


@settings(
    max_examples=300,
    deadline=None,
    suppress_health_check=[HealthCheck.function_scoped_fixture],
    derandomize=True,
)
@given(
    changes=st.lists(st.tuples(st.floats(0, 1, exclude_max=True), st.integers(0, 255)), max_size=6),
    cut=st.none() | st.floats(0, 1),
)
def test_changed_bytes_raise_only_input_errors(
    tmp_path: Path, changes: list[tuple[float, int]], cut: float | None
) -> None:
    data = bytearray(_FOREIGN.encode())
    for place, value in changes:
        data[int(place * len(data))] = value
    if cut is not None:
        del data[int(cut * len(data)) :]
    (tmp_path / "a.bvh").write_bytes(data)
    try:
        assert np.isfinite(read_bvh(tmp_path / "a.bvh").joints()).all()
    except InputError as error:
        assert "\n" not in str(error)


def test_inconsistent_results_still_give_a_valid_file(make_clip: MakeClip, tmp_path: Path) -> None:
    clip = make_clip(3, 2)
    empty = Person(
        **{
            name: value[:0] if isinstance(value, np.ndarray) else value
            for name, value in vars(clip.persons[2]).items()
        }
    )
    dataclasses.replace(clip, persons=(*clip.persons[:2], empty)).save(tmp_path / "a.bvh")
    assert sorted(os.listdir(tmp_path)) == ["a_track1.bvh", "a_track2.bvh"]
    assert len(read_bvh(tmp_path / "a_track2.bvh").rotations) == 2
