"""Person masks for pictures of the user: ellipses in boxes, mask files, or a segmentation model."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch
from jaxtyping import Bool, Float, UInt8
from torch import Tensor

from fasthmr.errors import InputError, UnsafeFileError, UsageError, did_you_mean
from fasthmr.geometry.crops import IMAGENET_MEAN, IMAGENET_STD, crop_pictures
from fasthmr.io.images import read_image
from fasthmr.runtime.onnx_detector import first_line, open_session, runtime_errors

CHOICES = ("self", "true", "ellipse", "none")
NAMES = {
    "self": "found by the model itself",
    "true": "of the records",
    "ellipse": "ellipse in the box",
    "none": "none",
}
"""Sources of masks in words."""

_SIDE = 512  # of the input, where the file leaves it open
_PERSON = {2: 1, 19: 11, 21: 15, 150: 12}  # classes of the background kind, Cityscapes, Pascal VOC, ADE20K

Mask = Bool[np.ndarray, "height width"]


def crop_masks(
    mask: Mask, boxes_xyxy: Float[Tensor, "people 4"], size: int, aspect: tuple[int, int]
) -> Bool[Tensor, "people size size"]:
    """A mask of the whole picture, cut as the crops are."""
    grey = np.repeat(mask[..., None].astype(np.uint8) * 255, 3, axis=-1)
    level = crop_pictures(grey, boxes_xyxy, size, aspect=aspect, antialias=False).pixels[:, 0]
    return level * IMAGENET_STD[0] + IMAGENET_MEAN[0] >= 0.5


@dataclass(frozen=True, kw_only=True)
class PictureMasks:
    """Where masks of pictures come from.

    Attributes:
        kind: "none" and "ellipse" need no picture; the others are called.
        name: For reports.
        folder: With mask files.
    """

    kind: Literal["none", "ellipse", "files", "model"]
    name: str
    folder: Path | None = None
    model: OnnxSegmenter | None = None

    def __call__(self, path: Path, rgb: Any) -> Mask:
        """The mask of a picture.

        Raises:
            InputError: The mask file cannot be read, or has another size than the picture.
        """
        if self.model is not None:
            return self.model(rgb)
        assert self.folder is not None
        file = mask_file(self.folder, path)
        grey = read_image(file).max(axis=-1)
        if grey.shape != rgb.shape[:2]:
            raise InputError(
                f"{file}: the mask has {grey.shape[1]}x{grey.shape[0]} pixels, its picture {path.name} "
                f"{rgb.shape[1]}x{rgb.shape[0]}; make it as large as the picture"
            )
        return grey >= max(int(grey.max()) / 2, 1)


def picture_masks(choice: str, pictures: Sequence[Path]) -> PictureMasks:
    """The source of masks by its name; see `frames.load_frames`.

    Raises:
        UsageError: It is none.
        InputError: A mask file is missing.
        UnsafeFileError: The model cannot be used.
    """
    if choice in ("self", "none"):
        return PictureMasks(kind="none", name=NAMES[choice])
    if choice == "true":
        raise UsageError("masks=true: pictures have none; give a folder with masks, or use masks=self")
    if choice == "ellipse":
        return PictureMasks(kind="ellipse", name=NAMES[choice])
    path = Path(choice)
    if path.suffix.lower() == ".onnx":
        return PictureMasks(kind="model", name=path.name, model=OnnxSegmenter(path))
    if not path.is_dir():
        raise UsageError(
            f"masks={choice}: neither a folder nor an .onnx file{did_you_mean(choice, CHOICES)}; "
            f"or use one of: {', '.join(CHOICES)}"
        )
    for picture in pictures:
        mask_file(path, picture)
    return PictureMasks(kind="files", name=f"files in {path.name}", folder=path)


def mask_file(folder: Path, picture: Path) -> Path:
    """The file with the mask of a picture: its stem with .png, or its own name.

    Raises:
        InputError: There is none.
    """
    for name in (f"{picture.stem}.png", picture.name):
        if (folder / name).is_file():
            return folder / name
    raise InputError(f"{folder}: no mask {picture.stem}.png for the picture {picture.name}")


class OnnxSegmenter:
    """A segmentation model of the user as masks of people, through onnxruntime.

    The model takes one float picture (1, 3, height, width), RGB, normalised with the ImageNet mean and
    deviation, stretched to the size that the file states (512 x 512 where it states none). Its first output
    is either one map (1, 1, h, w) or (1, h, w) of the person, as probability or, where values leave 0..1, as
    logit; or scores (1, classes, h, w) of 2 (the second is the person), 21 (Pascal VOC), 19 (Cityscapes) or
    150 (ADE20K) classes. Maps may be smaller than the input.

    Raises:
        MissingExtra: onnxruntime is not installed.
        InputError: There is no such file.
        UnsafeFileError: Not an ONNX model that runs.
        UsageError: It takes or gives something else.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self._session = open_session(path, "segmentation model")
        inputs = self._session.get_inputs()
        shape = inputs[0].shape
        if len(inputs) != 1 or inputs[0].type != "tensor(float)" or len(shape) != 4 or shape[1] != 3:
            raise UsageError(
                f"{path}: takes {[(i.name, i.type, i.shape) for i in inputs]}; "
                "a segmentation model takes one float picture (1, 3, height, width)"
            )
        self._input = inputs[0].name
        self._size = tuple(side if isinstance(side, int) else _SIDE for side in shape[2:])
        self(np.zeros((8, 8, 3), dtype=np.uint8))  # a wrong output shows before any long work

    def __call__(self, rgb: UInt8[np.ndarray, "height width 3"]) -> Mask:
        """Pixels of people in a picture."""
        import cv2

        small = cv2.resize(rgb, self._size[::-1], interpolation=cv2.INTER_AREA).astype(np.float32) / 255
        levels = (small - np.array(IMAGENET_MEAN, np.float32)) / np.array(IMAGENET_STD, np.float32)
        try:
            output = self._session.run(None, {self._input: levels.transpose(2, 0, 1)[None].copy()})[0]
        except runtime_errors() as error:
            raise UnsafeFileError(
                f"{self.path}: the segmentation model fails on a picture ({first_line(error)})"
            ) from error
        margin = torch.from_numpy(self._margin(np.asarray(output)))
        full = torch.nn.functional.interpolate(
            margin[None, None], rgb.shape[:2], mode="bilinear", align_corners=False
        )
        return (full[0, 0] >= 0).numpy()

    def _margin(self, output: np.ndarray) -> Float[np.ndarray, "h w"]:
        """By how much each place of the map is rather a person than not."""
        if output.ndim == 4 and output.shape[0] == 1:
            output = output[0]
        known = output.ndim == 3 and (len(output) == 1 or len(output) in _PERSON)
        if not known or not np.isfinite(output).all():
            raise UsageError(
                f"{self.path}: gives {tuple(output.shape)}; needed: one map of the person (1, 1, h, w), or "
                f"scores of {', '.join(map(str, _PERSON))} classes"
            )
        output = output.astype(np.float32)
        if len(output) == 1:
            is_logit = bool((output < 0).any() or (output > 1).any())
            return output[0] - (0.0 if is_logit else 0.5)
        person = _PERSON[len(output)]
        return output[person] - np.delete(output, person, axis=0).max(axis=0)
