"""Pure functions of triangle meshes."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from jaxtyping import Float, Int
from torch import Tensor


def vertex_normals(
    vertices: Float[Tensor, "vertices 3"], faces: Int[Tensor, "faces 3"]
) -> Float[Tensor, "vertices 3"]:
    """Unit normals, mean of the faces round each vertex weighted by area; zero where there is none.

    Faces whose corners run counter-clockwise as seen from outside give normals that point out.
    """
    corners = vertices[faces]
    normal = torch.linalg.cross(corners[:, 1] - corners[:, 0], corners[:, 2] - corners[:, 0])
    total = torch.zeros_like(vertices)
    for corner in range(3):
        total.index_add_(0, faces[:, corner].long(), normal)
    return F.normalize(total, dim=-1, eps=1e-20)
