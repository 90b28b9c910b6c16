"""Published files to checked safetensors of our own."""

from __future__ import annotations

import hashlib
import json
import math
import shlex
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, replace
from itertools import groupby
from pathlib import Path
from typing import Any, Literal

import torch
from torch import Tensor

from fasthmr import __version__
from fasthmr.checkpoints.config_json import config_to_json
from fasthmr.checkpoints.files import WeightFile, open_weights
from fasthmr.checkpoints.import_writer import write_safetensors
from fasthmr.checkpoints.keymap import OWN_TABLE, KeyTable
from fasthmr.checkpoints.loading import LoadPlan, plan_for_preset, plan_from_file
from fasthmr.errors import InputError, UsageError
from fasthmr.io.body_files import import_body_file, load_regressor_file
from fasthmr.io.hierarchy_files import load_hierarchy_file, save_hierarchy
from fasthmr.io.weight_index import LEGACY_HEAD
from fasthmr.models.camera_hmr import CameraHMRConfig
from fasthmr.models.hmr import HMRConfig
from fasthmr.models.human_fov import HumanFoVConfig
from fasthmr.models.mesh import MeshModelConfig
from fasthmr.models.pose import PoseConfig

_BODY_SUFFIXES = (".pkl", ".npz", ".npy")
_HASH_BLOCK = 2**22
_ORIGIN = ("layout", "licence", "source", "source_sha256")
_OWN_LICENCE = "that of the file this was imported from"


@dataclass(frozen=True, kw_only=True)
class ImportReport:
    """What was imported.

    Attributes:
        recognised: Layout of the file, name of the body, or levels of the mesh.
        preset: The preset that fits, or None when the sizes are nobody's.
        tensors: Tensors that were taken over.
        parameters: Numbers in them.
        ignored: How many keys are not used, for each reason.
        not_read: What else the file holds, such as `optimizer_states`.
        licence: Terms that go with the weights.
        next_command: What to type next.
    """

    kind: Literal["weights", "body", "mesh"]
    source: Path
    out: Path
    recognised: str
    preset: str | None = None
    tensors: int = 0
    parameters: int = 0
    ignored: dict[str, int]
    not_read: tuple[str, ...] = ()
    source_sha256: str
    licence: str
    next_command: str


@dataclass(frozen=True, kw_only=True)
class ExpectedModel:
    """The model that a file is said to be for: name, configuration and key names of a preset."""

    name: str
    config: Any
    table: KeyTable


def import_checkpoint(
    path: Path | str,
    out: Path | str | None = None,
    intrinsics: Path | str | None = None,
    expected: ExpectedModel | None = None,
) -> ImportReport:
    """Check a published weight file and write it as safetensors with our key names.

    Every key is mapped or ignored for a reason, every weight is finite, numbers keep their type. Shapes are
    checked before any weights are read, and memory does not grow with the file.

    Args:
        out: File to write; beside the source and named after it if None.
        intrinsics: Weight file of the camera network to put into the same file (CameraHMR).
        expected: The model it must fit; what the file says if None.

    Raises:
        InputError: There is no such file.
        UnsafeFileError: It is unsafe, damaged or not finite.
        CheckpointMismatch: It has no known layout, or its keys do not fit the model.
        UsageError: The model takes no intrinsics network.
        ResourceError: The result cannot be written.
    """
    path = Path(path)
    target = _target(path, out)
    weights = _open(path)
    if expected is None:
        plan = plan_from_file(weights)
    else:
        plan = plan_for_preset(weights, expected.name, expected.config, expected.table)
    plans, config = [("", plan)], plan.config
    if intrinsics is not None:
        camera = plan_from_file(_open(Path(intrinsics)))
        config = _with_intrinsics(config, camera.config, Path(intrinsics))
        plans.append(("intrinsics.", camera))
    digest = _sha256(path)
    licences = dict.fromkeys(part.licence or _OWN_LICENCE for _, part in plans)
    metadata = {
        "config": config_to_json(config),
        "fasthmr": __version__,
        "layout": ", ".join(part.layout for _, part in plans),
        "licence": "; ".join(licences),
        "source": ", ".join(part.weights.path.name for _, part in plans),
        "source_sha256": ", ".join([digest, *(_sha256(part.weights.path) for _, part in plans[1:])]),
        **({"preset": plan.preset} if plan.preset else {}),
    }
    if plan.table is OWN_TABLE:  # written by fasthmr before; where it comes from stays
        metadata |= {key: text for key, text in weights.metadata.items() if key in _ORIGIN}
    outline = {prefix + key: tensor for prefix, part in plans for key, tensor in part.outline.items()}
    ordered = dict(sorted(outline.items(), key=lambda item: -item[1].dtype.itemsize))
    write_safetensors(target, ordered, _stream(ordered, plans), metadata)
    return ImportReport(
        kind="weights",
        source=path,
        out=target,
        recognised=metadata["layout"],
        preset=plan.preset,
        tensors=len(outline),
        parameters=sum(tensor.numel() for tensor in outline.values()),
        ignored=dict(sum((Counter(part.match.reasons()) for _, part in plans), Counter())),
        not_read=plan.weights.others,
        source_sha256=digest,
        licence=metadata["licence"],
        next_command=_next_command(config, target),
    )


