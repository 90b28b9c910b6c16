"""The camera of a picture: what the user says, else what is known, else what can be estimated.

Order of precedence, first that applies:

1. `focal` (pixels), `fov_deg` (horizontal) or `calib` (a file): the user's word, for every picture.
2. `intrinsics`: "exif" reads the picture's EXIF data and refuses pictures without; "model" asks the model's
   own intrinsics network; "hmr2" assumes HMR 2.0's long lens; the path of a weight file asks that network.
3. "auto" (default): a model that takes the camera as input gets EXIF where it is there and believable, else
   the estimate of its own network, else HMR 2.0's lens with a warning. Other models get HMR 2.0's lens, under
   which they were trained: their pose does not depend on the camera, only the distance does.

Squares of the sensor are taken as square pixels with the principal point in the centre, except with `calib`.
"""

from __future__ import annotations

import logging
import math
from collections import OrderedDict
from collections.abc import Hashable, Sequence
from dataclasses import dataclass
from pathlib import Path
from statistics import median
from typing import Literal, Protocol, runtime_checkable

import numpy as np
import torch
from jaxtyping import Float, UInt8
from torch import Tensor

from fasthmr.errors import InputError, UsageError, did_you_mean
from fasthmr.geometry.cameras import default_focal, fov_to_focal, intrinsics
from fasthmr.io.exif import read_focal
from fasthmr.runtime.calibration import Calibration, read_calibration

CameraSource = Literal["focal", "fov", "calib", "exif", "network", "hmr2"]
"""Where a camera comes from: three ways to say it, EXIF data, an intrinsics network, HMR 2.0's long lens."""

CHOICES = ("auto", "exif", "model", "hmr2")

TRACK_SAMPLES = 5
_CACHED_SOURCES = 1024
_FOCAL_RANGE = (0.1, 100.0)  # of an estimate, in longer sides of the picture

_log = logging.getLogger(__name__)

Picture = UInt8[np.ndarray, "height width 3"]


@runtime_checkable
class IntrinsicsNetwork(Protocol):
    """Estimates the focal length of a whole picture, such as `models.human_fov.HumanFoV`."""

    def estimate(self, rgb: Picture) -> float:
        """Focal length in pixels of this picture."""
        ...


@dataclass(frozen=True, kw_only=True)
class PictureCamera:
    """A pinhole camera and where it comes from.

    Attributes:
        K: Matrix in pixels of the full picture.
    """

    K: Float[Tensor, "3 3"]
    source: CameraSource

    @property
    def focal(self) -> Float[Tensor, ""]:
        """Focal length in pixels; the geometric mean where pixels are not square."""
        return (self.K[0, 0] * self.K[1, 1]).sqrt()

    @property
    def principal(self) -> Float[Tensor, "2"]:
        """Principal point (x, y) in pixels."""
        return self.K[:2, 2]


