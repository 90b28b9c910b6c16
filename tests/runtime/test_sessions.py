"""Exported files of strangers."""

from __future__ import annotations

import json
import os
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from onnx import TensorProto, helper, numpy_helper

from fasthmr.errors import InputError, MissingExtra, UnsafeFileError, UsageError
from fasthmr.runtime.backends import default_mask, load_exported
from fasthmr.runtime.export_info import METADATA_KEY, ExportInfo
from fasthmr.runtime.sessions import check_onnx

INFO = ExportInfo(kind="mesh", model="m", crop_size=8, encoder_size=(8, 6))
BETAS = np.arange(10, dtype=np.float32)


def write(
    path: Path, info: ExportInfo | str | None = INFO, location: str | None = None, camera: int = 3
) -> Path:
    """A model that answers with the same for every crop; the betas may lie elsewhere."""
    weight = numpy_helper.from_array(BETAS, "weight")
    if location is not None:
        weight.ClearField("raw_data")
        weight.data_location = TensorProto.EXTERNAL
        for key, value in {"location": location, "offset": "0", "length": "40"}.items():
            entry = weight.external_data.add()
            entry.key, entry.value = key, value
    shapes = {"global_orient": [1, 1, 3, 3], "body_pose": [1, 2, 3, 3], "camera": [1, camera]}
    stored = [numpy_helper.from_array(np.ones(s, dtype=np.float32), f"w_{n}") for n, s in shapes.items()]
    axes = numpy_helper.from_array(np.array([0]), "axes")
    nodes = [helper.make_node("Unsqueeze", ["weight", "axes"], ["betas"])]
    nodes += [helper.make_node("Identity", [f"w_{name}"], [name]) for name in shapes]
    outputs = [helper.make_tensor_value_info(n, TensorProto.FLOAT, s) for n, s in shapes.items()]
    outputs.append(helper.make_tensor_value_info("betas", TensorProto.FLOAT, [1, 10]))
    pixels = helper.make_tensor_value_info("pixels", TensorProto.FLOAT, [1, 3, 8, 8])
    graph = helper.make_graph(nodes, "g", [pixels], outputs, [weight, axes, *stored])
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=9)
    if info is not None:
        text = info if isinstance(info, str) else info.to_json()
        helper.set_model_props(model, {METADATA_KEY: text})
    path.write_bytes(model.SerializeToString())
    return path


@pytest.mark.parametrize("engine", ["onnxruntime", "openvino"])
def test_weights_beside_the_file(tmp_path: Path, engine: str) -> None:
    BETAS.tofile(tmp_path / "m.onnx.data")
    model = load_exported(write(tmp_path / "m.onnx", location="m.onnx.data"), engine)
    output = model(torch.zeros(1, 3, 8, 8))
    assert output.params.betas.tolist() == [BETAS.tolist()]
    assert model.precision == "float32" and model.engine == engine


def test_the_digest_covers_files_and_engine(tmp_path: Path) -> None:
    BETAS.tofile(tmp_path / "m.onnx.data")
    path = write(tmp_path / "m.onnx", location="m.onnx.data")
    before = load_exported(path).file_digest.tolist()
    assert load_exported(path, "openvino").file_digest.tolist() != before
    (BETAS + 1).tofile(tmp_path / "m.onnx.data")
    assert load_exported(path).file_digest.tolist() != before


@pytest.mark.parametrize("engine", ["onnxruntime", "openvino"])
@pytest.mark.parametrize("where", ["absolute", "up", "link", "folder", "missing", "short", "backslash"])
def test_weights_elsewhere_are_refused(tmp_path: Path, where: str, engine: str) -> None:
    folder = tmp_path / "inner"
    (folder / "deep").mkdir(parents=True)
    secret = tmp_path / "secret"
    BETAS.tofile(secret)
    BETAS.tofile(folder / "deep" / "data")
    BETAS[:3].tofile(folder / "short")
    os.symlink(secret, folder / "link")
    location = {
        "absolute": str(secret),
        "up": "../secret",
        "folder": "deep/data",
        "backslash": "..\\secret",
    }.get(where, where)
    path = write(folder / "m.onnx", location=location)
    with pytest.raises(UnsafeFileError, match=r"m\.onnx: "):
        load_exported(path, engine)


