"""Exported models as modules: ONNX and OpenVINO files behind the call of the model they came from."""

from __future__ import annotations

import hashlib
import shutil
import tempfile
import weakref
from collections.abc import Callable, Mapping
from contextlib import ExitStack
from functools import partial
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from jaxtyping import Float, Shaped
from torch import Tensor, nn

from fasthmr.checkpoints.config_json import config_from_json
from fasthmr.errors import InputError, UnsafeFileError, UsageError, did_you_mean
from fasthmr.models.pose import PoseConfig, PoseModel
from fasthmr.reduction.mask_tokens import ellipse_mask
from fasthmr.runtime.export_info import ExportInfo
from fasthmr.runtime.sessions import OnnxSession, OpenVinoSession, Precision, Session
from fasthmr.types import BodyParams, HMROutput, Keypoints2D

ENGINES = ("auto", "torch", "onnxruntime", "openvino")
EXPORTED_SUFFIXES = (".onnx", ".xml")

_SHAPES = {"global_orient": (1, 3, 3), "body_pose": (-1, 3, 3), "betas": (-1,), "camera": (3,)}
_OPTIONAL = {"keypoints_xy": (-1, 2), "keypoints_score": (-1,), "aux_keypoints_2d": (-1, 2)}


class ExportedModel(nn.Module):
    """A model whose arithmetic is done by another library, on the CPU.

    Attributes:
        engine: Name of the library.
        precision: Number type it really computes in, as it says itself.
        info: What the file says about the model.
    """

    file_digest: Tensor

    def _open(self, session: Session, info: ExportInfo, digest: bytes) -> None:
        self._session, self.info = session, info
        self.engine, self.precision = session.engine, session.precision
        self.trained_body = info.trained_body
        # A buffer, so that a digest of the module's contents covers the file and how it is run.
        self.register_buffer("file_digest", torch.tensor(list(digest), dtype=torch.uint8), persistent=False)

    def _run(self, inputs: Mapping[str, Tensor]) -> dict[str, Tensor]:
        arrays = {
            name: np.ascontiguousarray(value.detach().float().cpu().numpy()) for name, value in inputs.items()
        }
        device = inputs["pixels"].device
        return {name: torch.from_numpy(value).to(device) for name, value in self._session(arrays).items()}


class ExportedMesh(ExportedModel):
    """An exported model of meshes; its attributes are those of `models.hmr.CropModel`."""

    def __init__(self, session: Session, info: ExportInfo, digest: bytes) -> None:
        super().__init__()
        self._open(session, info, digest)
        self.crop_size, self.crop_aspect = info.crop_size, info.crop_aspect
        self.crop_antialias, self.takes_camera = info.crop_antialias, info.takes_camera
        self.takes_mask = info.takes_mask

    def forward(
        self,
        pixels: Float[Tensor, "batch 3 size size"],
        bbox_info: Float[Tensor, "batch 3"] | None = None,
        mask: Shaped[Tensor, "batch size size"] | None = None,
    ) -> HMROutput:
        """As the model that was exported.

        Raises:
            ValueError: The crops are not `crop_size` pixels wide and high, the camera is missing, or a mask
                is given to a model that takes none.
            UnsafeFileError: The file gives something else than it says.
        """
        if tuple(pixels.shape[-2:]) != (self.crop_size, self.crop_size):
            raise ValueError(
                f"this model takes crops of {self.crop_size} x {self.crop_size} pixels, "
                f"got {pixels.shape[-2]} x {pixels.shape[-1]}"
            )
        if mask is not None and not self.takes_mask:
            raise ValueError("this model merges no tokens around a person and takes no mask")
        if (bbox_info is not None) != self.takes_camera:
            raise ValueError(f"this model takes {'' if self.takes_camera else 'no '}bbox_info")
        inputs = {"pixels": pixels}
        if bbox_info is not None:
            inputs["bbox_info"] = bbox_info
        if self.takes_mask:
            whole = mask if mask is not None else default_mask(self.crop_size, self.info.encoder_size)
            inputs["mask"] = whole.expand(len(pixels), -1, -1)
        return self._output(self._run(inputs), len(pixels))

    def _output(self, values: Mapping[str, Tensor], batch: int) -> HMROutput:
        expected = {**_SHAPES, **{name: shape for name, shape in _OPTIONAL.items() if name in values}}
        for name, shape in expected.items():
            given = tuple(values[name].shape) if name in values else None
            if given is None or not _fits(given, (batch, *shape)):
                raise UnsafeFileError(
                    f"{self._session.path}: gives '{name}' of shape {given}, expected {(batch, *shape)}; "
                    "export the model again"
                )
        points = None
        if "keypoints_xy" in values and "keypoints_score" in values:
            points = Keypoints2D(xy=values["keypoints_xy"], score=values["keypoints_score"])
        return HMROutput(
            params=BodyParams(
                global_orient=values["global_orient"],
                body_pose=values["body_pose"],
                betas=values["betas"],
            ),
            camera=values["camera"],
            keypoints=points,
            aux_keypoints_2d=values.get("aux_keypoints_2d"),
        )


