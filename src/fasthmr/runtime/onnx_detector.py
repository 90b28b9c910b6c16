"""Person detectors of the user in ONNX form, with the output layouts of the common families."""

from __future__ import annotations

import importlib
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch
from jaxtyping import Float, UInt8

from fasthmr.errors import InputError, MissingExtra, UnsafeFileError, UsageError
from fasthmr.geometry.boxes import clip_boxes, nms
from fasthmr.geometry.crops import IMAGENET_MEAN, IMAGENET_STD
from fasthmr.types import Detections

LayoutName = Literal[
    "yolox", "yolox_nms", "rtmdet", "detr_scores", "detr_logits", "rf_detr", "yolo11", "yolo_end_to_end"
]
Outputs = Mapping[str, np.ndarray]
_GREY = 114
_DEFAULT_SIDE = 640
_MAX_BYTES = 2 << 30
_TYPES = {"tensor(float)": np.float32, "tensor(float16)": np.float16}


@dataclass(frozen=True, kw_only=True)
class _Layout:
    """How a family wants its picture: where padding goes, channel order, mean and scale of grey levels."""

    fit: Literal["corner", "center", "stretch"]
    bgr: bool = False
    mean: tuple[float, float, float] = (0.0, 0.0, 0.0)
    scale: tuple[float, float, float] = (1 / 255, 1 / 255, 1 / 255)


_PLAIN = (1.0, 1.0, 1.0)
_IMAGENET = _Layout(
    fit="stretch",
    mean=(255 * IMAGENET_MEAN[0], 255 * IMAGENET_MEAN[1], 255 * IMAGENET_MEAN[2]),
    scale=(1 / (255 * IMAGENET_STD[0]), 1 / (255 * IMAGENET_STD[1]), 1 / (255 * IMAGENET_STD[2])),
)
_LAYOUTS: dict[LayoutName, _Layout] = {
    "yolox": _Layout(fit="corner", bgr=True, scale=_PLAIN),
    "yolox_nms": _Layout(fit="corner", bgr=True, scale=_PLAIN),
    # mmdet keeps BGR and lists the ImageNet mean in that order.
    "rtmdet": _Layout(
        fit="corner", bgr=True, mean=(103.53, 116.28, 123.675), scale=(1 / 57.375, 1 / 57.12, 1 / 58.395)
    ),
    "detr_scores": _Layout(fit="stretch"),
    "detr_logits": _Layout(fit="stretch"),
    "rf_detr": _IMAGENET,
    "yolo11": _Layout(fit="center"),
    "yolo_end_to_end": _Layout(fit="center"),
}


