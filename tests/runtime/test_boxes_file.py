from __future__ import annotations

import contextlib
import json
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from fasthmr.errors import InputError
from fasthmr.runtime.boxes_file import BoxesFile


def write(path: Path, text: str) -> Path:
    path.write_text(text, encoding="utf-8")
    return path


def test_json_by_path_relative_path_and_name(tmp_path: Path) -> None:
    content = {"a.jpg": [[1, 2, 3, 4, 0.5]], "sub/b.jpg": [[5, 6, 7, 8]], "sub/c.jpg": []}
    boxes = BoxesFile(write(tmp_path / "boxes.json", json.dumps(content)))
    assert len(boxes) == 3
    found = boxes.boxes_for(tmp_path / "elsewhere" / "a.jpg")
    assert found.boxes_xyxy.tolist() == [[1, 2, 3, 4]]
    assert found.scores.tolist() == [0.5]
    assert boxes.boxes_for(tmp_path / "sub" / "b.jpg").scores.tolist() == [1]
    assert boxes.boxes_for("sub/c.jpg").boxes_xyxy.shape == (0, 4)
    with pytest.raises(InputError, match=r"d\.jpg: no boxes in .*boxes\.json"):
        boxes.boxes_for("d.jpg")


@pytest.mark.parametrize("header", ["", "file,x1,y1,x2,y2,score\n"])
def test_csv(tmp_path: Path, header: str) -> None:
    text = header + "a.jpg,1,2,3,4,0.5\na.jpg, 5, 6, 7, 8\n\nnobody.jpg\nempty.jpg,,,,\n"
    boxes = BoxesFile(write(tmp_path / "boxes.csv", text))
    assert boxes.boxes_for("a.jpg").boxes_xyxy.tolist() == [[1, 2, 3, 4], [5, 6, 7, 8]]
    assert boxes.boxes_for("a.jpg").scores.tolist() == [0.5, 1]
    assert len(boxes.boxes_for("nobody.jpg").scores) == 0
    assert len(boxes.boxes_for("empty.jpg").scores) == 0


def test_sides_of_hands(tmp_path: Path) -> None:
    content = {"a.jpg": [[1, 2, 3, 4, "left"], [5, 6, 7, 8, 0.5, "Right"], [5, 6, 7, 8]]}
    boxes = BoxesFile(write(tmp_path / "b.json", json.dumps(content)))
    assert boxes.tells_sides
    found = boxes.boxes_for("a.jpg", left=True)
    assert found.left is not None and found.left.tolist() == [True, False, True]
    assert found.scores.tolist() == [1, 0.5, 1]
    assert boxes.boxes_for("a.jpg").left is None
    table = "file,x1,y1,x2,y2,score,side\na.jpg,1,2,3,4,0.5,left\na.jpg,1,2,3,4,,right\na.jpg,1,2,3,4,left\n"
    given = BoxesFile(write(tmp_path / "b.csv", table)).boxes_for("a.jpg", left=False)
    assert given.left is not None and given.left.tolist() == [True, False, True]
    assert given.scores.tolist() == [0.5, 1, 1]
    assert not BoxesFile(write(tmp_path / "c.csv", "a.jpg,1,2,3,4")).tells_sides


def test_frames_of_videos(tmp_path: Path) -> None:
    content = {"clip.mp4#0": [[1, 2, 3, 4]], "clip.mp4#12": [], "sub/other.mp4#3": [[5, 6, 7, 8]], "7": []}
    boxes = BoxesFile(write(tmp_path / "b.json", json.dumps(content)))
    assert {number: len(found.scores) for number, found in boxes.frames_of("x/clip.mp4").items()} == {
        0: 1,
        12: 0,
    }
    assert list(boxes.frames_of(tmp_path / "sub" / "other.mp4")) == [3]
    assert list(boxes.frames_of("third.mp4")) == [7]
    numbered = BoxesFile(write(tmp_path / "b.csv", "frame,x1,y1,x2,y2\n0,1,2,3,4\n5,1,2,3,4,left\n"))
    found = numbered.frames_of("any.mp4", left=False)[5]
    assert found.left is not None and found.left.tolist() == [True]
    with pytest.raises(InputError, match=r"any\.mp4: no boxes in .*c\.json; name frames 'any\.mp4#0'"):
        BoxesFile(write(tmp_path / "c.json", '{"a.jpg": []}')).frames_of("any.mp4")


@pytest.mark.parametrize(
    ("name", "text", "message"),
    [
        ("b.json", "{", "not valid JSON"),
        ("b.json", "[" * 100_000, "not valid JSON"),
        ("b.json", "[1]", "holds a list"),
        ("b.json", '{"a": 3}', "list of boxes"),
        ("b.json", '{"a": [[1, 2, 3]]}', "four numbers"),
        ("b.json", '{"a": [[1, 2, 3, NaN]]}', "four numbers"),
        ("b.json", '{"a": [[1, 2, 3, true]]}', "four numbers"),
        ("b.json", '{"a": [[1, 2, 3, {}]]}', "four numbers"),
        ("b.csv", "a.jpg,1,2,three,4", "four numbers"),
        ("b.csv", "a.jpg,1,2,3,4,5,6", "four numbers"),
        ("b.csv", "a.jpg,1,2,3,left", "four numbers"),
        ("b.json", '{"a": [[1, 2, 3, 4, 0.5, "up"]]}', "perhaps 'left' or 'right'"),
    ],
)
def test_damaged_files_are_refused_by_name(tmp_path: Path, name: str, text: str, message: str) -> None:
    with pytest.raises(InputError, match=message) as caught:
        BoxesFile(write(tmp_path / name, text))
    assert name in str(caught.value)


def test_missing_and_binary_files(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="cannot be read"):
        BoxesFile(tmp_path / "none.json")
    with pytest.raises(InputError, match="cannot be read"):
        BoxesFile(tmp_path)
    (tmp_path / "b.json").write_bytes(b"\xff\xfe\x00\x81")
    with pytest.raises(InputError, match="UTF-8"):
        BoxesFile(tmp_path / "b.json")


@settings(max_examples=80, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(content=st.binary(max_size=60), suffix=st.sampled_from([".json", ".csv"]))
def test_any_bytes_give_boxes_or_an_input_error(tmp_path: Path, content: bytes, suffix: str) -> None:
    path = tmp_path / f"fuzz{suffix}"
    path.write_bytes(content)
    with contextlib.suppress(InputError):
        BoxesFile(path)