class ExportedPose(ExportedModel, PoseModel):
    """An exported model of heat maps; how they are read is in its configuration."""

    def __init__(self, session: Session, info: ExportInfo, digest: bytes, config: PoseConfig) -> None:
        nn.Module.__init__(self)  # without the parts of a PoseModel
        self._open(session, info, digest)
        self.config = config
        self.image_size = config.encoder.image_size

    def forward(
        self, pixels: Float[Tensor, "batch 3 height width"]
    ) -> Float[Tensor, "batch keypoints rows columns"]:
        """Heat maps of normalised crops.

        Raises:
            ValueError: The crops have another size than the model's.
            UnsafeFileError: The file gives something else than it says.
        """
        if tuple(pixels.shape[-2:]) != self.image_size:
            raise ValueError(f"this model takes crops of {self.image_size} (h, w), got {pixels.shape[-2:]}")
        values = self._run({"pixels": pixels})
        maps = values.get("heatmaps")
        if maps is None or not _fits(tuple(maps.shape), (len(pixels), self.config.head.keypoints, -1, -1)):
            raise UnsafeFileError(f"{self._session.path}: gives no heat maps as it says; export it again")
        return maps


def load_exported(
    path: str | Path, engine: str = "auto", precision: Precision = "float32"
) -> ExportedMesh | ExportedPose:
    """A model that `export_model` wrote, ready to be called as the model it came from.

    Args:
        path: An .onnx file, or the .xml of an OpenVINO model with its .bin beside.
        engine: "auto" for onnxruntime with .onnx and OpenVINO with .xml. OpenVINO reads both.
        precision: Number type to compute in; "bfloat16" with OpenVINO alone. `ExportedModel.precision` says
            what came of it.

    Raises:
        UsageError: The engine does not read the file, or computes in another precision only.
        MissingExtra: The engine is not installed.
        InputError: There is no such file.
        UnsafeFileError: The file is damaged, points elsewhere, or is none that fasthmr exported.
    """
    path = Path(path)
    if not path.is_file():
        raise InputError(f"{path}: no such exported model; 'fasthmr export' makes one")
    opener = _opener(path, engine, precision)
    session, text = opener(path)
    if text is None:
        raise UnsafeFileError(f"{path}: fasthmr did not write this; make one with 'fasthmr export'")
    info = ExportInfo.from_json(text, path)
    digest = _digest(path, session.engine, session.precision)
    if info.kind == "mesh":
        return ExportedMesh(session, info, digest)
    config = config_from_json(info.config)
    if not isinstance(config, PoseConfig):
        raise UnsafeFileError(f"{path}: says nothing of how its heat maps are read; export the model again")
    return ExportedPose(session, info, digest, config)


