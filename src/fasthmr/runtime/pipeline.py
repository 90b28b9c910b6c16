"""From a picture to the people in it."""

from __future__ import annotations

import logging
import math
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import torch
from jaxtyping import Float, UInt8
from torch import Tensor, nn

from fasthmr.body.default_body import load_default_body
from fasthmr.body.lbs import BodyModel
from fasthmr.body.transfer import SHARED_JOINTS
from fasthmr.errors import InputError, UsageError
from fasthmr.geometry.cameras import default_focal, fov_to_focal, intrinsics
from fasthmr.geometry.crops import crop_pictures
from fasthmr.io.body_files import load_body_file
from fasthmr.io.images import read_image
from fasthmr.results import Clip, Person
from fasthmr.runtime.boxes_file import BoxesFile
from fasthmr.runtime.detect import Detector, check_boxes, load_detector
from fasthmr.runtime.recover import as_persons, coco_keypoints, place_people, run_model
from fasthmr.runtime.timing import Stopwatch
from fasthmr.types import Detections

if TYPE_CHECKING:
    from fasthmr.runtime.batch import ItemReport

DEFAULT_MODEL = "fasthmr_s"

_log = logging.getLogger(__name__)

Picture = UInt8[np.ndarray, "height width 3"]


class Pipeline:
    """Finds the people in a picture and recovers a body mesh for each.

    All people of a picture share one perspective camera with the principal point in the centre, so that
    their meshes form one scene.

    Args:
        model: Name of a preset ("default" for the one that comes with the package), or a module that takes
            (batch, 3, crop_size, crop_size) normalised crops to an `HMROutput` and has `crop_size`. Its
            attribute `trained_body` says which body its parameters mean, "free" (if absent) or "smpl".
        body: An SMPL, SMPL-H or SMPL-X file or body to show instead of the free body that comes along.
        detector: "auto", "full" (one person fills the picture), an .onnx file, or a `Detector`.
        boxes: JSON or CSV file with the boxes of each picture; then nothing is detected.
        focal: Focal length in pixels. Without `focal` and `fov_deg`, 5000/256 of the longer side as in
            HMR 2.0, a long lens: the overlay fits, distances are too large.
        fov_deg: Horizontal field of view in degrees, instead of `focal`.
        max_persons: Keep this many of the best detections in each picture.
        batch_size: Crops that pass the model at once; halved when memory runs out.
        device: "auto", "cpu", "cuda", or any torch device.

    Raises:
        UsageError: An unknown preset, detector or device, or options that exclude each other.
        InputError: A file is missing.
        UnsafeFileError: A body or weight file is damaged or unsafe.
    """

    def __init__(
        self,
        model: str | nn.Module = "default",
        *,
        body: str | Path | BodyModel | None = None,
        detector: str | Path | Detector = "auto",
        boxes: str | Path | None = None,
        focal: float | None = None,
        fov_deg: float | None = None,
        max_persons: int | None = None,
        batch_size: int = 16,
        device: str = "auto",
    ) -> None:
        _check_options(focal, fov_deg, max_persons, batch_size)
        self.focal, self.fov_deg = focal, fov_deg
        self.max_persons, self.batch_size = max_persons, batch_size
        self.device = _choose_device(device)
        self.boxes_file = None if boxes is None else BoxesFile(boxes)
        model = DEFAULT_MODEL if model == "default" else model
        self.model = _load_model(model).to(self.device).eval()
        self.model_name = model if isinstance(model, str) else type(model).__name__
        self.crop_size = int(getattr(self.model, "crop_size", 256))
        free_body = load_default_body().to(self.device)
        self.body = _load_body(body, free_body).to(self.device)
        self._params_body = self._body_of_params(free_body)
        self.detector_name = str(detector) if isinstance(detector, str | Path) else type(detector).__name__
        self._detector_choice = detector
        self._detector: Detector | None = None

    def __call__(
        self, source: str | Path | np.ndarray, *, boxes: np.ndarray | Sequence | None = None
    ) -> Clip:
        """The people in a picture file or an 8-bit RGB array; nobody is a valid result.

        Args:
            boxes: Rows (x1, y1, x2, y2) in pixels; then nothing is detected.

        Raises:
            InputError: The picture cannot be used, or a box lies outside it.
            ResourceError: Memory is used up even with one person at a time.
        """
        watch = Stopwatch()
        with watch("read"):
            rgb = _as_picture(source)
        path = Path(source) if isinstance(source, str | Path) else None
        return self.recover(rgb, path=path, boxes=boxes, watch=watch)

    def predict_many(
        self,
        sources: Iterable[str | Path],
        out: str | Path,
        *,
        save: Sequence[str] = ("overlay", "glb", "npz"),
        resume: bool = False,
    ) -> Iterator[ItemReport]:
        """Runs on many pictures and writes files; yields an `ItemReport` for each, also for those that fail.

        Args:
            sources: Files, folders, globs or .txt lists.
            out: Folder for the results.
            save: Any of "overlay", "glb", "npz", "obj", "json".
            resume: Skip pictures that a former run with the same settings finished.
        """
        from fasthmr.runtime.batch import predict_many
        from fasthmr.runtime.sources import find_pictures

        return predict_many(self, find_pictures([str(s) for s in sources]).pictures, Path(out), save, resume)

    @property
    def detector(self) -> Detector:
        """The detector, loaded when it is first needed."""
        self._detector = self._detector or load_detector(self._detector_choice)
        return self._detector

    def prepare(self) -> None:
        """Loads what would otherwise be loaded at the first picture, so that wrong options show early."""
        if self.boxes_file is None:
            _ = self.detector

    @torch.inference_mode()
    def recover(
        self,
        rgb: Picture,
        *,
        path: Path | None = None,
        boxes: np.ndarray | Sequence | None = None,
        watch: Stopwatch | None = None,
    ) -> Clip:
        """As a call with an array, with the name of its file and a stopwatch that goes on."""
        watch = watch or Stopwatch()
        height, width = rgb.shape[:2]
        with watch("detect"):
            people = self._find(rgb, path, boxes)
        image_size = torch.tensor([width, height], dtype=torch.float64)
        focal = self._focal(image_size)
        K = intrinsics(focal, image_size)
        persons = self._recover_people(rgb, people, focal, K, watch, str(path or "picture"))
        body = self.body
        return Clip(
            persons=persons,
            faces=body.faces.cpu().numpy(),
            parents=body.parents.cpu().numpy(),
            joint_names=tuple(body.joint_names),
            intrinsics=K[None].numpy(),
            image_size=(width, height),
            source=path.name if path else "",
            body=body.name,
            model=self.model_name,
            lbs_weights=body.lbs_weights.cpu().numpy(),
            timings=dict(watch.seconds),
        )

    def _recover_people(
        self,
        rgb: Picture,
        people: Detections,
        focal: Float[Tensor, ""],
        K: Float[Tensor, "3 3"],
        watch: Stopwatch,
        source: str,
    ) -> tuple[Person, ...]:
        if not len(people.scores):
            return ()
        with watch("crop"):
            crop = crop_pictures(rgb, people.boxes_xyxy, self.crop_size)
        with watch("model"):
            output = run_model(self.model, crop.pixels, self.batch_size, self.device)
        with watch("body"):
            placed = place_people(output, crop, focal, self._params_body, self.body)
            points = coco_keypoints(output, placed, crop, people.scores, K, self.body)
            return as_persons(people, placed, points, source)

    def _body_of_params(self, free_body: BodyModel) -> BodyModel:
        """The body that the model's parameters mean."""
        if getattr(self.model, "trained_body", "free") == "free":
            return free_body
        if self.body is free_body:
            _log.warning(
                "model '%s' was trained on SMPL; on the free body its shapes and places are approximate, "
                "give body=FILE with your SMPL file",
                self.model_name,
            )
        return self.body

    def _find(self, rgb: Picture, path: Path | None, boxes: object) -> Detections:
        height, width = rgb.shape[:2]
        name = str(path or "picture")
        if boxes is not None:
            people = check_boxes(*_as_boxes(boxes), (width, height), name)
        elif self.boxes_file is not None:
            if path is None:
                raise UsageError("a boxes file needs pictures with a name; give boxes= with an array")
            listed = self.boxes_file.boxes_for(path)
            people = check_boxes(listed.boxes_xyxy, listed.scores, (width, height), name)
        else:
            people = self.detector(rgb)
        kept = slice(self.max_persons)
        return Detections(boxes_xyxy=people.boxes_xyxy[kept].cpu(), scores=people.scores[kept].cpu())

    def _focal(self, image_size: Float[Tensor, "2"]) -> Float[Tensor, ""]:
        if self.focal is not None:
            return image_size.new_tensor(self.focal)
        if self.fov_deg is not None:
            return fov_to_focal(image_size.new_tensor(math.radians(self.fov_deg)), image_size[0])
        return default_focal(image_size)


