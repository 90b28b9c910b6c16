"""What an exported file says about itself: the model it came from, how it was checked, how to feed it."""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass, field, fields
from typing import Literal

from fasthmr.errors import UnsafeFileError

METADATA_KEY = "fasthmr"
"""Name of the entry in the metadata of an ONNX file, and in the `rt_info` of an OpenVINO model."""

_MAX_TEXT = 1 << 20
_MAX_SIDE = 4096
_BODIES = ("free", "smpl", "smplx")


@dataclass(frozen=True, kw_only=True)
class ExportInfo:
    """Kept in every exported file, as JSON.

    Attributes:
        kind: "mesh" gives the fields of `HMROutput`, "pose" heat maps.
        model: Name of the preset or file.
        config: The model's configuration as `config_to_json` writes it; empty for models without one.
        trained_body: Body that the parameters mean.
        crop_size: Side in pixels of the crops of a mesh model; 0 for others.
        crop_aspect, crop_antialias, takes_camera, takes_mask: As for `models.hmr.CropModel`.
        encoder_size: Height and width in pixels of the picture that the encoder sees, the middle columns of
            the crop (scaled); the default mask is the ellipse that fills it.
        precision: Number type of weights and arithmetic in the file.
        batches: Batch sizes that were compared with the model.
        tolerance: Largest error that was allowed, see `runtime.export`.
        errors: Largest absolute difference to the model by output.
        versions: Of what wrote and checked the file.
    """

    kind: Literal["mesh", "pose"]
    model: str
    config: str = ""
    trained_body: str = "free"
    crop_size: int = 0
    crop_aspect: tuple[int, int] = (192, 256)
    crop_antialias: bool = True
    takes_camera: bool = False
    takes_mask: bool = False
    encoder_size: tuple[int, int]
    precision: str = "float32"
    batches: tuple[int, ...] = ()
    tolerance: float = 0.0
    errors: dict[str, float] = field(default_factory=dict)
    versions: dict[str, str] = field(default_factory=dict)

    def to_json(self) -> str:
        return json.dumps(asdict(self), sort_keys=True)

    @staticmethod
    def from_json(text: str, source: object) -> ExportInfo:
        """What `to_json` wrote.

        Args:
            source: Name of the file, for the message.

        Raises:
            UnsafeFileError: It is anything else.
        """
        try:
            return _checked(text)
        except (ValueError, TypeError, KeyError, RecursionError) as error:
            raise UnsafeFileError(
                f"{source}: its entry '{METADATA_KEY}' is damaged ({error}); export the model again"
            ) from error


def _checked(text: str) -> ExportInfo:
    if len(text) > _MAX_TEXT:
        raise ValueError("too long")
    plain = json.loads(text)
    if not isinstance(plain, dict):
        raise ValueError("no record")
    known = {item.name for item in fields(ExportInfo)}
    tuples = {name: _sides(plain[name]) for name in ("crop_aspect", "encoder_size")}
    given = {key: value for key, value in plain.items() if key in known}
    info = ExportInfo(**{**given, **tuples, "batches": tuple(plain["batches"])})
    crop_range = range(1, _MAX_SIDE + 1) if info.kind == "mesh" else range(1)
    texts = (info.model, info.config, info.trained_body, info.precision)
    flags = (info.crop_antialias, info.takes_camera, info.takes_mask)
    checks = {
        "kind": info.kind in ("mesh", "pose"),
        "trained_body": info.trained_body in _BODIES,
        "crop_size": type(info.crop_size) is int and info.crop_size in crop_range,
        "encoder_size": info.kind == "pose" or _inside(info.encoder_size, info.crop_size),
        "texts": all(isinstance(value, str) for value in texts),
        "batches": all(type(value) is int for value in info.batches),
        "flags": all(isinstance(value, bool) for value in flags),
    }
    wrong = [name for name, right in checks.items() if not right]
    if wrong:
        raise ValueError(f"{wrong[0]} does not fit")
    return info


def _sides(value: object) -> tuple[int, int]:
    if not isinstance(value, list) or len(value) != 2 or not all(type(side) is int for side in value):
        raise ValueError("two whole numbers expected")
    if not all(1 <= side <= _MAX_SIDE for side in value):
        raise ValueError(f"sides {value} are out of reach")
    return value[0], value[1]


def _inside(encoder_size: tuple[int, int], crop_size: int) -> bool:
    """Whether the encoder sees the middle columns of the crop, scaled down by a whole number."""
    height, width = encoder_size
    scale, rest = divmod(crop_size, height)
    return rest == 0 and scale >= 1 and width <= height and (crop_size - scale * width) % 2 == 0