class IntrinsicsEstimator:
    """Gives each picture or track its camera, by the order of this module's docstring.

    Reading and estimating are done once for each source and remembered.

    Args:
        focal: Focal length in pixels.
        fov_deg: Horizontal field of view in degrees.
        calib: Camera file, or what was read from it, see `runtime.calibration`.
        choice: One of `CHOICES`, or "network" to use `network` whatever the EXIF data say.
        network: Estimates focal lengths where needed.
        takes_camera: Whether the model's pose depends on the camera.

    Raises:
        UsageError: Options that exclude each other or are out of range.
        InputError: The camera file cannot be used.
    """

    def __init__(
        self,
        *,
        focal: float | None = None,
        fov_deg: float | None = None,
        calib: str | Path | Calibration | None = None,
        choice: str = "auto",
        network: IntrinsicsNetwork | None = None,
        takes_camera: bool = False,
    ) -> None:
        check_camera_options(focal, fov_deg, calib, choice)
        if choice in ("model", "network") and network is None:
            raise UsageError(
                "this model has no intrinsics network; give the weight file of one, or focal, fov or calib"
            )
        self.focal, self.fov_deg, self.choice = focal, fov_deg, choice
        self.calibration = read_calibration(calib) if isinstance(calib, str | Path) else calib
        self.network = network
        self.takes_camera = takes_camera
        self._known: OrderedDict[Hashable, PictureCamera] = OrderedDict()
        self._warned = False

    def settings(self) -> list[object]:
        """Everything that shapes the cameras, beside the weights of the network, as JSON values."""
        K = None if self.calibration is None else [self.calibration.K.tolist(), self.calibration.image_size]
        return [self.focal, self.fov_deg, K, self.choice, self.takes_camera]

    def for_picture(self, rgb: Picture, path: Path | None = None) -> PictureCamera:
        """The camera of a picture.

        Args:
            path: File of the picture, to read its EXIF data and to remember the camera by.

        Raises:
            InputError: The camera file does not fit the picture, or "exif" was asked for and there is none.
        """
        size = (rgb.shape[1], rgb.shape[0])
        said = self._said(size)
        if said is not None:
            return said
        key = None if path is None else _identity(path, size)
        if key is not None and key in self._known:
            self._known.move_to_end(key)
            return self._known[key]
        camera = self._found(size, path) or self._estimated([rgb]) or self._assumed(size)
        return self._remember(key, camera)

    def estimate_for_track(
        self, frames: Sequence[Picture], source: Hashable = None, samples: int = TRACK_SAMPLES
    ) -> PictureCamera:
        """One camera for all frames of a clip or track; its lens is taken as fixed.

        Where the network is asked, the median over a few frames that are spread evenly counts.

        Args:
            frames: At least one, all of one size.
            source: Name of the clip; asked again for it, the first answer is given.
            samples: Frames to look at, at most.

        Raises:
            InputError: There is no frame, sizes differ, or as `for_picture`.
        """
        if not len(frames):
            raise InputError("a track without frames has no camera; give at least one picture")
        shape = frames[0].shape
        picks = sorted({round(i) for i in np.linspace(0, len(frames) - 1, max(1, min(samples, len(frames))))})
        chosen = [frames[index] for index in picks]
        if any(frame.shape != shape for frame in chosen):
            raise InputError("the frames of a track differ in size; give frames of one video")
        size = (shape[1], shape[0])
        key = None if source is None else ("track", source, size)
        said = self._said(size)
        if said is not None:
            return said
        if key is not None and key in self._known:
            return self._known[key]
        camera = self._found(size, None) or self._estimated(chosen) or self._assumed(size)
        return self._remember(key, camera)

    def _said(self, size: tuple[int, int]) -> PictureCamera | None:
        if self.calibration is not None:
            return PictureCamera(K=torch.from_numpy(self.calibration.for_size(size)), source="calib")
        if self.focal is not None:
            return _centred(self.focal, size, "focal")
        if self.fov_deg is not None:
            fov = torch.tensor(math.radians(self.fov_deg), dtype=torch.float64)
            return _centred(float(fov_to_focal(fov, torch.tensor(float(size[0])))), size, "fov")
        return None

    def _found(self, size: tuple[int, int], path: Path | None) -> PictureCamera | None:
        """By the EXIF data, where these are asked for."""
        if self.choice != "exif" and not (self.choice == "auto" and self.takes_camera):
            return None
        focal = None if path is None else read_focal(path)
        if focal is None and self.choice == "exif":
            raise InputError(
                f"{path or 'picture'}: its EXIF data tell no focal length; give focal, fov or calib, "
                "or leave out intrinsics=exif"
            )
        return None if focal is None else _centred(focal, size, "exif")

    def _estimated(self, frames: Sequence[Picture]) -> PictureCamera | None:
        wanted = self.choice in ("model", "network") or (self.choice == "auto" and self.takes_camera)
        if self.network is None or not wanted:
            return None
        height, width = frames[0].shape[:2]
        with torch.inference_mode():
            focal = median(float(self.network.estimate(frame)) for frame in frames)
        low, high = (limit * max(width, height) for limit in _FOCAL_RANGE)
        if not low <= focal <= high:
            _log.warning("the intrinsics network gave a focal length of %g pixels; not believed", focal)
            return None
        return _centred(focal, (width, height), "network")

    def _assumed(self, size: tuple[int, int]) -> PictureCamera:
        if self.takes_camera and self.choice != "hmr2" and not self._warned:
            self._warned = True
            _log.warning(
                "the camera is unknown and this model needs it; a long lens is assumed. "
                "Give focal, fov or calib, or the weight file of an intrinsics network"
            )
        focal = float(default_focal(torch.tensor(size, dtype=torch.float64)))
        return _centred(focal, size, "hmr2")

    def _remember(self, key: Hashable, camera: PictureCamera) -> PictureCamera:
        if key is not None:
            self._known[key] = camera
            if len(self._known) > _CACHED_SOURCES:
                self._known.popitem(last=False)
        return camera


def check_camera_options(focal: float | None, fov_deg: float | None, calib: object, choice: str) -> None:
    """Refuses camera options that exclude each other or are out of range.

    Raises:
        UsageError: As said.
    """
    given = {
        "focal": focal,
        "fov": fov_deg,
        "calib": calib,
        "intrinsics": None if choice == "auto" else choice,
    }
    named = [name for name, value in given.items() if value is not None]
    if len(named) > 1:
        raise UsageError(f"give one of focal, fov, calib and intrinsics, not both {' and '.join(named)}")
    if focal is not None and not (math.isfinite(focal) and focal > 0):
        raise UsageError(f"focal is {focal}; needed: a positive number of pixels")
    if fov_deg is not None and not 0 < fov_deg < 180:
        raise UsageError(f"fov is {fov_deg}; needed: degrees between 0 and 180")
    if choice not in (*CHOICES, "network"):
        raise UsageError(
            f"unknown intrinsics '{choice}'{did_you_mean(choice, CHOICES)}; "
            f"use {', '.join(CHOICES)} or the weight file of an intrinsics network"
        )


def _centred(focal: float, size: tuple[int, int], source: CameraSource) -> PictureCamera:
    image_size = torch.tensor(size, dtype=torch.float64)
    return PictureCamera(K=intrinsics(image_size.new_tensor(focal), image_size), source=source)


def _identity(path: Path, size: tuple[int, int]) -> Hashable:
    try:
        state = path.stat()
        return (str(path.absolute()), state.st_size, state.st_mtime_ns, size)
    except (OSError, ValueError):
        return None