class OnnxDetector:
    """Runs a person detector through onnxruntime; the layout is told from output names and shapes.

    Known layouts: YOLOX with raw grid outputs, YOLOX and RTMDet with suppression inside ("dets", "labels"),
    RT-DETR and D-FINE (with scores or with logits), RF-DETR, YOLOv8/11 with or without masks, and
    end-to-end YOLO. Models trained on COCO or on people alone are understood.

    Args:
        layout: Name of the layout where it should not be guessed.
        min_score: Detections below are dropped.
        max_iou: Of two boxes that overlap more, the better one stays.

    Raises:
        MissingExtra: onnxruntime is not installed.
        InputError: There is no such file.
        UnsafeFileError: Not an ONNX model that runs.
        UsageError: The outputs are of no known layout.
    """

    def __init__(
        self,
        path: str | Path,
        *,
        layout: LayoutName | Literal["auto"] = "auto",
        min_score: float = 0.5,
        max_iou: float = 0.65,
    ) -> None:
        self.path = Path(path)
        self.min_score = min_score
        self.max_iou = max_iou
        self._session = open_session(self.path)
        image_input, *others = self._session.get_inputs()
        self._image_input = image_input.name
        self._size_input = others[0].name if others else None
        self._dtype = _TYPES.get(image_input.type)
        shape = image_input.shape
        if self._dtype is None or len(shape) != 4 or shape[1] != 3 or len(others) > 1:
            raise UsageError(
                f"{self.path}: takes {[(i.name, i.type, i.shape) for i in self._session.get_inputs()]}; "
                "a detector takes float pictures (1, 3, height, width)"
            )
        self._input_size = tuple(side if isinstance(side, int) else _DEFAULT_SIDE for side in shape[2:])
        self._output_names = [output.name for output in self._session.get_outputs()]
        # Shapes in the file may be symbolic; a run on grey tells them.
        trial = self._infer(
            np.full((1, 3, *self._input_size), 0.4, dtype=self._dtype), self._input_size[::-1]
        )
        self.layout: LayoutName = self._recognise(trial) if layout == "auto" else layout

    def __call__(self, rgb: UInt8[np.ndarray, "height width 3"]) -> Detections:
        height, width = rgb.shape[:2]
        style = _LAYOUTS[self.layout]
        pixels, scale, offset = _fit(rgb, self._input_size, style)
        outputs = self._infer(pixels.astype(self._dtype), (width, height))
        boxes, scores = _decode(self.layout, outputs, self._input_size)
        if self.layout != "detr_scores":  # those come in pixels of the picture
            boxes = (boxes - np.tile(offset, 2)) / np.tile(scale, 2)
        keep = (scores >= self.min_score) & np.isfinite(boxes).all(1)
        candidates = clip_boxes(torch.from_numpy(boxes[keep]).float(), (width, height))
        confidence = torch.from_numpy(scores[keep]).float()
        solid = ((candidates[:, 2:] - candidates[:, :2]) >= 1).all(1)
        candidates, confidence = candidates[solid], confidence[solid].clamp(0, 1)
        kept = nms(candidates, confidence, self.max_iou)
        return Detections(boxes_xyxy=candidates[kept], scores=confidence[kept])

    def _infer(self, pixels: np.ndarray, image_size: tuple[int, ...]) -> Outputs:
        feed = {self._image_input: pixels}
        if self._size_input is not None:
            feed[self._size_input] = np.array([image_size], dtype=np.int64)
        try:
            values = self._session.run(None, feed)
        except runtime_errors() as error:
            raise UnsafeFileError(
                f"{self.path}: the detector fails on a picture ({first_line(error)})"
            ) from error
        return dict(zip(self._output_names, values, strict=True))

    def _recognise(self, outputs: Outputs) -> LayoutName:
        names = {name.lower() for name in outputs}
        shapes = [value.shape for value in outputs.values()]
        first = shapes[0]
        if {"logits", "pred_boxes"} <= names:
            return "detr_logits"
        if {"labels", "boxes", "scores"} <= names:
            return "detr_scores"
        if "dets" in names or (len(first) == 3 and first[2] == 5 and len(shapes) <= 2):
            dets = next((v.shape for k, v in outputs.items() if k.lower() == "dets"), first)
            if dets[-1] == 4:
                return "rf_detr"
            if dets[-1] == 5:
                return "yolox_nms" if "yolox" in self.path.stem.lower() else "rtmdet"
        if len(first) == 3:
            if len(shapes) == 1 and first[1] == len(_grid(self._input_size)[0]) > first[2] > 5:
                return "yolox"
            masks = _mask_channels(outputs)
            if first[2] == 6 + masks:
                return "yolo_end_to_end"
            if 4 + masks < first[1] < first[2]:
                return "yolo11"
        known = ", ".join(_LAYOUTS)
        described = ", ".join(f"{name} {value.shape}" for name, value in outputs.items())
        raise UsageError(f"{self.path}: outputs {described} fit no known layout ({known})")


def _decode(
    layout: LayoutName, outputs: Outputs, input_size: tuple[int, ...]
) -> tuple[Float[np.ndarray, "n 4"], Float[np.ndarray, "n"]]:
    """Boxes in pixels of the network input (of the picture for `detr_scores`) and scores of persons."""
    named = {name.lower(): value[0].astype(np.float64) for name, value in outputs.items() if value.ndim > 1}
    first = next(iter(named.values()))
    height, width = input_size
    if layout in ("yolox_nms", "rtmdet"):
        dets = named.get("dets", first)
        return dets[:, :4], dets[:, 4] * (named["labels"] == 0 if "labels" in named else 1)
    if layout == "detr_scores":
        return named["boxes"], named["scores"] * (named["labels"] == 0)
    if layout in ("detr_logits", "rf_detr"):
        logits = named["logits" if layout == "detr_logits" else "labels"]
        normalised = named["pred_boxes" if layout == "detr_logits" else "dets"]
        # 91 columns are COCO's own category numbers, where 1 is a person.
        person = 1 if logits.shape[1] > 90 else 0
        boxes = _corners(normalised * np.array([width, height, width, height]))
        return boxes, 1 / (1 + np.exp(-logits[:, person]))
    if layout == "yolo11":
        return _corners(first[:4].T), first[4]
    if layout == "yolo_end_to_end":
        return first[:, :4], first[:, 4] * (first[:, 5] == 0)
    scores = first[:, 4] * first[:, 5]
    boxes = first[:, :4]
    if np.abs(boxes).max() < 32:  # grid offsets and log sizes; decoded boxes reach across the picture
        corner, stride = _grid(input_size)
        boxes = np.concatenate([(boxes[:, :2] + corner) * stride, np.exp(boxes[:, 2:]) * stride], axis=1)
    return _corners(boxes), scores


