"""Results as .npz: round trip, AMASS names, and files that lie."""

from __future__ import annotations

import dataclasses
import io
import os
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from scipy.spatial.transform import Rotation

from fasthmr.errors import InputError, UsageError
from fasthmr.results import Clip

MakeClip = Callable[..., Clip]


@pytest.mark.parametrize(("persons", "frames"), [(0, 0), (0, 1), (0, 5), (1, 1), (3, 1), (2, 5)])
@pytest.mark.parametrize("keypoints", [False, True])
def test_round_trip(make_clip: MakeClip, tmp_path: Path, persons: int, frames: int, keypoints: bool) -> None:
    clip = make_clip(persons, frames, keypoints)
    clip.save(tmp_path / "a.npz")
    again = Clip.load(tmp_path / "a.npz")
    assert os.listdir(tmp_path) == ["a.npz"]
    for field in dataclasses.fields(Clip):
        before, after = getattr(clip, field.name), getattr(again, field.name)
        if field.name == "persons":
            assert len(after) == persons
            for one, other in zip(before, after, strict=True):
                for part in dataclasses.fields(one):
                    np.testing.assert_equal(getattr(other, part.name), getattr(one, part.name))
        else:
            np.testing.assert_equal(after, before)


def test_plain_numpy_reads_it_with_units_and_amass_names(make_clip: MakeClip, tmp_path: Path) -> None:
    clip = make_clip(2, 5)
    clip.save(tmp_path / "a.npz")
    with np.load(tmp_path / "a.npz", allow_pickle=False) as file:
        assert int(file["schema_version"]) == 1
        assert "metres" in str(file["units"]) and "x right, y down, z forward" in str(file["axes"])
        assert file["joint_names"].tolist() == ["pelvis", "spine", "head"]
        assert float(file["mocap_framerate"]) == 25
        poses = file["person_001/poses"]
        assert poses.shape == (4, 9)
        np.testing.assert_array_equal(file["person_001/trans"], clip.persons[1].transl)
        np.testing.assert_allclose(
            Rotation.from_rotvec(poses.reshape(-1, 3)).as_matrix().reshape(4, 3, 3, 3)[:, 1:],
            clip.persons[1].body_pose,
            atol=1e-5,
        )


def test_times_of_a_variable_frame_rate(make_clip: MakeClip, tmp_path: Path) -> None:
    times = np.array([2.0, 2.04, 2.1, 2.5, 2.52])
    clip = dataclasses.replace(make_clip(1, 5), times=times)
    clip.save(tmp_path / "a.npz")
    again = Clip.load(tmp_path / "a.npz")
    np.testing.assert_array_equal(again.times, times)
    np.testing.assert_allclose(again.frame_times, times - 2)
    np.testing.assert_allclose(make_clip(1, 5).frame_times, np.arange(5) / 25)
    np.testing.assert_allclose(make_clip(1, 1).frame_times, [0])


def _changed(clip: Clip, path: Path, changes: dict[str, np.ndarray | None]) -> Path:
    clip.save(path)
    with np.load(path) as file:
        arrays = {name: file[name] for name in file.files}
    arrays |= changes
    np.savez(path, **{name: value for name, value in arrays.items() if value is not None})
    return path


@pytest.mark.parametrize(
    ("changes", "expected"),
    [
        ({"schema": np.array("other")}, "not a result of fasthmr"),
        ({"schema_version": np.array(9)}, "version 9"),
        ({"faces": None}, "'faces' is missing"),
        ({"person_001/joints": None}, "'person_001/joints' is missing"),
        ({"extra": np.zeros(3)}, "unknown array 'extra'"),
        ({"person_007/joints": np.zeros(3)}, "unknown array 'person_007/joints'"),
        ({"num_persons": np.array(10**9)}, "is missing"),
        ({"num_persons": np.array(-1)}, "unknown array 'person_00"),
        ({"person_000/vertices": np.zeros((5, 7, 3), np.float32)}, "vertices|lbs_weights"),
        ({"person_000/scores": np.zeros(4, np.float32)}, "person_000/"),
        ({"person_000/transl": np.full((5, 3), np.nan, np.float32)}, "not finite"),
        ({"person_000/frames": np.array([0, 1, 2, 3, 5])}, "rising indices"),
        ({"person_000/frames": np.array([0, 1, 1, 2, 3])}, "rising indices"),
        ({"faces": np.full((8, 3), 6)}, "outside the 6 vertices"),
        ({"parents": np.array([-1, 0, 3])}, r"parents\[2\] = 3"),
        ({"parents": np.array([-1, 2, 1])}, r"parents\[1\] = 2"),
        ({"fps": np.array(-25.0)}, "'fps' is not positive"),
        ({"times": np.array([0, 0.1, 0.1, 0.2, 0.3])}, "'times' do not increase"),
        ({"times": np.arange(4.0)}, "'times' is float64"),
    ],
)
def test_wrong_contents(
    make_clip: MakeClip, tmp_path: Path, changes: dict[str, np.ndarray | None], expected: str
) -> None:
    with pytest.raises(InputError, match=expected) as caught:
        Clip.load(_changed(make_clip(2, 5), tmp_path / "a.npz", changes))
    assert "a.npz" in str(caught.value) and "\n" not in str(caught.value)


def test_objects_are_never_unpickled(tmp_path: Path) -> None:
    np.savez(tmp_path / "a.npz", schema=np.array([{"a": 1}], dtype=object))
    with pytest.raises(InputError, match="object"):
        Clip.load(tmp_path / "a.npz")


def test_missing_empty_and_foreign_files(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="no such file"):
        Clip.load(tmp_path / "missing.npz")
    for data in (b"", b"PK\x03\x04", b"text"):
        (tmp_path / "a.npz").write_bytes(data)
        with pytest.raises(InputError, match=r"a\.npz: not a usable"):
            Clip.load(tmp_path / "a.npz")


@settings(
    max_examples=80,
    deadline=None,
    suppress_health_check=[HealthCheck.function_scoped_fixture],
    derandomize=True,
)
@given(
    changes=st.lists(
        st.tuples(st.floats(0, 1, exclude_max=True), st.integers(0, 255)), min_size=1, max_size=8
    ),
    compress=st.booleans(),
)
def test_damaged_bytes_raise_only_input_errors(
    tmp_path: Path, changes: list[tuple[float, int]], compress: bool
) -> None:
    buffer = io.BytesIO()
    (np.savez_compressed if compress else np.savez)(buffer, schema=np.array("fasthmr.clip"), faces=np.eye(3))
    data = bytearray(buffer.getvalue())
    for place, value in changes:
        data[int(place * len(data))] = value
    (tmp_path / "a.npz").write_bytes(data)
    with pytest.raises(InputError):
        Clip.load(tmp_path / "a.npz")


def test_unknown_suffix_lists_what_is_supported(make_clip: MakeClip, tmp_path: Path) -> None:
    with pytest.raises(UsageError, match=r"\.glb, \.npz, \.bvh, \.obj, \.json"):
        make_clip().save(tmp_path / "a.fbx")
    assert os.listdir(tmp_path) == []