def _as_picture(source: str | Path | np.ndarray) -> Picture:
    if isinstance(source, str | Path):
        return read_image(source)
    if source.dtype != np.uint8 or source.ndim != 3 or source.shape[2] != 3 or not source.size:
        raise InputError(f"got an array {source.dtype} {source.shape}; needed: uint8 RGB (height, width, 3)")
    return source


def _as_boxes(boxes: object) -> tuple[Float[Tensor, "persons 4"], Float[Tensor, "persons"]]:
    try:
        table = torch.as_tensor(np.asarray(boxes, dtype=np.float32))
    except (TypeError, ValueError) as error:
        raise InputError(f"boxes are not numbers ({error}); needed: rows x1, y1, x2, y2") from error
    table = table.reshape(0, 4) if table.numel() == 0 else table
    if table.ndim != 2 or table.shape[1] != 4:
        raise InputError(
            f"boxes have the shape {tuple(table.shape)}; needed: (persons, 4) with x1, y1, x2, y2"
        )
    return table, torch.ones(len(table))


def _check_options(
    focal: float | None, fov_deg: float | None, max_persons: int | None, batch_size: int
) -> None:
    if focal is not None and fov_deg is not None:
        raise UsageError("give focal or fov, not both")
    if focal is not None and not (math.isfinite(focal) and focal > 0):
        raise UsageError(f"focal is {focal}; needed: a positive number of pixels")
    if fov_deg is not None and not 0 < fov_deg < 180:
        raise UsageError(f"fov is {fov_deg}; needed: degrees between 0 and 180")
    if batch_size < 1 or (max_persons is not None and max_persons < 1):
        raise UsageError("batch_size and max_persons are at least 1")


def _choose_device(device: str) -> torch.device:
    if device == "auto":
        return torch.device("cuda" if torch.cuda.is_available() else "cpu")
    try:
        chosen = torch.device(device)
        torch.empty(0, device=chosen)
    except (RuntimeError, AssertionError) as error:  # torch asserts that it was built with CUDA
        raise UsageError(
            f"device '{device}' is not available ({str(error).splitlines()[0]}); try 'cpu'"
        ) from error
    return chosen


def _load_model(model: str | nn.Module) -> nn.Module:
    if isinstance(model, nn.Module):
        return model
    from fasthmr.zoo import create_model

    return create_model(model, pretrained=True)


def _load_body(body: str | Path | BodyModel | None, free_body: BodyModel) -> BodyModel:
    if body is None:
        return free_body
    loaded = body if isinstance(body, BodyModel) else load_body_file(body)
    if loaded.num_joints < SHARED_JOINTS:
        place = loaded.name if isinstance(body, BodyModel) else body
        raise UsageError(
            f"{place}: has {loaded.num_joints} joints, a hand perhaps; needed: SMPL, SMPL-H or SMPL-X"
        )
    return loaded
