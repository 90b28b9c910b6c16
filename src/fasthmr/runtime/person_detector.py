"""The built-in person detector: weights that come with the package, nothing to download."""

from __future__ import annotations

import json
from importlib.resources import files
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from jaxtyping import Float, UInt8
from safetensors import SafetensorError, safe_open
from torch import Tensor, nn
from torch.nn.utils.fusion import fuse_conv_bn_eval

from fasthmr.errors import CheckpointMismatch, InputError, UnsafeFileError
from fasthmr.geometry.boxes import clip_boxes
from fasthmr.models.person_detector import STRIDES, PersonDetector, PersonDetectorConfig, select_boxes
from fasthmr.types import Detections

DEFAULT_SIDES = (384,)
_MULTIPLE = STRIDES[-1]


class BuiltInPersonDetector:
    """Finds people in pictures of any size.

    Args:
        model: A network in evaluation mode.
        sides: Longer sides the picture is brought to, pixels; the boxes of all are put together.
        score_threshold: Lowest score of a box, 0..1.
        nms_threshold: Overlap (IoU) above which the lower of two boxes goes.
    """

    def __init__(
        self,
        model: PersonDetector,
        *,
        sides: tuple[int, ...] = DEFAULT_SIDES,
        score_threshold: float,
        nms_threshold: float,
    ) -> None:
        self.model = model
        self.sides = sides
        self.score_threshold = score_threshold
        self.nms_threshold = nms_threshold

    @torch.inference_mode()
    def __call__(self, rgb: np.ndarray) -> Detections:
        """People in an RGB picture (height, width, 3) of bytes, best score first; none is a valid result.

        Raises:
            InputError: Not an RGB picture of bytes.
        """
        if rgb.ndim != 3 or rgb.shape[2] != 3 or rgb.dtype != np.uint8 or 0 in rgb.shape:
            raise InputError(f"expected RGB bytes (height, width, 3), got {rgb.dtype} {rgb.shape}")
        device = next(self.model.parameters()).device
        picture = torch.from_numpy(np.ascontiguousarray(rgb)).to(device).permute(2, 0, 1)[None]
        height, width = rgb.shape[:2]
        boxes, logits = [], []
        for side in self.sides:
            pixels, scale = letterbox(picture, side)
            cells = self.model(pixels)
            boxes.append(clip_boxes(cells.boxes_xyxy[0] / scale, (width, height)))
            logits.append(cells.logits[0])
        found, scores = select_boxes(
            torch.cat(boxes),
            torch.cat(logits),
            score_threshold=self.score_threshold,
            nms_threshold=self.nms_threshold,
        )
        seen = (found[:, 2:] - found[:, :2]).amin(-1) > 0
        return Detections(boxes_xyxy=found[seen].clone().cpu(), scores=scores[seen].clone().cpu())


def letterbox(
    picture: UInt8[Tensor, "1 3 height width"], side: int
) -> tuple[Float[Tensor, "1 3 rows columns"], Float[Tensor, "4"]]:
    """The picture in 0..1 with its longer side at `side`, padded right and below to whole cells.

    Returns:
        Network input, and the scale (x, y, x, y) from picture pixels to its pixels.
    """
    height, width = picture.shape[-2:]
    scale = side / max(height, width)
    size = max(1, round(height * scale)), max(1, round(width * scale))
    resized = F.interpolate(
        picture.contiguous(memory_format=torch.channels_last), size, mode="bilinear", antialias=True
    )
    right, below = -size[1] % _MULTIPLE, -size[0] % _MULTIPLE
    padded = F.pad(resized.to(torch.float32) / 255, (0, right, 0, below), value=0.45)
    factors = torch.tensor([size[1] / width, size[0] / height] * 2, device=picture.device)
    return padded.contiguous(memory_format=torch.channels_last), factors


def load_person_detector(
    weights: str | Path | None = None,
    *,
    sides: tuple[int, ...] = DEFAULT_SIDES,
    score_threshold: float | None = None,
    device: str | torch.device = "cpu",
) -> BuiltInPersonDetector:
    """The detector with the weights of the package, or those of another file.

    Args:
        score_threshold: None takes the one stored with the weights.

    Raises:
        UnsafeFileError: The file is missing, damaged or not finite.
        CheckpointMismatch: It holds other weights than its configuration asks for.
    """
    path = Path(weights or str(files("fasthmr") / "assets" / "person_detector.safetensors"))
    try:
        with safe_open(path, framework="pt") as file:
            header = file.metadata() or {}
            tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118 - not a dict
        config = {k: tuple(v) if isinstance(v, list) else v for k, v in json.loads(header["config"]).items()}
        model = PersonDetectorConfig(**config).build()  # pyright: ignore[reportArgumentType]
        stored = float(header["score_threshold"]), float(header["nms_threshold"])
    except (OSError, SafetensorError, KeyError, TypeError, ValueError) as error:
        raise UnsafeFileError(f"{path}: not weights of the person detector ({error})") from error
    if not all(bool(tensor.isfinite().all()) for tensor in tensors.values()):
        raise UnsafeFileError(f"{path}: weights are not finite")
    try:
        model.load_state_dict(tensors)
    except RuntimeError as error:
        raise CheckpointMismatch(f"{path}: {error}") from error
    folded = fold_batch_norm(model.eval()).to(device)
    return BuiltInPersonDetector(
        folded.to(memory_format=torch.channels_last),  # pyright: ignore[reportCallIssue]
        sides=sides,
        score_threshold=stored[0] if score_threshold is None else score_threshold,
        nms_threshold=stored[1],
    )


def fold_batch_norm(model: PersonDetector) -> PersonDetector:
    """Put each batch norm into the convolution before it, in place; the outputs stay the same."""
    for module in model.modules():
        if not isinstance(module, nn.Sequential) or len(module) != 2:
            continue
        convolution, norm = module
        if isinstance(convolution, nn.Conv2d) and isinstance(norm, nn.BatchNorm2d):
            module[0] = fuse_conv_bn_eval(convolution, norm)
            module[1] = nn.Identity()
    return model
