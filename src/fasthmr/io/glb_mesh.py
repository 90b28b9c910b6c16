"""Body surfaces in a glTF document."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
import torch
from jaxtyping import Float, Int

from fasthmr.geometry.meshes import vertex_normals
from fasthmr.geometry.palette import person_color
from fasthmr.io.glb_file import GlbFile


class SurfaceWriter:
    """Adds surfaces; those with the same triangles share them."""

    def __init__(self, file: GlbFile) -> None:
        self._file = file
        self._indices: dict[bytes, int] = {}

    def add(
        self,
        name: str,
        color: int,
        points: Float[np.ndarray, "vertices 3"],
        faces: Int[np.ndarray, "faces 3"],
        attributes: Mapping[str, int] | None = None,
    ) -> int:
        """Adds a mesh and returns its index.

        Args:
            color: Number of the person in the palette.
            points: Vertices; further ones than the triangles use are allowed.
            attributes: Further accessors of the vertices.
        """
        file, points = self._file, points.astype(np.float32)
        corners = np.ascontiguousarray(faces, dtype=np.int64)
        normals = vertex_normals(torch.from_numpy(points), torch.from_numpy(corners)).numpy()
        normals[~normals.any(1)] = (0, 1, 0)  # glTF asks for unit length, also at unused vertices
        key = corners.tobytes()
        if key not in self._indices:
            dtype = np.uint16 if len(points) < 65535 else np.uint32
            self._indices[key] = file.accessor(corners.astype(dtype).reshape(-1), "indices")
        material = file.add(
            "materials",
            name=name,
            pbrMetallicRoughness={
                "baseColorFactor": [*person_color(color), 1.0],
                "metallicFactor": 0.0,
                "roughnessFactor": 0.7,
            },
        )
        primitive = {
            "attributes": {
                "POSITION": file.accessor(points, "vertices", bounds=True),
                "NORMAL": file.accessor(normals, "vertices"),
                **(attributes or {}),
            },
            "indices": self._indices[key],
            "material": material,
        }
        return file.add("meshes", name=name, primitives=[primitive])
