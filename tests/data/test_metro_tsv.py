from __future__ import annotations

import base64
import contextlib
import json
from pathlib import Path

import cv2
import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from fasthmr.data.metro_tsv import MetroTsv
from fasthmr.errors import InputError
from tests.data.metro_files import label, write_tsv


def test_rows_of_a_data_set(tmp_path: Path) -> None:
    data = MetroTsv(write_tsv(tmp_path, 4, linelist=[2, 0]))
    assert len(data) == 2
    row = data[0]
    assert row.key == "picture_2" and row.rgb.shape == (60, 80, 3) and row.side == pytest.approx(50)
    assert row.center == (40, 30) and row.gender == "female" and row.has_3d and row.has_mesh
    assert row.rgb[0, 0].tolist() == pytest.approx([200, 20, 20], abs=12)  # red, green, blue
    assert row.labels.joints_2d.shape == (24, 3) and row.labels.pose.shape == (72,)
    whole = MetroTsv(tmp_path / "train.img.tsv")
    assert [whole[i].key for i in range(len(whole))] == [f"picture_{i}" for i in range(4)]


def test_offsets_are_found_where_no_file_has_them(tmp_path: Path) -> None:
    path = write_tsv(tmp_path, 3)
    for index in tmp_path.glob("*.lineidx"):
        index.unlink()
    assert [row.key for row in MetroTsv(path)] == ["picture_0", "picture_1", "picture_2"]


def test_flags_and_older_forms(tmp_path: Path) -> None:
    old = label(0) | {"has_2d_joints": 0, "has_3d_joints": [0], "has_smpl": 0, "gender": "m"}
    old["2d_joints"] = [old["2d_joints"]]  # a list of one
    row = MetroTsv(write_tsv(tmp_path, 1, labels=[old]))[0]
    assert not row.has_3d and not row.has_mesh and row.gender == "male"
    assert row.labels.joints_2d[:, 2].abs().max() == 0


def test_hands(tmp_path: Path) -> None:
    row = MetroTsv(write_tsv(tmp_path, 1, labels=[label(0, "hand")]), "hand")[0]
    assert row.labels.joints_3d.shape == (21, 4) and row.labels.pose.shape == (48,) and row.gender == ""
    with pytest.raises(InputError, match=r"row 0 \('picture_0'\): not a label"):
        MetroTsv(tmp_path / "train.yaml")[0]


@pytest.mark.parametrize("listed", [False, True])
def test_composite_sets(tmp_path: Path, listed: bool) -> None:
    for name in ("a", "b"):
        write_tsv(tmp_path, 3, name=name)
    (tmp_path / "lines.tsv").write_text("1\t2\n0\t0\n")
    if listed:
        for kind in ("img", "label"):
            (tmp_path / f"{kind}.txt").write_text(f"a.{kind}.tsv\nb.{kind}.tsv\n")
        text = "composite: true\nimg: img.txt\nlabel: label.txt\nlinelist: lines.tsv\n"
    else:
        text = "composite: True\nimg:\n  - a.img.tsv\n  - b.img.tsv\nlabel: [a.label.tsv, 'b.label.tsv']\n"
        text += "hw: hw.txt # not needed\nlinelist: lines.tsv\n"
    (tmp_path / "both.yaml").write_text(text)
    assert [row.key for row in MetroTsv(tmp_path / "both.yaml")] == ["picture_2", "picture_0"]


@pytest.mark.parametrize(
    ("name", "text", "message"),
    [
        ("train.yaml", "img: train.img.tsv\n", "names no 'label'"),
        ("train.yaml", "img: train.img.tsv\nlabel: none.tsv\n", r"none\.tsv: no such file"),
        (
            "train.yaml",
            "composite: true\nimg: [train.img.tsv]\nlabel: [train.label.tsv]\n",
            "needs a linelist",
        ),
        ("train.yaml", "one word\n", "is not 'key: file'"),
        ("train.linelist.tsv", "7\n", "names rows beyond"),
        ("train.linelist.tsv", "one\n", "not a list of rows"),
        ("train.label.lineidx", "0\n5\n5\n", "not the offsets"),
        ("train.label.lineidx", "0\n", "1 rows for 2 pictures"),
    ],
)
def test_sets_that_cannot_be_read(tmp_path: Path, name: str, text: str, message: str) -> None:
    path = write_tsv(tmp_path, 2, linelist=[0, 1])
    (tmp_path / name).write_text(text)
    with pytest.raises(InputError, match=message):
        MetroTsv(path)


def test_rows_that_cannot_be_read(tmp_path: Path) -> None:
    short = label(0) | {"pose": [0.0] * 69}
    wild = label(0) | {"center": [float("nan"), 0]}
    less = {key: value for key, value in label(0).items() if key != "betas"}
    data = MetroTsv(write_tsv(tmp_path, 3, labels=[short, wild, less]))
    for index, message in enumerate(("69 numbers", "not finite", "KeyError: 'betas'")):
        with pytest.raises(InputError, match=message):
            data[index]
    for name, picture, message in (
        ("c", "no base64 !", "not base64"),
        ("d", base64.b64encode(b"no picture").decode(), "the picture is damaged"),
    ):
        path = write_tsv(tmp_path, 1, name=name, pictures=[picture])
        with pytest.raises(InputError, match=message):
            MetroTsv(path)[0]
    path = write_tsv(tmp_path, 2, name="e")
    text = (tmp_path / "e.label.tsv").read_text().replace("picture_1", "picture_7")
    (tmp_path / "e.label.tsv").write_text(text)
    with pytest.raises(InputError, match="row 1 is 'picture_7', the picture is 'picture_1'"):
        MetroTsv(path)[1]


@settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    content=st.binary(max_size=50),
    name=st.sampled_from(["yaml", "label.tsv", "label.lineidx", "linelist.tsv"]),
)
def test_any_bytes_give_rows_or_an_input_error(tmp_path: Path, content: bytes, name: str) -> None:
    path = write_tsv(tmp_path, 2, linelist=[1])
    (tmp_path / f"train.{name}").write_bytes(content)
    with contextlib.suppress(InputError):
        data = MetroTsv(path)
        data[0]


def test_pictures_come_as_they_were_written(tmp_path: Path) -> None:
    rgb = np.random.default_rng(0).integers(0, 256, (8, 8, 3), dtype=np.uint8)
    coded = base64.b64encode(cv2.imencode(".png", rgb[..., ::-1])[1].tobytes()).decode()
    row = MetroTsv(write_tsv(tmp_path, 1, pictures=[coded]))[0]
    np.testing.assert_array_equal(row.rgb, rgb)
    assert json.loads((tmp_path / "train.hw.tsv").read_text().split("\t")[1]) == [{"height": 60, "width": 80}]
