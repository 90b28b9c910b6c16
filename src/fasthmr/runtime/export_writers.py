"""Models as ONNX programs and OpenVINO files, not compared with anything yet."""

from __future__ import annotations

import contextlib
import logging
import warnings
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from fasthmr.errors import ExportError
from fasthmr.runtime.export_gate import call, outputs_of
from fasthmr.runtime.export_info import METADATA_KEY, ExportInfo
from fasthmr.runtime.onnx_detector import first_line
from fasthmr.runtime.sessions import import_extra


def to_onnx(model: nn.Module, inputs: Mapping[str, Tensor], outputs: tuple[str, ...]) -> Any:
    """torch's ONNX program of a model, for any number of crops.

    Args:
        inputs: Some crops, by the names of the model's arguments.
        outputs: Names of what `outputs_of` gives.

    Raises:
        ExportError: The model cannot be exported.
        MissingExtra: A package for it is not installed.
    """
    for package in ("onnx", "onnxscript"):
        import_extra(package)
    batch = {0: torch.export.Dim("batch")}
    try:
        with _quiet():
            program = torch.onnx.export(
                _Plain(model).eval(),
                (),
                kwargs=dict(inputs),
                input_names=list(inputs),
                output_names=list(outputs),
                dynamic_shapes=dict.fromkeys(inputs, batch),
                dynamo=True,
                optimize=False,  # engines do that themselves; here it takes longer than the export
                verbose=False,
            )
    except (RuntimeError, ValueError, TypeError, AssertionError) as error:
        raise ExportError(f"torch cannot export {type(model).__name__} ({first_line(error)})") from error
    assert program is not None
    return program


def to_openvino(onnx_path: Path, path: Path, info: ExportInfo) -> None:
    """Writes an ONNX file as .xml, with its .bin beside.

    Raises:
        ExportError: OpenVINO cannot read it.
        MissingExtra: OpenVINO is not installed.
    """
    openvino = import_extra("openvino")
    try:
        model = openvino.Core().read_model(onnx_path)
        model.set_rt_info(info.to_json(), [METADATA_KEY])
        openvino.save_model(model, path, compress_to_fp16=False)
    except RuntimeError as error:
        raise ExportError(f"OpenVINO cannot read {onnx_path.name} ({first_line(error)})") from error


def set_onnx_info(path: Path, info: ExportInfo) -> None:
    """Replaces what an ONNX file says about itself."""
    onnx = import_extra("onnx")
    model = onnx.load(str(path), load_external_data=False)
    onnx.helper.set_model_props(model, {METADATA_KEY: info.to_json()})
    path.write_bytes(model.SerializeToString())


class _Plain(nn.Module):
    """A model with named tensors in and a tuple of tensors out."""

    def __init__(self, model: nn.Module) -> None:
        super().__init__()
        self.model = model

    def forward(
        self, pixels: Tensor, bbox_info: Tensor | None = None, mask: Tensor | None = None
    ) -> tuple[Tensor, ...]:
        named = {"pixels": pixels, "bbox_info": bbox_info, "mask": mask}
        result = call(self.model, {name: value for name, value in named.items() if value is not None})
        return tuple(outputs_of(result).values())


@contextlib.contextmanager
def _quiet() -> Iterator[None]:
    """Without the exporter's remarks about itself."""
    logger = logging.getLogger("torch.onnx")
    level = logger.level
    logger.setLevel(logging.ERROR)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    finally:
        logger.setLevel(level)
