"""Results as binary glTF 2.0 (.glb): one node per person and the camera of the picture.

glTF has y up and cameras that look along -z, so the camera frame is turned by 180 degrees about x.
Specification: Khronos glTF 2.0, sections 3.6 (accessors) and 4 (GLB layout).
"""

from __future__ import annotations

import json
import math
import struct
from pathlib import Path
from typing import Any

import numpy as np
import torch

from fasthmr.errors import UsageError
from fasthmr.geometry.meshes import vertex_normals
from fasthmr.geometry.palette import person_color
from fasthmr.io.atomic import write_bytes
from fasthmr.io.clip_schema import UNITS, VIEWER_AXES, to_viewer_axes
from fasthmr.results import Clip, Person

_FLOAT, _UINT16, _UINT32 = 5126, 5123, 5125
_ARRAY_BUFFER, _ELEMENT_ARRAY_BUFFER = 34962, 34963


def write_glb(clip: Clip, path: Path) -> Path:
    """Writes the people of one picture as static meshes.

    Raises:
        UsageError: the clip has several frames.
    """
    if clip.num_frames > 1:
        raise UsageError(
            f"{path}: the clip has {clip.num_frames} frames and .glb holds one; "
            "save it as .npz, .json or .obj (one file per frame)"
        )
    scene = _Scene(clip)
    for index, person in enumerate(clip.persons):
        if len(person.frames):
            scene.add_person(index, person)
    return write_bytes(path, scene.to_bytes())


class _Scene:
    """A glTF document and its binary buffer under construction."""

    def __init__(self, clip: Clip) -> None:
        self.clip = clip
        self.binary = bytearray()
        self.views: list[dict[str, Any]] = []
        self.accessors: list[dict[str, Any]] = []
        self.meshes: list[dict[str, Any]] = []
        self.materials: list[dict[str, Any]] = []
        self.nodes: list[dict[str, Any]] = []
        self.cameras: list[dict[str, Any]] = []
        self.indices: int | None = None
        if clip.num_frames:
            self.cameras.append(_camera(clip))
            self.nodes.append({"name": "camera", "camera": 0})

    def add_person(self, index: int, person: Person) -> None:
        name = f"person_{person.track_id:03d}"
        points = to_viewer_axes(person.vertices[0].astype(np.float32))
        faces = torch.from_numpy(self.clip.faces).long()
        normals = vertex_normals(torch.from_numpy(points), faces).numpy()
        normals[~normals.any(1)] = (0, 1, 0)  # glTF asks for unit length, also at unused vertices
        if self.indices is None:
            dtype = np.uint16 if len(points) < 65535 else np.uint32
            self.indices = self._accessor(self.clip.faces.astype(dtype).reshape(-1), _ELEMENT_ARRAY_BUFFER)
        primitive = {
            "attributes": {
                "POSITION": self._accessor(points, _ARRAY_BUFFER, bounds=True),
                "NORMAL": self._accessor(normals, _ARRAY_BUFFER),
            },
            "indices": self.indices,
            "material": len(self.materials),
        }
        self.materials.append(
            {
                "name": name,
                "pbrMetallicRoughness": {
                    "baseColorFactor": [*person_color(index), 1.0],
                    "metallicFactor": 0.0,
                    "roughnessFactor": 0.7,
                },
            }
        )
        self.nodes.append({"name": name, "mesh": len(self.meshes)})
        self.meshes.append({"name": name, "primitives": [primitive]})

    def to_bytes(self) -> bytes:
        """Header, JSON chunk padded with spaces, binary chunk padded with zeros."""
        document = self._document()
        text = json.dumps(document, allow_nan=False, separators=(",", ":")).encode()
        text += b" " * (-len(text) % 4)
        chunks = struct.pack("<II", len(text), 0x4E4F534A) + text
        if self.binary:
            chunks += struct.pack("<II", len(self.binary), 0x004E4942) + self.binary
        return struct.pack("<III", 0x46546C67, 2, 12 + len(chunks)) + chunks

    def _document(self) -> dict[str, Any]:
        clip = self.clip
        scene: dict[str, Any] = {"name": "picture"}
        if self.nodes:
            scene["nodes"] = list(range(len(self.nodes)))
        document: dict[str, Any] = {
            "asset": {
                "version": "2.0",
                "generator": "fasthmr",
                "extras": {
                    "units": UNITS,
                    "axes": VIEWER_AXES,
                    "source": clip.source,
                    "image_size": list(clip.image_size),
                    "intrinsics": clip.intrinsics.astype(float).tolist(),
                },
            },
            "scene": 0,
            "scenes": [scene],
        }
        lists = {
            "nodes": self.nodes,
            "cameras": self.cameras,
            "meshes": self.meshes,
            "materials": self.materials,
            "accessors": self.accessors,
            "bufferViews": self.views,
            "buffers": [{"byteLength": len(self.binary)}] if self.binary else [],
        }
        # glTF forbids empty lists.
        return document | {name: items for name, items in lists.items() if items}

    def _accessor(self, array: np.ndarray, target: int, bounds: bool = False) -> int:
        data = np.ascontiguousarray(array).tobytes()
        self.views.append(
            {"buffer": 0, "byteOffset": len(self.binary), "byteLength": len(data), "target": target}
        )
        self.binary += data + bytes(-len(data) % 4)
        kind = _FLOAT if array.dtype.kind == "f" else _UINT16 if array.itemsize == 2 else _UINT32
        accessor: dict[str, Any] = {
            "bufferView": len(self.views) - 1,
            "componentType": kind,
            "count": len(array),
            "type": "SCALAR" if array.ndim == 1 else "VEC3",
        }
        if bounds:
            accessor |= {"min": array.min(0).tolist(), "max": array.max(0).tolist()}
        self.accessors.append(accessor)
        return len(self.accessors) - 1


def _camera(clip: Clip) -> dict[str, Any]:
    """The picture's camera; glTF has no principal point, the exact matrix is in `asset.extras`."""
    width, height = clip.image_size
    fx, fy = float(clip.intrinsics[0, 0, 0]), float(clip.intrinsics[0, 1, 1])
    return {
        "name": "camera",
        "type": "perspective",
        "perspective": {
            "yfov": 2 * math.atan(height / (2 * fy)),
            "aspectRatio": width / height * fy / fx,
            "znear": 0.01,
        },
    }
