"""A binary glTF 2.0 document under construction.

Specification: Khronos glTF 2.0, sections 3.6 (accessors: alignment, bounds) and 4 (GLB layout).
"""

from __future__ import annotations

import json
import struct
from collections.abc import Mapping, Sequence
from typing import Any, Literal

import numpy as np

Target = Literal["vertices", "indices"]

_TARGETS = {"vertices": 34962, "indices": 34963}
_COMPONENTS = {"float32": 5126, "uint8": 5121, "uint16": 5123, "uint32": 5125}
_KINDS = {(): "SCALAR", (3,): "VEC3", (4,): "VEC4", (4, 4): "MAT4"}


class GlbFile:
    """Lists of objects that refer to each other by index, and one binary buffer."""

    def __init__(self) -> None:
        self._lists: dict[str, list[dict[str, Any]]] = {}
        self._binary = bytearray()

    def add(self, kind: str, **entry: Any) -> int:
        """Appends to one of the document's lists ("nodes", "meshes", ...); returns the index there."""
        entries = self._lists.setdefault(kind, [])
        entries.append(entry)
        return len(entries) - 1

    def update(self, kind: str, index: int, **entry: Any) -> None:
        """Adds properties to an object that is there already."""
        self._lists[kind][index].update(entry)

    def accessor(self, array: np.ndarray, target: Target | None = None, *, bounds: bool = False) -> int:
        """Stores rows of numbers in the buffer, little-endian.

        Args:
            array: float32, uint8, uint16 or uint32; rows are numbers, vectors of 3 or 4, or 4x4 matrices
                whose columns stand one after another.
            target: What the graphics card uses them for, if anything.
            bounds: Write the least and the largest value, as vertex positions and times need it.
        """
        data = np.ascontiguousarray(array, dtype=array.dtype.newbyteorder("<")).tobytes()
        view: dict[str, Any] = {"buffer": 0, "byteOffset": len(self._binary), "byteLength": len(data)}
        if target is not None:
            view["target"] = _TARGETS[target]
        self._binary += data + bytes(-len(data) % 4)
        accessor: dict[str, Any] = {
            "bufferView": self.add("bufferViews", **view),
            "componentType": _COMPONENTS[array.dtype.name],
            "count": len(array),
            "type": _KINDS[array.shape[1:]],
        }
        if bounds:
            accessor |= {name: np.atleast_1d(of(array, axis=0)).tolist() for name, of in _BOUNDS.items()}
        return self.add("accessors", **accessor)

    def to_bytes(self, roots: Sequence[int], extras: Mapping[str, Any]) -> bytes:
        """Header, JSON chunk padded with spaces, binary chunk padded with zeros.

        Args:
            roots: Nodes of the scene.
            extras: What the format has no place for.
        """
        scene: dict[str, Any] = {"name": "scene"}
        if roots:
            scene["nodes"] = list(roots)
        document: dict[str, Any] = {
            "asset": {"version": "2.0", "generator": "fasthmr", "extras": dict(extras)},
            "scene": 0,
            "scenes": [scene],
            **self._lists,
        }
        if self._binary:
            document["buffers"] = [{"byteLength": len(self._binary)}]
        text = json.dumps(document, allow_nan=False, separators=(",", ":")).encode()
        text += b" " * (-len(text) % 4)
        chunks = struct.pack("<II", len(text), 0x4E4F534A) + text
        if self._binary:
            chunks += struct.pack("<II", len(self._binary), 0x004E4942) + self._binary
        return struct.pack("<III", 0x46546C67, 2, 12 + len(chunks)) + chunks


_BOUNDS = {"min": np.min, "max": np.max}
