"""Models to ONNX and OpenVINO files, each compared with the model before it is kept.

Exporters can be wrong without a word: torch's turns `scatter_reduce(reduce="mean")` into a scatter that
does not reduce. So every file is run on three batches (one crop, two, and three; see
`export_gate.gate_inputs`) and a file that differs is not kept.

Ties: where two tokens are equally similar, the one at the lower position goes first, in the exported file as
in the model (`reduction.mask_tome`). Engines round differently in the last digit, so tokens that are tied but
for rounding may merge in another order; the crops of the comparison are noise, where that does not happen.
"""

from __future__ import annotations

import contextlib
import copy
import os
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from importlib.metadata import version
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any, Literal, cast

import torch
from torch import Tensor, nn

from fasthmr import __version__
from fasthmr.checkpoints.config_json import config_to_json
from fasthmr.errors import ExportError, ResourceError, UnsafeFileError, UsageError, did_you_mean
from fasthmr.io.atomic import atomic_path
from fasthmr.models.pose import PoseModel
from fasthmr.runtime.backends import ExportedMesh, ExportedPose, is_exported, load_exported
from fasthmr.runtime.export_gate import BATCHES, call, compare, gate_inputs, outputs_of
from fasthmr.runtime.export_info import METADATA_KEY, ExportInfo
from fasthmr.runtime.export_writers import set_onnx_info, to_onnx, to_openvino
from fasthmr.runtime.loading import DEFAULT_MODEL, is_file_name, load_weights
from fasthmr.zoo import create_model

Format = Literal["onnx", "openvino"]
FORMATS: dict[str, str] = {"onnx": ".onnx", "openvino": ".xml"}
"""What can be written, and how the files end."""

TOLERANCE = 1e-4
_LARGE = 1_800_000_000  # bytes of weights; an ONNX file in one piece ends at 2 GiB


@dataclass(frozen=True, kw_only=True)
class ExportedFile:
    """One exported model.

    Attributes:
        path: The file to load; its weights may lie beside it.
        precision: Number type in which the engine computed when it was compared.
        errors: Largest absolute difference to the model by output.
        bytes: On disk, with what lies beside.
    """

    path: Path
    format: Format
    engine: str
    precision: str
    errors: dict[str, float]
    bytes: int


@dataclass(frozen=True, kw_only=True)
class ExportReport:
    """What was exported.

    Attributes:
        batches: Batch sizes that were compared.
        tolerance: See `export_model`.
    """

    model: str
    files: tuple[ExportedFile, ...]
    batches: tuple[int, ...]
    tolerance: float
    versions: dict[str, str]

    def as_json(self) -> dict[str, Any]:
        """Plain values."""
        plain = asdict(self)
        plain["files"] = [{**file, "path": str(file["path"])} for file in plain["files"]]
        return plain


def export_model(
    model: nn.Module,
    out: str | Path,
    formats: Sequence[str] = ("onnx", "openvino"),
    *,
    name: str | None = None,
    tolerance: float = TOLERANCE,
) -> ExportReport:
    """Write a model as `out/name.onnx` and `out/name.xml` (with .bin), for any batch size.

    Models of meshes take `pixels`, and `bbox_info` and `mask` where the model does; they give
    `global_orient`, `body_pose`, `betas`, `camera`, and `keypoints_xy`, `keypoints_score`,
    `aux_keypoints_2d` where the model does. Models of 2D keypoints take `pixels` and give `heatmaps`.
    Weights of more than 1.8 GB lie in `name.onnx.data`. A network for the camera's intrinsics inside a
    model is not part of the file.

    Args:
        model: Of single precision; stays as it is.
        name: Of the files; that of the class if not given.
        tolerance: An output may differ by this much absolutely, relative to its largest value where that is
            above 1; and by 2 % of how much it changes from crop to crop, since with untrained weights all
            outputs are nearly constant and hide errors.

    Raises:
        UsageError: An unknown format, or a model that is neither of meshes nor of heat maps.
        MissingExtra: A package for the format is not installed.
        ExportError: The model cannot be exported, or an exported file gives other numbers. Nothing is left.
        ResourceError: The folder cannot be written.
    """
    chosen = _check_formats(formats)
    name = name or type(model).__name__.lower()
    out = Path(out)
    if any(tensor.dtype not in (torch.float32, torch.int64, torch.bool) for tensor in model.parameters()):
        raise UsageError(f"'{name}' is not of single precision; export it before it is converted")
    modes = {module: module.training for module in model.modules()}
    on_cpu = all(parameter.device.type == "cpu" for parameter in model.parameters())
    exported = (model if on_cpu else copy.deepcopy(model).cpu()).eval()
    try:
        return _export(exported, out, chosen, name, tolerance)
    finally:
        for module, training in modes.items():
            module.training = training


def run_export(model: str, formats: Sequence[str], out: Path, checkpoint: Path | None = None) -> ExportReport:
    """Exports a preset, with the weights that come along or those of a checkpoint, or a weight file.

    Raises:
        UsageError: An unknown preset, one without weights, or what `export_model` does not take.
        UnsafeFileError: The weight file is damaged, unsafe or of no known model.
    """
    _check_formats(formats)
    name = DEFAULT_MODEL if model == "default" else model
    if is_exported(name):
        raise UsageError(f"{name}: is exported already")
    if is_file_name(name):
        if checkpoint is not None:
            raise UsageError("give a weight file as the model, or a preset with --checkpoint, not both")
        return export_model(load_weights(name), out, formats, name=Path(name).stem)
    loaded = create_model(name, checkpoint=checkpoint, pretrained=checkpoint is None)
    return export_model(loaded, out, formats, name=name)


