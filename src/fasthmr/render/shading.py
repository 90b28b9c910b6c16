"""Soft studio light for meshes: three lamps, a sky-and-floor ambient term, a faint gloss.

Colours are linear 0..1 until `to_srgb`. Directions are in the camera frame (x right, y down, z forward).
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor

# Direction towards the lamp, strength, colour: warm key from upper left, cool fill from the right, rim
# from behind and above.
_LAMPS = (
    ((-0.60, -0.75, -0.60), 1.00, (1.00, 0.97, 0.92)),
    ((0.90, -0.05, -0.50), 0.24, (0.85, 0.92, 1.00)),
    ((0.30, -0.75, 0.80), 0.40, (1.00, 1.00, 1.00)),
)
_AMBIENT_UP = 0.20
_AMBIENT_DOWN = 0.07
_WRAP = 0.20  # how far light reaches round the terminator, 0 for hard
_GRAZING = 0.45  # light left where the surface turns away from the camera; draws folds and limbs apart
_GLOSS = 0.05
_GLOSS_POWER = 24.0


def shade(
    normals: Float[Tensor, "*points 3"],
    points: Float[Tensor, "*points 3"],
    albedo: Float[Tensor, "*points 3"],
) -> Float[Tensor, "*points 3"]:
    """Light that each surface point sends to the camera, linear RGB 0..1.

    Wrapped Lambert from three lamps, a sky-and-floor ambient term, a faint Blinn-Phong gloss, and less
    light at grazing view as in a deep studio box.

    Args:
        normals: Unit normals in the camera frame.
        points: Positions in the camera frame; only their direction from the camera matters.
        albedo: Linear RGB 0..1.
    """
    to_camera = -F.normalize(points, dim=-1)
    up = 0.5 - 0.5 * normals[..., 1:2]
    light = (_AMBIENT_DOWN + (_AMBIENT_UP - _AMBIENT_DOWN) * up).expand_as(normals)
    gloss = torch.zeros_like(up)
    for direction, strength, color in _LAMPS:
        to_lamp = F.normalize(normals.new_tensor(direction), dim=0)
        lambert = ((normals * to_lamp).sum(-1, keepdim=True) + _WRAP).clamp(min=0) / (1 + _WRAP)
        light = light + lambert**1.3 * strength * normals.new_tensor(color)
        half = F.normalize(to_camera + to_lamp, dim=-1)
        gloss = gloss + strength * (normals * half).sum(-1, keepdim=True).clamp(min=0) ** _GLOSS_POWER
    facing = (normals * to_camera).sum(-1, keepdim=True).clamp(0, 1)
    light = light * (_GRAZING + (1 - _GRAZING) * facing.sqrt())
    return (albedo * light + _GLOSS * gloss).clamp(0, 1)


def to_srgb(linear: Float[Tensor, "*points"]) -> Float[Tensor, "*points"]:
    """Linear RGB 0..1 to sRGB 0..1 (IEC 61966-2-1)."""
    return torch.where(
        linear <= 0.0031308, 12.92 * linear, 1.055 * linear.clamp(min=1e-8) ** (1 / 2.4) - 0.055
    )
