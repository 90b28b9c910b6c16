"""What the options of a pipeline name: models, bodies, networks, devices, pictures and boxes."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Literal, cast

import numpy as np
import torch
from jaxtyping import UInt8
from torch import nn

from fasthmr.body.lbs import BodyModel
from fasthmr.body.skeletons import COCO17_NAMES
from fasthmr.body.transfer import SHARED_JOINTS
from fasthmr.errors import InputError, UsageError, did_you_mean
from fasthmr.io.body_files import load_body_file
from fasthmr.io.images import read_image
from fasthmr.models.dense_keypoints import DenseKeypointsModel
from fasthmr.models.human_fov import HumanFoV
from fasthmr.models.mesh import MeshModel
from fasthmr.models.motion_decoder import MotionDecoder
from fasthmr.models.motion_prior import MotionPrior
from fasthmr.models.pose import PoseModel
from fasthmr.runtime.intrinsics import CHOICES
from fasthmr.types import Detections

Task = Literal["mesh", "pose"]
"""What a pipeline looks for: body meshes, or COCO's 17 keypoints."""

TASKS: tuple[Task, ...] = ("mesh", "pose")
DEFAULT_MODEL = "fasthmr_m_fast"

_WEIGHT_SUFFIXES = (".safetensors", ".ckpt", ".pth", ".pt", ".pkl", ".bin", ".tar")
_GIVES = {
    "mesh": "body meshes",
    "vertices": "vertices without a parametric body",
    "pose": "2D keypoints and no mesh",
    "intrinsics": "the field of view of a camera",
    "dense": "points of the body's surface and no pose",
    "motion": "the motion of a clip from features of its frames",
    "features": "features and nothing else, being an encoder without a head",
}


def check_task(task: str) -> Task:
    """The task by name.

    Raises:
        UsageError: There is none of that name.
    """
    if task not in TASKS:
        raise UsageError(f"unknown task '{task}'{did_you_mean(task, TASKS)}; use {' or '.join(TASKS)}")
    return cast(Task, task)


def load_model(model: str | Path | nn.Module, task: Task, engine: str = "auto") -> nn.Module:
    """A model for a task: a preset with the weights that come along, a weight file, an exported file, or a
    module itself.

    Both tasks take models that give meshes or their vertices (keypoints are read off); the task "pose" also
    takes `PoseModel`.

    Args:
        engine: See `runtime.backends`; models that are not exported yet are exported for the time being.

    Raises:
        UsageError: The preset is unknown or has no weights, or the model does not fit the task or engine.
        MissingExtra: The engine is not installed.
        ExportError: The model cannot be run by the engine.
        InputError: The weight file is missing.
        UnsafeFileError: The weight file is damaged, unsafe or of no known model.
    """
    from fasthmr.runtime.backends import check_engine, is_exported, load_exported, with_engine

    check_engine(engine)
    if not isinstance(model, nn.Module) and is_exported(model):
        exported = load_exported(model, engine)
        return _fitting(exported, _kind(exported), task, Path(model).name)
    loaded = _load_module(model, task)
    if isinstance(loaded, MeshModel):
        if engine not in ("auto", "torch"):
            raise UsageError(
                f"'{model}' gives {_GIVES['vertices']}, which runs on torch alone, not on {engine}"
            )
        return loaded
    return with_engine(loaded, engine)


def describe_engine(model: nn.Module) -> str:
    """What runs a model, and the precision that it really computes in."""
    engine, precision = getattr(model, "engine", "torch"), getattr(model, "precision", None)
    if not isinstance(precision, str):
        types = {str(parameter.dtype).removeprefix("torch.") for parameter in model.parameters()}
        precision = " and ".join(sorted(types)) or "no weights"
    return f"{engine}, {precision}"


def _load_module(model: str | Path | nn.Module, task: Task) -> nn.Module:
    if isinstance(model, nn.Module):
        return _fitting(model, _kind(model), task, type(model).__name__)
    from fasthmr.zoo import create_model, list_models, preset

    name = str(model)
    if name in list_models():
        _check_fit(preset(name).task, task, name)
        return create_model(name, pretrained=True)
    if is_file_name(model):
        loaded = load_weights(model)
        return _fitting(loaded, _kind(loaded), task, Path(model).name)
    return create_model(name, pretrained=True)  # says what names there are


def load_network(intrinsics: str | Path) -> HumanFoV | None:
    """The intrinsics network in a weight file; None where `intrinsics` is one of the words for it.

    Raises:
        InputError: The file is missing.
        UnsafeFileError: The file is damaged, unsafe or of no known model.
        UsageError: The file holds another kind of model.
    """
    if intrinsics in CHOICES or not is_file_name(intrinsics):
        return None
    network = load_weights(intrinsics)
    own = getattr(network, "intrinsics", None)
    for candidate in (network, own):
        if isinstance(candidate, HumanFoV):
            return candidate
    raise UsageError(f"{intrinsics}: gives {_GIVES[_kind(network)]}; needed: an intrinsics network, HumanFoV")


