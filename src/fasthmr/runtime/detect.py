"""Where people are in a picture: one protocol, and the ways to fulfil it."""

from __future__ import annotations

from pathlib import Path
from typing import Protocol, runtime_checkable

import numpy as np
import torch
from jaxtyping import UInt8

from fasthmr.errors import InputError, UsageError, did_you_mean
from fasthmr.geometry.boxes import clip_boxes
from fasthmr.types import Detections


@runtime_checkable
class Detector(Protocol):
    """Anything that finds people in an RGB picture."""

    def __call__(self, rgb: UInt8[np.ndarray, "height width 3"]) -> Detections: ...


class FullFrame:
    """Takes the whole picture as the box of one person."""

    def __call__(self, rgb: UInt8[np.ndarray, "height width 3"]) -> Detections:
        height, width = rgb.shape[:2]
        return Detections(
            boxes_xyxy=torch.tensor([[0.0, 0.0, float(width), float(height)]]), scores=torch.ones(1)
        )


def load_detector(detector: str | Path | Detector) -> Detector:
    """A detector by name or file.

    Args:
        detector: "auto" for the one that comes with the package, "full" for the whole picture, the path
            of an ONNX person detector, or a detector itself.

    Raises:
        UsageError: The name is unknown.
        InputError: The file is missing.
        UnsafeFileError: The ONNX file cannot be used.
    """
    if not isinstance(detector, str | Path):
        return detector
    if str(detector).lower().endswith(".onnx"):
        from fasthmr.runtime.onnx_detector import OnnxDetector

        return OnnxDetector(detector)
    if detector == "auto":
        from fasthmr.runtime.person_detector import load_person_detector

        return load_person_detector()
    if detector == "full":
        return FullFrame()
    raise UsageError(
        f"unknown detector '{detector}'{did_you_mean(str(detector), ('auto', 'full'))}; "
        "use 'auto', 'full' or the path of an .onnx file"
    )


def check_boxes(given: Detections, image_size: tuple[int, int], source: str) -> Detections:
    """Given boxes cut at the edges of the picture, best score first.

    Args:
        image_size: Width and height of the picture in pixels.
        source: Name of the picture, for the message.

    Raises:
        InputError: A box is empty, not finite, or lies outside the picture.
    """
    width, height = image_size
    for index, box in enumerate(given.boxes_xyxy.tolist()):
        x1, y1, x2, y2 = box
        shown = ", ".join(f"{value:g}" for value in box)
        if not np.isfinite(box).all() or x1 >= x2 or y1 >= y2:
            raise InputError(
                f"{source}: box {index} ({shown}) is empty; needed: x1 < x2 and y1 < y2 in pixels"
            )
        if x1 >= width or y1 >= height or x2 <= 0 or y2 <= 0:
            raise InputError(
                f"{source}: box {index} ({shown}) lies outside the picture of {width}x{height} pixels; "
                "boxes are x1, y1, x2, y2 in pixels"
            )
    order = torch.argsort(given.scores, descending=True, stable=True)
    return Detections(
        boxes_xyxy=clip_boxes(given.boxes_xyxy[order], image_size),
        scores=given.scores[order],
        left=None if given.left is None else given.left[order],
    )
