"""Perspective cameras. Coordinates follow OpenCV (x right, y down, z forward); sizes are (width, height)."""

from __future__ import annotations

import torch
from jaxtyping import Float
from torch import Tensor

HMR2_FOCAL = 5000.0
"""Focal length in pixels of the crop camera that HMR 2.0 assumes, for a crop of 256 pixels."""

HMR2_CROP_SIZE = 256


def project(
    points_cam: Float[Tensor, "*batch points 3"], K: Float[Tensor, "*batch 3 3"]
) -> Float[Tensor, "*batch points 2"]:
    """Pixels of points in front of the camera. Points with z <= 0 have no image; filter them out first."""
    homogeneous = points_cam @ K.mT
    return homogeneous[..., :2] / homogeneous[..., 2:]


def back_project(
    points_2d: Float[Tensor, "*batch points 2"],
    depth: Float[Tensor, "*batch points"],
    K: Float[Tensor, "*batch 3 3"],
) -> Float[Tensor, "*batch points 3"]:
    """Camera-frame points in metres of pixels with known depth (z, not distance)."""
    homogeneous = torch.cat([points_2d, torch.ones_like(points_2d[..., :1])], dim=-1)
    rays = homogeneous @ torch.linalg.inv(K).mT
    return rays * depth[..., None]


def intrinsics(
    focal: Float[Tensor, "*batch"], image_size: Float[Tensor, "*batch 2"]
) -> Float[Tensor, "*batch 3 3"]:
    """Intrinsic matrix with square pixels and the principal point at the picture's centre."""
    zero, one = torch.zeros_like(focal), torch.ones_like(focal)
    cx, cy = (image_size / 2).to(focal.dtype).unbind(-1)
    entries = torch.stack((focal, zero, cx, zero, focal, cy, zero, zero, one), dim=-1)
    return entries.unflatten(-1, (3, 3))


def default_focal(
    image_size: Float[Tensor, "*batch 2"], focal_crop: float = HMR2_FOCAL, crop_size: int = HMR2_CROP_SIZE
) -> Float[Tensor, "*batch"]:
    """Focal length in pixels that HMR 2.0 assumes: focal_crop / crop_size times the longer side.

    The released code takes the longest side of the whole batch; here every picture counts for itself.
    """
    return image_size.amax(-1) * (focal_crop / crop_size)


def fov_to_focal(fov: Float[Tensor, "*batch"], side: Float[Tensor, "*batch"]) -> Float[Tensor, "*batch"]:
    """Focal length in pixels from a field of view in radians along a side of `side` pixels."""
    return side / (2 * torch.tan(fov / 2))


def crop_camera_translation(
    camera: Float[Tensor, "*batch 3"], focal_crop: float = HMR2_FOCAL, crop_size: int = HMR2_CROP_SIZE
) -> Float[Tensor, "*batch 3"]:
    """Translation in metres of the model frame before the crop camera, from (s, tx, ty)."""
    scale, tx, ty = camera.unbind(-1)
    return torch.stack((tx, ty, 2 * focal_crop / (crop_size * scale + 1e-9)), dim=-1)


def project_to_crop(
    points: Float[Tensor, "*batch points 3"],
    camera: Float[Tensor, "*batch 3"],
    focal_crop: float = HMR2_FOCAL,
    crop_size: int = HMR2_CROP_SIZE,
) -> Float[Tensor, "*batch points 2"]:
    """Points of the model frame in crop units (pixel / crop side - 0.5) under the camera (s, tx, ty)."""
    points_cam = points + crop_camera_translation(camera, focal_crop, crop_size)[..., None, :]
    return points_cam[..., :2] / points_cam[..., 2:] * (focal_crop / crop_size)


def crop_camera_to_full(
    camera: Float[Tensor, "*batch 3"],
    box_center: Float[Tensor, "*batch 2"],
    box_size: Float[Tensor, "*batch"],
    image_size: Float[Tensor, "*batch 2"],
    focal: Float[Tensor, "*batch"],
    principal: Float[Tensor, "*batch 2"] | None = None,
) -> Float[Tensor, "*batch 3"]:
    """Translation in metres in the frame of the full picture's camera.

    HMR 2.0 and CameraHMR (arXiv 2411.08128) agree here; they differ in the focal length alone.

    Args:
        camera: Crop camera (s, tx, ty).
        box_center: Centre of the square crop in pixels of the full picture.
        box_size: Side of the square crop in pixels of the full picture.
        image_size: Width and height of the full picture in pixels.
        focal: Focal length of the full picture in pixels; another one only moves the person along z.
        principal: Principal point in pixels; the picture's centre if None.
    """
    scaled = box_size * camera[..., 0] + 1e-9
    origin = image_size / 2 if principal is None else principal
    shift = 2 * (box_center - origin) / scaled[..., None]
    return torch.cat([camera[..., 1:] + shift, (2 * focal / scaled)[..., None]], dim=-1)


def bbox_info(
    box_center: Float[Tensor, "*batch 2"],
    box_size: Float[Tensor, "*batch"],
    principal: Float[Tensor, "*batch 2"],
    focal: Float[Tensor, "*batch"],
) -> Float[Tensor, "*batch 3"]:
    """Where a square crop lies in its camera: ((cx - px) / f, (cy - py) / f, b / f).

    Input of models that know the camera: CLIFF (arXiv 2208.00571, sec. 3.2), CameraHMR (arXiv 2411.08128).

    Args:
        box_center: Centre of the square crop in pixels of the full picture.
        box_size: Side of the square crop in pixels of the full picture.
        principal: Principal point in pixels; the released CameraHMR takes the picture's centre.
        focal: Focal length of the full picture in pixels.
    """
    return torch.cat([box_center - principal, box_size[..., None]], dim=-1) / focal[..., None]