@torch.no_grad()
def _export(
    model: nn.Module, out: Path, formats: tuple[Format, ...], name: str, tolerance: float
) -> ExportReport:
    given = gate_inputs(model)
    expected = [outputs_of(call(model, inputs)) for inputs in given]
    info = _describe(model, name, tolerance)
    with _staging(out) as folder:
        onnx_path = folder / f"{name}.onnx"
        size = sum(tensor.nbytes for tensor in model.state_dict().values())
        program = to_onnx(model, given[1], tuple(expected[1]))
        for node in program.model.graph.all_nodes():  # where in our code each came from, with folders
            node.metadata_props.clear()
        program.model.metadata_props[METADATA_KEY] = info.to_json()
        program.save(onnx_path, external_data=size > _LARGE)
        del program
        staged = []
        for kind in formats:
            path = onnx_path.with_suffix(FORMATS[kind])
            if kind == "openvino":
                to_openvino(onnx_path, path, info)
            running = load_exported(path)
            checked = replace(
                info,
                errors=_gate(running, given, expected, tolerance),
                precision=running.precision,
                versions=_versions(kind),
            )
            engine = running.engine
            del running
            if kind == "openvino":
                to_openvino(onnx_path, path, checked)
            else:
                set_onnx_info(path, checked)
            _gate(load_exported(path), given[:1], expected[:1], tolerance)  # the very bytes that are kept
            staged.append((path, kind, engine, checked))
        files = [
            ExportedFile(
                path=_move(path, out),
                format=kind,
                engine=engine,
                precision=checked.precision,
                errors=checked.errors,
                bytes=sum(part.stat().st_size for part in _parts(out / path.name)),
            )
            for path, kind, engine, checked in staged
        ]
    return ExportReport(
        model=name,
        files=tuple(files),
        batches=BATCHES,
        tolerance=tolerance,
        versions=_versions(*formats),
    )


def _gate(
    running: ExportedMesh | ExportedPose,
    given: Sequence[Mapping[str, Tensor]],
    expected: Sequence[Mapping[str, Tensor]],
    tolerance: float,
) -> dict[str, float]:
    """Runs an exported file and returns its errors, see `compare`."""
    what = f"{running.info.model} in {running.engine}"
    try:
        results = [outputs_of(call(running, inputs)) for inputs in given]
    except UnsafeFileError as error:
        raise ExportError(f"{what} does not run on every number of crops: {error}") from error
    return compare(expected, results, what=what, tolerance=tolerance)


def _parts(path: Path) -> list[Path]:
    """The files of an exported model, the one that is loaded last."""
    beside = (path.with_name(path.name + ".data") if path.suffix == ".onnx" else path.with_suffix(".bin"),)
    return [*(part for part in beside if part.is_file()), path]


def _move(path: Path, out: Path) -> Path:
    """Puts a file into its place, what lies beside it first, so that none is seen with another's weights."""
    for former in reversed(_parts(out / path.name)):
        former.unlink(missing_ok=True)
    for part in _parts(path):
        with atomic_path(out / part.name) as temporary:
            os.replace(part, temporary)
    return out / path.name


def _describe(model: nn.Module, name: str, tolerance: float) -> ExportInfo:
    config: Any = getattr(model, "config", None)
    pose = isinstance(model, PoseModel)
    crop = 0 if pose else int(getattr(model, "crop_size", 0))
    encoder = getattr(config, "encoder", None)
    return ExportInfo(
        kind="pose" if pose else "mesh",
        model=name,
        config="" if config is None else config_to_json(config),
        trained_body=getattr(model, "trained_body", "free"),
        crop_size=crop,
        crop_aspect=getattr(model, "crop_aspect", (192, 256)),
        crop_antialias=getattr(model, "crop_antialias", True),
        takes_camera=getattr(model, "takes_camera", False),
        takes_mask=getattr(model, "takes_mask", False),
        encoder_size=(crop, crop) if encoder is None else encoder.image_size,
        batches=BATCHES,
        tolerance=tolerance,
    )


def _versions(*formats: Format) -> dict[str, str]:
    packages = ["torch", "onnx", "onnxscript"]
    packages += [{"onnx": "onnxruntime", "openvino": "openvino"}[kind] for kind in formats]
    return {"fasthmr": __version__, **{package: version(package) for package in packages}}


def _check_formats(formats: Sequence[str]) -> tuple[Format, ...]:
    for name in formats:
        if name not in FORMATS:
            known = ", ".join(FORMATS)
            raise UsageError(f"cannot export to '{name}'{did_you_mean(name, list(FORMATS))}; known: {known}")
    if not formats:
        raise UsageError(f"no format to export to; name some of {', '.join(FORMATS)}")
    return tuple(cast(Format, name) for name in FORMATS if name in formats)


@contextlib.contextmanager
def _staging(out: Path) -> Iterator[Path]:
    """A folder inside `out` for files that are not checked yet."""
    try:
        out.mkdir(parents=True, exist_ok=True)
        with TemporaryDirectory(dir=out, prefix=".export-") as folder:
            yield Path(folder)
    except OSError as error:
        raise ResourceError(
            f"cannot write to {out} ({error.strerror or error}); free some space or choose another folder"
        ) from error