def _grid(input_size: tuple[int, ...]) -> tuple[Float[np.ndarray, "n 2"], Float[np.ndarray, "n 1"]]:
    """Cell corners (x, y) and strides of YOLOX's three levels."""
    corners, strides = [], []
    for stride in (8, 16, 32):
        rows, columns = np.mgrid[: input_size[0] // stride, : input_size[1] // stride]
        corners.append(np.stack([columns.ravel(), rows.ravel()], axis=1).astype(np.float64))
        strides.append(np.full((rows.size, 1), float(stride)))
    return np.concatenate(corners), np.concatenate(strides)


def _corners(boxes: Float[np.ndarray, "n 4"]) -> Float[np.ndarray, "n 4"]:
    """Centre and size to opposite corners."""
    half = boxes[:, 2:] / 2
    return np.concatenate([boxes[:, :2] - half, boxes[:, :2] + half], axis=1)


def _mask_channels(outputs: Outputs) -> int:
    """Mask coefficients per box: the channels of the prototype maps that come beside."""
    return next((value.shape[1] for value in outputs.values() if value.ndim == 4), 0)


def _fit(
    rgb: UInt8[np.ndarray, "height width 3"], input_size: tuple[int, ...], style: _Layout
) -> tuple[Float[np.ndarray, "1 3 h w"], Float[np.ndarray, "2"], Float[np.ndarray, "2"]]:
    """The network input, and the scale and offset (x, y) from picture to input pixels."""
    import cv2

    target = np.array(input_size[::-1])
    size = np.array(rgb.shape[1::-1])
    scale = target / size if style.fit == "stretch" else np.full(2, (target / size).min())
    inner = np.maximum((size * scale).round().astype(int), 1)
    offset = (target - inner) // 2 if style.fit == "center" else np.zeros(2, dtype=int)
    canvas = np.full((*input_size, 3), _GREY, dtype=np.uint8)
    (x, y), (w, h) = offset.tolist(), inner.tolist()
    canvas[y : y + h, x : x + w] = cv2.resize(rgb, (w, h), interpolation=cv2.INTER_LINEAR)
    ordered = canvas[..., ::-1] if style.bgr else canvas
    levels = (ordered - np.array(style.mean)) * np.array(style.scale)
    return levels.transpose(2, 0, 1)[None].copy(), scale, offset.astype(np.float64)


def open_session(path: Path, wanted: str = "person detector") -> Any:
    """An onnxruntime session of a file from outside.

    Args:
        wanted: What the file should be, for messages.

    Raises:
        MissingExtra: onnxruntime is not installed.
        InputError: There is no such file.
        UnsafeFileError: Not an ONNX model.
    """
    try:
        import onnxruntime
    except ImportError as error:
        raise MissingExtra("onnxruntime", "export") from error
    if not path.is_file():
        raise InputError(f"{path}: no such file; give the path of an ONNX {wanted}")
    if path.stat().st_size > _MAX_BYTES:
        raise UnsafeFileError(f"{path}: more than {_MAX_BYTES >> 30} GB, not a {wanted}")
    options = onnxruntime.SessionOptions()
    options.log_severity_level = 4  # errors come as exceptions
    try:
        # From memory, so that a file cannot point to data elsewhere on the disk.
        return onnxruntime.InferenceSession(path.read_bytes(), options, providers=["CPUExecutionProvider"])
    except runtime_errors() as error:
        raise UnsafeFileError(f"{path}: not a usable ONNX model ({first_line(error)})") from error


def runtime_errors() -> tuple[type[Exception], ...]:
    """What onnxruntime raises; its exceptions have no common base of their own."""
    state = importlib.import_module("onnxruntime.capi.onnxruntime_pybind11_state")
    own = [
        value for value in vars(state).values() if isinstance(value, type) and issubclass(value, Exception)
    ]
    return (*own, RuntimeError, ValueError, MemoryError)


def first_line(error: Exception) -> str:
    """The start of a message, or the kind of error where there is none."""
    return (str(error).splitlines() or [type(error).__name__])[0]