def test_weights_elsewhere_inside_of_operators_are_refused(tmp_path: Path) -> None:
    inner = numpy_helper.from_array(BETAS, "inner")
    inner.ClearField("raw_data")
    inner.data_location = TensorProto.EXTERNAL
    entry = inner.external_data.add()
    entry.key, entry.value = "location", "../secret"
    node = helper.make_node("Constant", [], ["y"], value=inner)
    branch = helper.make_graph([node], "b", [], [helper.make_tensor_value_info("y", 1, [10])])
    choice = helper.make_node("If", ["c"], ["z"], then_branch=branch, else_branch=branch)
    given = helper.make_tensor_value_info("c", TensorProto.BOOL, [])
    graph = helper.make_graph([choice], "g", [given], [helper.make_tensor_value_info("z", 1, [10])])
    path = tmp_path / "m.onnx"
    path.write_bytes(helper.make_model(graph, ir_version=9).SerializeToString())
    with pytest.raises(UnsafeFileError, match="not in a file beside it"):
        check_onnx(path)


@pytest.mark.parametrize(
    "change",
    [
        {"kind": "other"},
        {"crop_size": 10**9},
        {"crop_size": True},
        {"crop_size": "8"},
        {"encoder_size": [8]},
        {"encoder_size": [3, 2]},
        {"encoder_size": [8, 16]},
        {"trained_body": "x"},
        {"takes_mask": 1},
        {"crop_aspect": [0, 1]},
        {"model": None},
    ],
)
def test_damaged_records(tmp_path: Path, change: dict) -> None:
    text = json.dumps({**json.loads(INFO.to_json()), **change})
    with pytest.raises(UnsafeFileError, match="is damaged"):
        load_exported(write(tmp_path / "m.onnx", text))


def test_files_that_are_none(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    assert ExportInfo.from_json(INFO.to_json(), "") == INFO
    for text in ("", "[]", "{", "[" * 9999, json.dumps({"kind": "mesh"}), "x" * (2 << 20)):
        with pytest.raises(UnsafeFileError, match="is damaged"):
            ExportInfo.from_json(text, "m")
    with pytest.raises(UnsafeFileError, match="fasthmr did not write this"):
        load_exported(write(tmp_path / "m.onnx", None))
    with pytest.raises(InputError, match="no such exported model"):
        load_exported(tmp_path / "none.onnx")
    for name in ("broken.onnx", "broken.xml"):
        (tmp_path / name).write_bytes(b"\xff\xffnot a model")
        with pytest.raises(UnsafeFileError, match="broken"):
            load_exported(tmp_path / name)
    whole = write(tmp_path / "m.onnx")
    with pytest.raises(UsageError, match="bfloat16 needs openvino"):
        load_exported(whole, precision="bfloat16")
    with pytest.raises(UnsafeFileError, match="the model fails on its input"):
        load_exported(whole)(torch.zeros(2, 3, 8, 8))
    other = write(tmp_path / "other.onnx", camera=4)
    with pytest.raises(UnsafeFileError, match=r"gives 'camera' of shape \(1, 4\)"):
        load_exported(other)(torch.zeros(1, 3, 8, 8))
    os.rename(whole, tmp_path / "m.bin")
    with pytest.raises(UsageError, match=r"end in \.onnx or \.xml"):
        load_exported(tmp_path / "m.bin")
    for package in ("onnx", "onnxruntime", "openvino"):
        with monkeypatch.context() as patch:
            patch.setitem(sys.modules, package, None)
            with pytest.raises(MissingExtra, match=rf"{package} is not.*fasthmr\[export\]"):
                load_exported(write(tmp_path / "m.onnx"), "openvino" if package == "openvino" else "auto")


def test_cut_files_are_told(tmp_path: Path) -> None:
    whole = write(tmp_path / "m.onnx").read_bytes()
    path = tmp_path / "cut.onnx"
    for length in range(0, len(whole), 37):
        path.write_bytes(whole[:length])
        with pytest.raises(UnsafeFileError, match="cut"):
            load_exported(path)


def test_the_default_mask() -> None:
    mask = default_mask(16, (8, 6))
    assert mask.shape == (1, 16, 16)
    assert float(mask[..., :2].sum()) == 0 and float(mask[0, 8, 8]) == 1
    assert torch.equal(mask, mask.flip(1)) and torch.equal(mask, mask.flip(2))
