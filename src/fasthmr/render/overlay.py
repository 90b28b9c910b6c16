"""Meshes drawn over the picture they were recovered from."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
from jaxtyping import Float, Int, Shaped, UInt8
from torch import Tensor

from fasthmr.geometry.meshes import vertex_normals
from fasthmr.geometry.palette import person_color
from fasthmr.render.rasterizer import interpolate_seen, rasterize
from fasthmr.render.shading import shade, to_srgb
from fasthmr.types import Mesh

_MESHES_AT_ONCE = 32


def overlay(
    image_rgb: UInt8[np.ndarray, "height width 3"],
    meshes: Sequence[Mesh],
    K: Float[Tensor, "3 3"],
    alpha: float = 0.92,
    cull: bool = False,
    samples: int = 2,
) -> UInt8[np.ndarray, "height width 3"]:
    """Draws shaded meshes over a copy of the picture; nearer people hide those behind.

    A mesh without colours takes the next of the palette. Parts behind the camera or outside the picture are
    left out; no mesh gives a copy.

    Args:
        meshes: In the camera frame of the picture, OpenCV axes, metres.
        K: Pinhole matrix in pixels of the picture.
        alpha: Opacity of the meshes, 0..1.
        cull: Draw only outsides, a little faster; right for closed meshes in front of the camera.
        samples: Along each side of a pixel; 2 smooths edges, 1 takes half the time.
    """
    result = image_rgb.copy()
    meshes = [mesh for mesh in meshes if len(mesh.faces)]
    if not meshes:
        return result
    vertices = torch.cat([mesh.vertices.detach().float().cpu() for mesh in meshes])
    left, top, right, bottom = _visible_region(vertices, K, image_rgb.shape[:2])
    if left >= right or top >= bottom:
        return result

    # Sample i of a pixel at u lies at u + (i + 0.5) / samples - 0.5.
    to_samples = torch.tensor(
        [
            [samples, 0, samples * (0.5 - left) - 0.5],
            [0, samples, samples * (0.5 - top) - 0.5],
            [0, 0, 1],
        ],
        dtype=torch.float64,
    )
    size = (samples * (bottom - top), samples * (right - left))
    seen, ink = _draw(meshes, to_samples @ K.double().cpu(), size, cull)
    row, column = seen // size[1] // samples + top, seen % size[1] // samples + left
    pixel = row * image_rgb.shape[1] + column
    opacity = torch.full_like(ink[:, :1], alpha)
    if samples > 1:
        count = torch.bincount(pixel)
        total = ink.new_zeros(len(count), 3).index_add_(0, pixel, ink)
        pixel = count.nonzero()[:, 0]
        ink = total[pixel] / count[pixel, None]
        opacity = count[pixel, None].to(ink.dtype) * (alpha / samples**2)
    pixels = torch.from_numpy(result).view(-1, 3)
    pixels[pixel] = torch.lerp(pixels[pixel].to(ink.dtype), 255 * ink, opacity).round_().clamp_(0, 255).byte()
    return result


def _draw(
    meshes: Sequence[Mesh], K: Float[Tensor, "3 3"], size: tuple[int, int], cull: bool
) -> tuple[Int[Tensor, "seen"], Float[Tensor, "seen 3"]]:
    """The pixels that see a mesh, counted row by row, and its sRGB colour there.

    Of a crowd some meshes are drawn at a time, so that memory does not grow with it.
    """
    depth = torch.full((size[0] * size[1],), torch.inf)
    colors = torch.empty(len(depth), 3)
    for start in range(0, len(meshes), _MESHES_AT_ONCE):
        vertices, faces, albedo = _join(meshes[start : start + _MESHES_AT_ONCE], start)
        fragments = rasterize(vertices, faces, K, size, cull=cull)
        lit = _lit(vertices, faces, albedo, fragments.face_id)
        seen, ink = interpolate_seen(fragments, _of(lit, faces))
        if len(meshes) <= _MESHES_AT_ONCE:
            return seen, ink
        here = fragments.depth.view(-1)[seen]
        nearer = here < depth[seen]
        depth[seen[nearer]], colors[seen[nearer]] = here[nearer], ink[nearer]
    seen = depth.isfinite().nonzero()[:, 0]
    return seen, colors[seen]


def _join(meshes: Sequence[Mesh], first: int) -> tuple[Tensor, Tensor, Tensor]:
    """Meshes as one: vertices, faces and the linear colour of each vertex.

    Args:
        first: Place of the first one among all, for its colour in the palette.
    """
    vertices, faces, colors = [], [], []
    start = 0
    for index, mesh in enumerate(meshes, start=first):
        points = mesh.vertices.detach().float().cpu()
        albedo = mesh.vertex_colors
        if albedo is None:
            albedo = points.new_tensor(person_color(index)).expand_as(points)
        vertices.append(points)
        faces.append(mesh.faces.long().cpu() + start)
        colors.append(albedo.detach().float().cpu())
        start += len(points)
    return torch.cat(vertices), torch.cat(faces), torch.cat(colors)


def _lit(
    vertices: Float[Tensor, "vertices 3"],
    faces: Int[Tensor, "faces 3"],
    albedo: Float[Tensor, "vertices 3"],
    face_id: Int[Tensor, "height width"],
) -> Float[Tensor, "vertices 3"]:
    """The sRGB colour of vertices under the lamps; zero for those that are not seen."""
    seen = torch.zeros(len(faces), dtype=torch.bool)
    seen[face_id[face_id >= 0]] = True
    used = torch.zeros(len(vertices), dtype=torch.bool)
    used[faces[seen].view(-1)] = True
    index = used.nonzero()[:, 0]
    normals = vertex_normals(vertices, faces[_of(used, faces).any(1)])[index]
    lit = torch.zeros_like(vertices)
    lit[index] = to_srgb(shade(normals, vertices[index], albedo[index]))
    return lit


def _of(values: Shaped[Tensor, "vertices *rest"], faces: Int[Tensor, "faces 3"]) -> Tensor:
    """Values at the corners of each face, (faces, 3, ...); twice as fast as plain indexing."""
    return values.index_select(0, faces.view(-1)).view(*faces.shape, *values.shape[1:])


def _visible_region(vertices: Tensor, K: Tensor, size: tuple[int, ...]) -> tuple[int, int, int, int]:
    """Pixels (left, top, right, bottom) outside which nothing is drawn."""
    height, width = size
    vertices = vertices[vertices.isfinite().all(1)].double()
    front = vertices[:, 2] > 0
    if not front.any():
        return 0, 0, 0, 0
    if not front.all():
        return 0, 0, width, height
    homogeneous = vertices @ K.double().cpu().T
    pixels = homogeneous[:, :2] / homogeneous[:, 2:]
    left, top = (pixels.amin(0) - 0.5).floor().tolist()
    right, bottom = (pixels.amax(0) + 1.5).ceil().tolist()
    return int(max(left, 0)), int(max(top, 0)), int(min(right, width)), int(min(bottom, height))