def import_body(path: Path | str, out: Path | str | None = None) -> ImportReport:
    """Check an SMPL, SMPL-H, SMPL-X or MANO file and write it as safetensors.

    Raises:
        InputError: There is no such file.
        UnsafeFileError: It is unsafe, damaged or no body.
        ResourceError: The result cannot be written.
    """
    path = Path(path)
    target = _target(path, out)
    name = import_body_file(path, target)
    body = open_weights(target, trusted=True)
    return ImportReport(
        kind="body",
        source=path,
        out=target,
        recognised=name,
        tensors=len(body.tensors),
        parameters=sum(math.prod(shape) for shape in body.shapes.values()),
        ignored={},
        source_sha256=_sha256(path),
        licence=body.metadata["licence"],
        next_command=f"fasthmr predict photo.jpg --body {shlex.quote(str(target))}",
    )


def import_hierarchy(
    path: Path | str, out: Path | str | None = None, regressor: Path | str | None = None
) -> ImportReport:
    """Check a published mesh hierarchy and write it as safetensors.

    Args:
        regressor: File with a matrix of joints from the finest level, to put into the same file.

    Raises:
        InputError: There is no such file.
        UnsafeFileError: It is unsafe, damaged or no hierarchy.
        UsageError: The regressor is of another mesh.
        ResourceError: The result cannot be written.
    """
    path = Path(path)
    target = _target(path, out)
    file = load_hierarchy_file(path)
    joints = file.regressor if regressor is None else load_regressor_file(regressor, torch.float64)
    save_hierarchy(file.hierarchy, target, joints, {"licence": _OWN_LICENCE})
    written = open_weights(target, trusted=True)
    return ImportReport(
        kind="mesh",
        source=path,
        out=target,
        recognised=f"a mesh hierarchy of {' > '.join(map(str, file.hierarchy.sizes))} vertices"
        + ("" if joints is None else f" with a regressor of {len(joints)} joints"),
        tensors=len(written.tensors),
        parameters=sum(math.prod(shape) for shape in written.shapes.values()),
        ignored={},
        source_sha256=_sha256(path),
        licence=written.metadata["licence"],
        next_command="fasthmr predict photo.jpg --model WEIGHTS --body BODY "
        f"--mesh {shlex.quote(str(target))}",
    )


def is_body_file(path: Path | str) -> bool:
    """Whether a file is to be read as a body and not as the weights of a model.

    Raises:
        InputError: It cannot be read.
    """
    path = Path(path)
    try:
        with path.open("rb") as file:
            head = file.read(64)
    except OSError as error:
        raise InputError(f"{path}: cannot be read ({error.strerror})") from None
    if head[8:9] == b"{":
        return "v_template" in open_weights(path).tensors
    if head.startswith(b"PK"):
        return path.suffix.lower() == ".npz"
    if head.startswith(LEGACY_HEAD):
        return False
    return head[:1] == b"\x80" or path.suffix.lower() in _BODY_SUFFIXES


def _open(path: Path) -> WeightFile:
    if not path.is_file():
        raise InputError(f"{path}: no such file")
    return open_weights(path)


def _target(path: Path, out: Path | str | None) -> Path:
    """Where to write: a file that is not the source."""
    if out is None:
        suffix = ".fasthmr.safetensors" if path.suffix == ".safetensors" else ".safetensors"
        return path.with_suffix(suffix)
    target = Path(out)
    if target.suffix != ".safetensors":
        raise UsageError(f"{target}: the result is a .safetensors file; give it that suffix")
    if target.exists() and path.exists() and target.samefile(path):
        raise UsageError(f"{target}: is the source itself; choose another name")
    return target


def _with_intrinsics(config: Any, network: Any, path: Path) -> Any:
    if not isinstance(config, CameraHMRConfig) or not isinstance(network, HumanFoVConfig):
        raise UsageError(f"{path}: intrinsics are HumanFoV weights for a CameraHMR model; these are not")
    return replace(config, intrinsics=network)


def _stream(outline: dict[str, Tensor], plans: list[tuple[str, LoadPlan]]) -> Iterator[tuple[str, Tensor]]:
    """The tensors in the order of the outline; each file is opened once for each run of its keys."""
    owner = {prefix + key: (prefix, plan) for prefix, plan in plans for key in plan.outline}
    for (prefix, plan), keys in groupby(outline, key=lambda key: owner[key]):
        for key, tensor in plan.tensors(key.removeprefix(prefix) for key in keys):
            yield prefix + key, tensor


def _sha256(path: Path) -> str:
    digest = hashlib.sha256()
    with path.open("rb") as file:
        while block := file.read(_HASH_BLOCK):
            digest.update(block)
    return digest.hexdigest()


def _next_command(config: Any, target: Path) -> str:
    name = shlex.quote(str(target))
    if isinstance(config, PoseConfig):
        return f"fasthmr predict photo.jpg --task pose --model {name}"
    if isinstance(config, HumanFoVConfig):
        return f"fasthmr predict photo.jpg --model MODEL --intrinsics {name}"
    if isinstance(config, MeshModelConfig) and not config.head.mesh.stored:
        return f"fasthmr predict photo.jpg --model {name} --body BODY --mesh MESH"
    if isinstance(config, HMRConfig | CameraHMRConfig | MeshModelConfig):
        return f"fasthmr predict photo.jpg --model {name}"
    code = f"from fasthmr.zoo import load_model; print(load_model({json.dumps(str(target))}))"
    return f"python -c {shlex.quote(code)}"
