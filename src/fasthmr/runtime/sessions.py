"""Files of exported models, opened with onnxruntime or OpenVINO."""

from __future__ import annotations

import importlib
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, Literal, Protocol, runtime_checkable

import numpy as np
import torch

from fasthmr.errors import MissingExtra, UnsafeFileError
from fasthmr.runtime.export_info import METADATA_KEY
from fasthmr.runtime.onnx_detector import first_line, runtime_errors

Precision = Literal["float32", "bfloat16"]
Arrays = Mapping[str, np.ndarray]

_MAX_GRAPH = 2 << 30  # as large as protobuf and onnxruntime can read
_MAX_DATA = 64 << 30
_OPENVINO_TYPES = {"float32": "f32", "bfloat16": "bf16"}


@runtime_checkable
class Session(Protocol):
    """An open model file.

    Attributes:
        precision: Number type that it computes in, as the engine says.
    """

    path: Path
    engine: str
    precision: str

    def __call__(self, inputs: Arrays) -> dict[str, np.ndarray]:
        """Outputs by name."""
        ...


class OnnxSession:
    """A file in onnxruntime, on the CPU with as many threads as torch uses."""

    def __init__(self, path: Path, session: Any) -> None:
        self.path, self.engine = path, "onnxruntime"
        self.precision = "float32"  # onnxruntime follows the file, and export writes no other
        self._session = session
        self._names = [output.name for output in session.get_outputs()]

    @staticmethod
    def open(path: Path) -> tuple[OnnxSession, str | None]:
        """The session, and what fasthmr wrote into the file.

        Raises:
            MissingExtra: onnxruntime or onnx is not installed.
            UnsafeFileError: No ONNX model, or one whose weights are not beside it.
        """
        onnxruntime = import_extra("onnxruntime")
        text = check_onnx(path)
        options = onnxruntime.SessionOptions()
        options.log_severity_level = 4  # errors come as exceptions
        options.intra_op_num_threads = torch.get_num_threads()
        try:
            session = onnxruntime.InferenceSession(path, options, providers=["CPUExecutionProvider"])
        except runtime_errors() as error:
            raise UnsafeFileError(f"{path}: not a usable ONNX model ({first_line(error)})") from error
        return OnnxSession(path, session), text

    def __call__(self, inputs: Arrays) -> dict[str, np.ndarray]:
        try:
            values = self._session.run(None, dict(inputs))
        except runtime_errors() as error:
            raise _failed(self.path, error) from error
        return dict(zip(self._names, values, strict=True))


class OpenVinoSession:
    """A file in OpenVINO, on the CPU with as many threads as torch uses.

    OpenVINO picks bfloat16 by itself where the processor has it; here it computes in what is asked for.
    """

    def __init__(self, path: Path, compiled: Any) -> None:
        self.path, self.engine = path, "openvino"
        self._compiled = compiled
        effective = str(compiled.get_property("INFERENCE_PRECISION_HINT").get_type_name())
        names: dict[str, str] = {short: name for name, short in _OPENVINO_TYPES.items()}
        self.precision = names.get(effective, effective)

    @staticmethod
    def open(path: Path, precision: Precision = "float32") -> tuple[OpenVinoSession, str | None]:
        """The session, and what fasthmr wrote into the file.

        Raises:
            MissingExtra: openvino is not installed.
            UnsafeFileError: No OpenVINO or ONNX model, or one whose weights are not beside it.
        """
        openvino = import_extra("openvino")
        text = check_onnx(path) if path.suffix.lower() == ".onnx" else None
        try:
            core = openvino.Core()
            model = core.read_model(path)
            if path.suffix.lower() != ".onnx" and model.has_rt_info([METADATA_KEY]):
                text = str(model.get_rt_info([METADATA_KEY]).value)
            settings = {
                "INFERENCE_PRECISION_HINT": _OPENVINO_TYPES[precision],
                "INFERENCE_NUM_THREADS": torch.get_num_threads(),
                "PERFORMANCE_HINT": "LATENCY",
            }
            compiled = core.compile_model(model, "CPU", settings)
        except (RuntimeError, ValueError, TypeError) as error:
            raise UnsafeFileError(f"{path}: not a usable OpenVINO model ({first_line(error)})") from error
        return OpenVinoSession(path, compiled), text

    def __call__(self, inputs: Arrays) -> dict[str, np.ndarray]:
        try:
            values = self._compiled(dict(inputs))
        except (RuntimeError, ValueError, KeyError) as error:
            raise _failed(self.path, error) from error
        # An output may carry other names than ours beside it, of the same tensor inside the graph.
        return {
            name: values[output].copy() for output in self._compiled.outputs for name in output.get_names()
        }