def is_file_name(name: str | Path) -> bool:
    """Whether a file is meant: one that exists, or a name that looks like that of a weight file."""
    path = Path(name)
    return isinstance(name, Path) or path.suffix.lower() in _WEIGHT_SUFFIXES or path.is_file()


def load_weights(path: str | Path) -> nn.Module:
    """The model of a weight file, published or converted.

    Raises:
        InputError: The file is missing.
        UnsafeFileError: The file is damaged, unsafe or of no known model.
    """
    from fasthmr.zoo import load_model as load_file

    if not Path(path).is_file():
        raise InputError(f"{path}: no such weight file; 'fasthmr models' lists the presets")
    return load_file(Path(path))


def load_body(body: str | Path | BodyModel | None, free_body: BodyModel) -> BodyModel:
    """The body to show: the free one, a file, or a body itself.

    Raises:
        UsageError: It is no whole body.
        InputError: The file is missing.
        UnsafeFileError: The file is damaged or unsafe.
    """
    if body is None:
        return free_body
    loaded = body if isinstance(body, BodyModel) else load_body_file(body)
    if loaded.num_joints < SHARED_JOINTS:
        place = loaded.name if isinstance(body, BodyModel) else body
        raise UsageError(
            f"{place}: has {loaded.num_joints} joints, a hand perhaps; needed: SMPL, SMPL-H or SMPL-X"
        )
    return loaded


def choose_device(device: str) -> torch.device:
    """A device by name; "auto" takes CUDA where there is some.

    Raises:
        UsageError: It is not there.
    """
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


def as_picture(source: str | Path | np.ndarray) -> UInt8[np.ndarray, "height width 3"]:
    """A picture from its file, or an array that is one.

    Raises:
        InputError: The file cannot be used, or the array is no 8-bit RGB picture.
    """
    if isinstance(source, str | Path):
        return read_image(source)
    if source.dtype != np.uint8 or source.ndim != 3 or source.shape[2] != 3 or not source.size:
        raise InputError(f"got an array {source.dtype} {source.shape}; needed: uint8 RGB (height, width, 3)")
    return source


def as_boxes(boxes: object, sides: Sequence[str] | None = None, left: bool | None = None) -> Detections:
    """Boxes in rows (x1, y1, x2, y2), each with the score 1.

    Args:
        sides: "left" or "right" for each box.
        left: For hands, whether they are left ones if `sides` does not say; None for people.

    Raises:
        InputError: They are not such rows, or not as many sides.
        UsageError: Sides of people.
    """
    try:
        table = torch.as_tensor(np.asarray(boxes, dtype=np.float32))
    except (TypeError, ValueError) as error:
        raise InputError(f"boxes are not numbers ({error}); needed: rows x1, y1, x2, y2") from error
    table = table.reshape(0, 4) if table.numel() == 0 else table
    if table.ndim != 2 or table.shape[1] != 4:
        raise InputError(
            f"boxes have the shape {tuple(table.shape)}; needed: (persons, 4) with x1, y1, x2, y2"
        )
    which = None if left is None else torch.full((len(table),), left)
    if sides is not None:
        if left is None:
            raise UsageError("sides are for models of hands; this one reads people")
        if len(sides) != len(table) or not set(sides) <= {"left", "right"}:
            raise InputError(
                f"sides {list(sides)} for {len(table)} boxes; needed: 'left' or 'right' for each"
            )
        which = torch.tensor([side == "left" for side in sides], dtype=torch.bool)
    return Detections(boxes_xyxy=table, scores=torch.ones(len(table)), left=which)


def _kind(model: nn.Module) -> str:
    """What a model gives; modules of the user's own count as models of meshes."""
    if isinstance(model, MotionDecoder | MotionPrior):
        return "motion"
    package = type(model).__module__.rpartition(".")[0]
    if package in ("fasthmr.encoders", "fasthmr.temporal"):
        return "features" if package == "fasthmr.encoders" else "motion"
    kinds = {MeshModel: "vertices", PoseModel: "pose", HumanFoV: "intrinsics", DenseKeypointsModel: "dense"}
    return next((kind for known, kind in kinds.items() if isinstance(model, known)), "mesh")


def _fitting(model: nn.Module, kind: str, task: Task, name: str) -> nn.Module:
    _check_fit(kind, task, name)
    if isinstance(model, PoseModel) and model.config.head.keypoints != len(COCO17_NAMES):
        raise UsageError(
            f"'{name}' gives {model.config.head.keypoints} keypoints; needed: COCO's {len(COCO17_NAMES)}"
        )
    return model


def _check_fit(kind: str, task: Task, name: str) -> None:
    if kind in ("mesh", "vertices", task):
        return
    remedy = {
        "pose": "use task 'pose'",
        "intrinsics": "give it as intrinsics, beside a model of meshes",
    }.get(kind, "'fasthmr models' lists the models")
    raise UsageError(f"'{name}' gives {_GIVES[kind]}; {remedy}")
