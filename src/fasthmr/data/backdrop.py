"""What lies behind a person in a clip: one wide picture, drawn once and warped for every frame.

The picture is drawn from one reference camera and then stands in the world: what lies below the line where
the floor meets a far wall is on the floor, the rest on the wall. A turning camera shows it without error, a
moving one with the parallax of those two planes.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from jaxtyping import Float, UInt8

from fasthmr.data.backgrounds import View, draw_background
from fasthmr.data.clip_camera import CameraPath
from fasthmr.data.environments import EnvironmentLibrary
from fasthmr.data.figures import Light

_UP = np.array([0.0, 1.0, 0.0])
_MOST_PIXELS = 1400
_STEEPEST = np.tan(np.deg2rad(62.0))
_BEYOND = 1.5
"""Least distance from the person to the wall behind (m)."""


@dataclass(frozen=True, kw_only=True, eq=False)
class Backdrop:
    """A picture standing in the world.

    Attributes:
        K, R_camera_world, center: The reference camera.
        wall: Normal (away from the camera, level) and distance from the origin of the wall.
    """

    rgb: UInt8[np.ndarray, "height width 3"]
    K: Float[np.ndarray, "3 3"]
    R_camera_world: Float[np.ndarray, "3 3"]
    center: Float[np.ndarray, "3"]
    wall: tuple[Float[np.ndarray, "3"], float]

    def homography(
        self,
        plane: tuple[np.ndarray, float],
        R_world_camera: np.ndarray,
        center: np.ndarray,
        K_inverse: np.ndarray,
    ) -> Float[np.ndarray, "3 3"]:
        """Pixels of another camera to pixels of the picture, by way of the plane n . x = d."""
        normal, distance = plane
        through = np.outer(center - self.center, normal) + (distance - normal @ center) * np.eye(3)
        return self.K @ self.R_camera_world @ through @ R_world_camera @ K_inverse

    def seen(
        self,
        R_camera_world: Float[np.ndarray, "3 3"],
        center: Float[np.ndarray, "3"],
        K: Float[np.ndarray, "3 3"],
        size: tuple[int, int],
    ) -> UInt8[np.ndarray, "height width 3"]:
        """What a camera at `center` with intrinsics K sees of it; size is (height, width)."""
        K_inverse, back = np.linalg.inv(K), R_camera_world.T
        normal, distance = self.wall
        wall = self._warped(self.homography(self.wall, back, center, K_inverse), size)
        if np.abs(center - self.center).max() < 1e-9:
            return wall
        # The nearer plane is seen: inverse depth is linear in the pixel.
        nearer = (-_UP / center[1] - normal / (distance - normal @ center)) @ back @ K_inverse
        x, y = np.arange(size[1]), np.arange(size[0])[:, None]
        on_floor = nearer[0] * x + nearer[1] * y + nearer[2] > 0
        if not on_floor.any():
            return wall
        floor = self._warped(self.homography((_UP, 0.0), back, center, K_inverse), size)
        np.copyto(wall, floor, where=on_floor[..., None])
        return wall

    def _warped(self, H: np.ndarray, size: tuple[int, int]) -> UInt8[np.ndarray, "height width 3"]:
        import cv2

        return cv2.warpPerspective(
            self.rgb,
            H,
            (size[1], size[0]),
            flags=cv2.INTER_LINEAR | cv2.WARP_INVERSE_MAP,
            borderMode=cv2.BORDER_REFLECT_101,
        )


def draw_backdrop(
    environments: EnvironmentLibrary,
    camera: CameraPath,
    middle: Float[np.ndarray, "frames 3"],
    K_crop: Float[np.ndarray, "frames 3 3"],
    size: tuple[int, int],
    rng: np.random.Generator,
) -> tuple[Backdrop, Light, str]:
    """Draw a picture that holds all that the crops of a clip show, and give its light and kind.

    Args:
        middle: The person in the world.
        K_crop: Intrinsics of the crop of every frame; size is its (height, width).
    """
    import cv2

    centers, back = camera.centers, camera.R_camera_world.swapaxes(1, 2)
    ahead = (middle - centers).mean(axis=0)
    ahead /= np.linalg.norm(ahead)
    level = ahead * np.array([1.0, 0, 1.0])
    level /= np.linalg.norm(level)
    deepest = float((middle @ level).max())
    wall = level, deepest + _BEYOND + float(np.exp(rng.uniform(np.log(0.5), np.log(14.0))))
    center = centers.mean(axis=0)
    if camera.kind == "follow":  # behind all that is to be seen
        center = center - level * ((center - centers) @ level).max()
    right = np.cross(ahead, _UP)
    right /= np.linalg.norm(right)
    R = np.stack([right, np.cross(ahead, right), ahead])
    corners = np.array([[-0.5, -0.5, 1], [size[1], -0.5, 1], [-0.5, size[0], 1], [size[1], size[0], 1]])
    directions = back[:, None] @ np.linalg.inv(K_crop)[:, None] @ corners[..., None]
    tangents = _tangents(R, center, directions[..., 0], centers, wall)
    low = np.clip(tangents.min(axis=(0, 1)), -_STEEPEST, _STEEPEST)
    high = np.clip(tangents.max(axis=(0, 1)), -_STEEPEST, _STEEPEST)
    per_unit = min(float(np.median(K_crop[:, 0, 0])), _MOST_PIXELS / float((high - low).max()))
    margin = 2.0
    width, height = (np.ceil((high - low) * per_unit + 2 * margin).astype(int) + 1).tolist()
    K = np.array(
        [[per_unit, 0, margin - low[0] * per_unit], [0, per_unit, margin - low[1] * per_unit], [0, 0, 1]]
    )
    view = View(
        R_pano_camera=np.diag([1.0, -1.0, -1.0]) @ R.T,
        K=K,
        size=(height, width),
        floor=float(center[1]),
        distance=float(np.linalg.norm(middle - center, axis=1).mean()),
    )
    rgb, light, kind = draw_background(environments, view, rng, widen=not camera.moves)
    blurred, strength = rng.random(), rng.uniform(0.5, 3.0)
    if blurred < 0.25:
        sigma = strength * size[0] / 160 * per_unit / float(np.median(K_crop[:, 0, 0]))
        rgb = cv2.GaussianBlur(rgb, (0, 0), max(sigma, 0.3))
    backdrop = Backdrop(rgb=rgb, K=K, R_camera_world=R, center=center, wall=wall)
    return backdrop, light, kind


def _tangents(
    R: np.ndarray,
    center: np.ndarray,
    directions: Float[np.ndarray, "frames corners 3"],
    centers: Float[np.ndarray, "frames 3"],
    wall: tuple[np.ndarray, float],
) -> Float[np.ndarray, "frames corners 2"]:
    """Where the reference camera sees what rays from other cameras hit, x / z and y / z."""
    normal, distance = wall
    origin = centers[:, None]
    inverse_wall = (directions @ normal) / (distance - origin @ normal)
    inverse_floor = -directions[..., 1] / origin[..., 1]
    nearest = np.maximum(np.maximum(inverse_wall, inverse_floor), 1e-3)
    points = (origin + directions / nearest[..., None] - center) @ R.T
    return points[..., :2] / np.maximum(points[..., 2:], 0.2)