def with_engine(model: nn.Module, engine: str, precision: Precision = "float32") -> nn.Module:
    """The model on another engine, exported (and compared) for the time being; itself for "torch".

    Raises:
        UsageError: There is no such engine, or it cannot run this model.
        MissingExtra: It is not installed.
        ExportError: It gives other results.
    """
    check_engine(engine)
    if isinstance(model, ExportedModel):
        if engine in ("auto", model.engine):
            return model
        raise UsageError(f"{model.info.model}: is opened with {model.engine} already")
    if engine in ("auto", "torch"):
        return model
    from fasthmr.runtime.export import export_model

    kind = {"onnxruntime": "onnx", "openvino": "openvino"}[engine]
    folder = tempfile.mkdtemp(prefix="fasthmr-")
    with ExitStack() as unless_opened:
        unless_opened.callback(shutil.rmtree, folder, ignore_errors=True)
        report = export_model(model, folder, (kind,))
        exported = load_exported(report.files[0].path, engine, precision)
        # Engines may read weights from the file as long as the model lives.
        weakref.finalize(exported, unless_opened.pop_all().close)
    return exported


def open_model(model: nn.Module | Path, engine: str, precision: str) -> nn.Module:
    """`load_exported` for a file, `with_engine` for a model; torch then leaves the precision to the caller.

    Raises:
        UsageError: The engine or the precision is unknown, or does not fit.
    """
    if precision not in ("float32", "bfloat16"):
        raise UsageError(f"unknown precision '{precision}'; use float32 or bfloat16")
    chosen: Precision = "bfloat16" if precision == "bfloat16" else "float32"
    if isinstance(model, Path):
        return load_exported(model, engine, chosen)
    return with_engine(model, engine, chosen)


def check_engine(engine: str) -> None:
    """Raises `UsageError` if there is no engine of that name."""
    if engine not in ENGINES:
        known = ", ".join(ENGINES)
        raise UsageError(f"unknown engine '{engine}'{did_you_mean(engine, ENGINES)}; use one of {known}")


def is_exported(path: str | Path) -> bool:
    """Whether a file name is that of an exported model."""
    return Path(path).suffix.lower() in EXPORTED_SUFFIXES


def default_mask(crop_size: int, encoder_size: tuple[int, int]) -> Float[Tensor, "1 size size"]:
    """The ellipse that fills what the encoder sees, in the crop: what models take where no mask is given."""
    height, width = encoder_size
    scale = crop_size // height
    ellipse = ellipse_mask(torch.tensor([[0.0, 0.0, width, height]]), (height, width)).float()
    large = ellipse.repeat_interleave(scale, 1).repeat_interleave(scale, 2)
    margin = (crop_size - large.shape[2]) // 2
    return F.pad(large, (margin, margin))


def _opener(path: Path, engine: str, precision: Precision) -> Callable[[Path], tuple[Session, str | None]]:
    """How to open a file with an engine."""
    check_engine(engine)
    if engine == "torch":
        raise UsageError(f"{path}: is an exported model, which torch does not run; leave out the engine")
    suffix = path.suffix.lower()
    if suffix not in EXPORTED_SUFFIXES:
        raise UsageError(f"{path}: exported models end in {' or '.join(EXPORTED_SUFFIXES)}")
    if engine == "openvino" or (engine == "auto" and suffix == ".xml"):
        return partial(OpenVinoSession.open, precision=precision)
    if suffix != ".onnx":
        raise UsageError(f"{path}: onnxruntime reads .onnx files only; use the engine openvino")
    if precision != "float32":
        raise UsageError(f"{path}: onnxruntime computes in the file's float32; {precision} needs openvino")
    return OnnxSession.open


def _digest(path: Path, engine: str, precision: str) -> bytes:
    """Of the file, the weights beside it, and how they are run."""
    digest = hashlib.blake2b(f"{engine} {precision}".encode(), digest_size=16)
    for part in (path, path.with_name(path.name + ".data"), path.with_suffix(".bin")):
        if part.is_file():
            with part.open("rb") as file:
                digest.update(hashlib.file_digest(file, "blake2b").digest())
    return digest.digest()


def _fits(shape: tuple[int, ...], expected: tuple[int, ...]) -> bool:
    return len(shape) == len(expected) and all(e in (-1, s) for s, e in zip(shape, expected, strict=True))
