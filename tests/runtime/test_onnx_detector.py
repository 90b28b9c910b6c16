"""Tiny ONNX models that answer with fixed numbers in the layout of each family."""

from __future__ import annotations

import sys
from pathlib import Path

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper

from fasthmr.errors import InputError, MissingExtra, UnsafeFileError, UsageError
from fasthmr.runtime.onnx_detector import OnnxDetector

SIDE = 96
WIDE = np.full((30, 60, 3), 90, dtype=np.uint8)  # fits 96x96 with scale 1.6, 48 rows high
SCALE = SIDE / 60
# A person in pixels of WIDE that must come back whatever the layout.
PERSON = np.array([10.0, 5.0, 30.0, 25.0])


def write_model(
    path: Path, outputs: dict[str, np.ndarray], *, size_input: bool = False, dynamic: bool = False
) -> Path:
    """A model that ignores its picture and returns the arrays."""
    sides = ["h", "w"] if dynamic else [SIDE, SIDE]
    inputs = [helper.make_tensor_value_info("images", TensorProto.FLOAT, [1, 3, *sides])]
    if size_input:
        inputs.append(helper.make_tensor_value_info("orig_target_sizes", TensorProto.INT64, [1, 2]))
    nodes, infos = [], []
    for name, value in outputs.items():
        nodes.append(helper.make_node("Constant", [], [name], value=numpy_helper.from_array(value)))
        kind = helper.np_dtype_to_tensor_dtype(value.dtype)
        infos.append(helper.make_tensor_value_info(name, kind, value.shape))
    graph = helper.make_graph(nodes, "detector", inputs, infos)
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)
    onnx.save(model, path)
    return path


def float32(*rows: list[float]) -> np.ndarray:
    return np.array(rows, dtype=np.float32)[None]


def to_center(box: np.ndarray) -> np.ndarray:
    return np.concatenate([(box[:2] + box[2:]) / 2, box[2:] - box[:2]])