def check_onnx(path: Path) -> str | None:
    """Looks a file over before an engine reads it; what fasthmr wrote into it, if anything.

    Weights may lie in files beside it and nowhere else.

    Raises:
        MissingExtra: onnx is not installed.
        UnsafeFileError: It is damaged, too large, or points elsewhere.
    """
    onnx = import_extra("onnx")
    if path.stat().st_size > _MAX_GRAPH:
        raise UnsafeFileError(f"{path}: larger than the {_MAX_GRAPH >> 30} GB that an ONNX file can have")
    try:
        model = onnx.load(str(path), load_external_data=False)
        for tensor in _tensors(model):
            if tensor.data_location == onnx.TensorProto.EXTERNAL:
                _check_place(tensor, path)
        onnx.checker.check_model(str(path))
    except UnsafeFileError:
        raise
    except (onnx.checker.ValidationError, ValueError, OSError, RuntimeError) as error:
        raise UnsafeFileError(f"{path}: not a usable ONNX model ({first_line(error)})") from error
    except importlib.import_module("google.protobuf.message").DecodeError as error:
        raise UnsafeFileError(f"{path}: not an ONNX model, or cut short") from error
    return next((entry.value for entry in model.metadata_props if entry.key == METADATA_KEY), None)


def _tensors(model: Any) -> Iterator[Any]:
    """Every stored tensor of an ONNX model, also those inside of operators and functions."""
    waiting = [model.graph, *model.functions, *(info.initialization for info in model.training_info)]
    waiting += [info.algorithm for info in model.training_info]
    while waiting:
        part = waiting.pop()
        if hasattr(part, "initializer"):
            yield from part.initializer
            for sparse in part.sparse_initializer:
                yield from (sparse.values, sparse.indices)
        for node in part.node:
            for attribute in node.attribute:
                yield from (attribute.t, *attribute.tensors)
                for sparse in (attribute.sparse_tensor, *attribute.sparse_tensors):
                    yield from (sparse.values, sparse.indices)
                waiting += [attribute.g, *attribute.graphs]


def _check_place(tensor: Any, path: Path) -> None:
    """Raises `UnsafeFileError` unless the numbers of a tensor lie in a plain file beside the model."""
    entry = {item.key: item.value for item in tensor.external_data}
    name = entry.get("location", "")
    beside = path.with_name(name) if name and Path(name).name == name and "\\" not in name else None
    if beside is None or name in (".", "..") or beside.is_symlink():
        raise UnsafeFileError(
            f"{path}: its weights lie in {name!r}, not in a file beside it; export the model again"
        )
    if not beside.is_file():
        raise UnsafeFileError(f"{path}: its weights, {name!r}, are missing; keep both files in one folder")
    start, length = int(entry.get("offset", 0)), int(entry.get("length", 0))
    if min(start, length) < 0 or start + length > min(beside.stat().st_size, _MAX_DATA):
        raise UnsafeFileError(f"{path}: {name!r} ends before its weights do; copy both files again")


def _failed(path: Path, error: Exception) -> Exception:
    """An engine's error; one about memory stays what it is, so that smaller batches are tried."""
    text = first_line(error)
    if isinstance(error, MemoryError) or "alloc" in text.lower():
        return MemoryError(text)
    return UnsafeFileError(f"{path}: the model fails on its input ({text})")


def import_extra(package: str) -> Any:
    """A package of the extra "export".

    Raises:
        MissingExtra: It is not installed.
    """
    try:
        return importlib.import_module(package)
    except ImportError as error:
        raise MissingExtra(package, "export") from error
