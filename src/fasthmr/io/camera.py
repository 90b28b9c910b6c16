"""Cameras of this machine, through OpenCV."""

from __future__ import annotations

import math
import time
from collections.abc import Iterator

import numpy as np

from fasthmr.errors import InputError
from fasthmr.io.video import FPS_RANGE, VideoDamage, VideoFrame, VideoReader, check_size
from fasthmr.results import DEFAULT_FPS


class Camera(VideoReader):
    """Frames of one camera; its clock starts with the first frame."""

    live = paced = True

    def __init__(self, number: int, max_pixels: int) -> None:
        import cv2
        from cv2.utils import logging

        self.name = f"camera {number}"
        level = logging.setLogLevel(logging.LOG_LEVEL_SILENT)
        self._capture = cv2.VideoCapture(number)
        logging.setLogLevel(level)
        found, first = self._capture.read()
        if not found:
            self._capture.release()
            raise InputError(f"{self.name}: gives no picture; is it connected, free and permitted?")
        self.size = (first.shape[1], first.shape[0])
        check_size(self.name, *self.size, max_pixels)
        rate = float(self._capture.get(cv2.CAP_PROP_FPS))
        self.fps = rate if FPS_RANGE[0] < rate < FPS_RANGE[1] else DEFAULT_FPS
        self._first = first

    def __iter__(self) -> Iterator[VideoFrame]:
        start = time.monotonic()
        bgr, index, last = self._first, 0, -math.inf
        while bgr is not None:
            last = now = max(time.monotonic() - start, last + 1e-3, 0.0)
            yield VideoFrame(index=index, time_s=now, rgb=np.ascontiguousarray(bgr[..., ::-1]))
            index += 1
            _, bgr = self._capture.read()
        self.damage = VideoDamage(decoded=index, expected=None, damaged=0, reason="the camera went away")

    def close(self) -> None:
        self._capture.release()