def yolox_outputs(box: np.ndarray, *, decoded: bool) -> np.ndarray:
    """85 columns on the grids of strides 8, 16, 32: one person and, elsewhere, one car."""
    rows = sum((SIDE // stride) ** 2 for stride in (8, 16, 32))
    table = np.zeros((1, rows, 85), dtype=np.float32)
    center = to_center(box)
    if decoded:
        table[0, 3, :4] = center
        table[0, :, :4] += [100, 0, 0, 0] * (np.arange(rows) == 50)[:, None]
    else:
        table[0, 3, :4] = [center[0] / 8 - 3, center[1] / 8, np.log(center[2] / 8), np.log(center[3] / 8)]
    table[0, 3, [4, 5]] = 0.9, 1.0
    table[0, 40, [4, 7]] = 1.0, 1.0
    return table


def layouts() -> dict[str, tuple[dict[str, np.ndarray], bool]]:
    corner = PERSON * SCALE
    centered = corner + np.array([0, 24, 0, 24])
    normalised = to_center(PERSON) / [60, 30, 60, 30]
    yolo = np.zeros((1, 84, 200), dtype=np.float32)
    yolo[0, :4, 7], yolo[0, 4, 7] = to_center(centered), 0.9
    yolo[0, :4, 8], yolo[0, 6, 8] = to_center(centered), 0.95  # a car in the same place
    masks = np.zeros((1, 32, 16, 16), dtype=np.float32)
    segmentation = np.concatenate([yolo, np.ones((1, 32, 200), dtype=np.float32)], axis=1)
    logits = np.full((1, 3, 80), -9, dtype=np.float32)
    logits[0, 1, 0], logits[0, 2, 5] = 2.2, 5
    coco = np.full((1, 3, 91), -9, dtype=np.float32)
    coco[0, 1, 1] = 2.2
    boxes = float32([0.5, 0.5, 0.1, 0.1], list(normalised), [0.5, 0.5, 0.1, 0.1])
    dets = float32([*corner, 0.9], [*corner, 0.8], [0, 0, 9, 9, 0.99])
    labels = np.array([[0, 0, 2]], dtype=np.int64)
    scores = np.array([[0.9, 0.2, 0.99]], dtype=np.float32)
    return {
        "yolox": ({"output": yolox_outputs(corner, decoded=False)}, False),
        "yolox decoded": ({"output": yolox_outputs(corner, decoded=True)}, False),
        "yolox_nms": ({"dets": dets, "labels": labels}, False),
        "rtmdet": ({"dets": dets, "labels": labels}, False),
        "rtmdet people only": ({"output": dets[:, :2]}, False),
        "detr_scores": (
            {"labels": labels, "boxes": float32(list(PERSON), [0, 0, 5, 5], [0, 0, 9, 9]), "scores": scores},
            True,
        ),
        "detr_logits": ({"logits": logits, "pred_boxes": boxes}, False),
        "rf_detr": ({"dets": boxes, "labels": coco}, False),
        "yolo11": ({"output0": yolo}, False),
        "yolo11 seg": ({"output0": segmentation, "output1": masks}, False),
        "yolo_end_to_end": ({"output0": float32([*centered, 0.9, 0], [0, 0, 9, 9, 0.9, 2])}, False),
    }


@pytest.mark.parametrize("name", list(layouts()))
def test_every_layout_gives_the_person_in_pixels_of_the_picture(name: str, tmp_path: Path) -> None:
    outputs, size_input = layouts()[name]
    detector = OnnxDetector(write_model(tmp_path / f"{name}.onnx", outputs, size_input=size_input))
    assert detector.layout == name.split()[0]
    found = detector(WIDE)
    assert found.boxes_xyxy.shape == (1, 4)
    np.testing.assert_allclose(found.boxes_xyxy[0].numpy(), PERSON, atol=1e-3)
    assert float(found.scores[0]) == pytest.approx(0.9, abs=2e-3)


def test_boxes_are_clipped_and_overlaps_suppressed(tmp_path: Path) -> None:
    dets = float32([-9, -9, 99, 99, 0.9], [-8, -9, 99, 99, 0.8], [0, 0, 3, 3, 0.4], [80, 80, 90, 90, 0.9])
    labels = np.zeros((1, 4), dtype=np.int64)
    found = OnnxDetector(write_model(tmp_path / "r.onnx", {"dets": dets, "labels": labels}))(WIDE)
    assert found.boxes_xyxy.tolist() == [[0, 0, 60, 30]]


def test_layout_can_be_given_and_inputs_can_be_dynamic(tmp_path: Path) -> None:
    dets = float32([10.0, 10, 50, 50, 0.9])
    path = write_model(tmp_path / "own.onnx", {"dets": dets}, dynamic=True)
    assert OnnxDetector(path, layout="yolox_nms").layout == "yolox_nms"


class _Seen:
    """Stands for the session and keeps what it is given."""

    def __init__(self, session: object) -> None:
        self.session = session
        self.feeds: list[dict[str, np.ndarray]] = []

    def run(self, names: object, feed: dict[str, np.ndarray]) -> list[np.ndarray]:
        self.feeds.append(feed)
        return self.session.run(names, feed)


@pytest.mark.parametrize(
    ("layout", "pixel", "pad_at", "pad"),
    [
        ("yolox", [30, 20, 10], (90, 0), [114] * 3),
        ("yolo11", [10 / 255, 20 / 255, 30 / 255], (0, 0), [114 / 255] * 3),
        ("detr_logits", [10 / 255, 20 / 255, 30 / 255], (0, 0), [10 / 255, 20 / 255, 30 / 255]),
        ("rtmdet", [(30 - 103.53) / 57.375, (20 - 116.28) / 57.12, (10 - 123.675) / 58.395], None, None),
        (
            "rf_detr",
            [(10 / 255 - 0.485) / 0.229, (20 / 255 - 0.456) / 0.224, (30 / 255 - 0.406) / 0.225],
            None,
            None,
        ),
    ],
)
def test_pictures_are_prepared_as_each_family_wants(
    layout: str, pixel: list[float], pad_at: tuple[int, int] | None, pad: list[float] | None, tmp_path: Path
) -> None:
    outputs, size_input = layouts()[layout]
    detector = OnnxDetector(write_model(tmp_path / "m.onnx", outputs, size_input=size_input), layout=layout)
    detector._session = seen = _Seen(detector._session)
    rgb = np.broadcast_to(np.array([10, 20, 30], dtype=np.uint8), (30, 60, 3)).copy()
    detector(rgb)
    picture = seen.feeds[0]["images"][0]
    row = 48 if layout == "yolo11" else 10
    np.testing.assert_allclose(picture[:, row, 30], pixel, rtol=1e-5)
    if pad_at is not None:
        np.testing.assert_allclose(picture[:, pad_at[0], pad_at[1]], pad, rtol=1e-5)


def test_files_that_are_no_detectors(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(InputError, match="no such file"):
        OnnxDetector(tmp_path / "none.onnx")
    broken = tmp_path / "broken.onnx"
    broken.write_bytes(b"not a model")
    with pytest.raises(UnsafeFileError, match=r"broken\.onnx: not a usable ONNX model"):
        OnnxDetector(broken)
    odd = write_model(tmp_path / "odd.onnx", {"features": np.zeros((1, 7), dtype=np.float32)})
    with pytest.raises(UsageError, match=r"features \(1, 7\) fit no known layout"):
        OnnxDetector(odd)
    inputs = [helper.make_tensor_value_info("x", TensorProto.INT64, [1])]
    node = helper.make_node("Identity", ["x"], ["y"])
    graph = helper.make_graph(
        [node], "g", inputs, [helper.make_tensor_value_info("y", TensorProto.INT64, [1])]
    )
    onnx.save(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8), odd)
    with pytest.raises(UsageError, match="takes float pictures"):
        OnnxDetector(odd)
    monkeypatch.setitem(sys.modules, "onnxruntime", None)
    with pytest.raises(MissingExtra, match=r"fasthmr\[export\]"):
        OnnxDetector(odd)


def test_data_outside_the_file_is_not_read(tmp_path: Path) -> None:
    secret = tmp_path / "secret.bin"
    secret.write_bytes(np.ones((1, 3, 5), dtype=np.float32).tobytes())
    tensor = numpy_helper.from_array(np.ones((1, 3, 5), dtype=np.float32), "dets")
    tensor.ClearField("raw_data")
    tensor.data_location = TensorProto.EXTERNAL
    entry = tensor.external_data.add()
    entry.key, entry.value = "location", str(secret)
    inputs = [helper.make_tensor_value_info("images", TensorProto.FLOAT, [1, 3, SIDE, SIDE])]
    info = helper.make_tensor_value_info("out", TensorProto.FLOAT, [1, 3, 5])
    graph = helper.make_graph(
        [helper.make_node("Identity", ["dets"], ["out"])], "g", inputs, [info], [tensor]
    )
    path = tmp_path / "external.onnx"
    path.write_bytes(helper.make_model(graph, ir_version=8).SerializeToString())
    with pytest.raises(UnsafeFileError, match="not a usable ONNX model"):
        OnnxDetector(path)
