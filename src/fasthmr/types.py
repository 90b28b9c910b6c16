"""Typed records that cross the rows of the package.

Every array is a `torch.Tensor`; every record is frozen. Units are metres, radians and pixels;
camera coordinates follow OpenCV (x right, y down, z forward).
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor


@dataclass(frozen=True, kw_only=True)
class BodyParams:
    """Pose, shape and place of SMPL-format bodies, any leading batch shape.

    Attributes:
        global_orient: Rotation matrix of the root joint.
        body_pose: Rotation matrices of the other joints relative to their parents.
        betas: Shape coefficients, standard deviations.
        transl: Translation of the model frame in metres (not of the pelvis), or None for zero.
    """

    global_orient: Float[Tensor, "*batch 1 3 3"]
    body_pose: Float[Tensor, "*batch joints_1 3 3"]
    betas: Float[Tensor, "*batch num_betas"]
    transl: Float[Tensor, "*batch 3"] | None = None

    @staticmethod
    def of_rotmats(
        rotmats: Float[Tensor, "*batch joints 3 3"],
        betas: Float[Tensor, "*batch num_betas"],
        transl: Float[Tensor, "*batch 3"] | None = None,
    ) -> BodyParams:
        """The same from the rotation matrices of all joints, the root joint first."""
        root, others = rotmats[..., :1, :, :], rotmats[..., 1:, :, :]
        return BodyParams(global_orient=root, body_pose=others, betas=betas, transl=transl)

    @property
    def rotmats(self) -> Float[Tensor, "*batch joints 3 3"]:
        """Rotation matrices of all joints, the root joint first."""
        return torch.cat([self.global_orient, self.body_pose], dim=-3)


@dataclass(frozen=True, kw_only=True)
class BodyMesh:
    """Posed vertices and joints in metres, in the frame of the pose given."""

    vertices: Float[Tensor, "*batch vertices 3"]
    joints: Float[Tensor, "*batch joints 3"]


@dataclass(frozen=True, kw_only=True)
class Crop:
    """Square picture regions ready for a network, with what is needed to map back.

    Attributes:
        pixels: RGB, normalised with the ImageNet mean and standard deviation.
        box_center: Centre of the square in pixels of the full picture (x, y).
        box_size: Side of the square in pixels of the full picture.
        image_size: Width and height of the full picture in pixels.
    """

    pixels: Float[Tensor, "batch 3 size size"]
    box_center: Float[Tensor, "batch 2"]
    box_size: Float[Tensor, "batch"]
    image_size: Float[Tensor, "batch 2"]


@dataclass(frozen=True, kw_only=True)
class PoseCrop:
    """Upright rectangles of a picture ready for a 2D pose network, with what is needed to map back.

    Attributes:
        pixels: RGB, normalised with the ImageNet mean and standard deviation.
        center: Centre of the rectangle in pixels of the full picture (x, y).
        size: Its width and height in pixels of the full picture.
    """

    pixels: Float[Tensor, "batch 3 height width"]
    center: Float[Tensor, "batch 2"]
    size: Float[Tensor, "batch 2"]


@dataclass(frozen=True, kw_only=True)
class Keypoints2D:
    """Points in crop units (pixel / crop side - 0.5) with a score in 0..1 for each."""

    xy: Float[Tensor, "batch points 2"]
    score: Float[Tensor, "batch points"]


@dataclass(frozen=True, kw_only=True)
class HMROutput:
    """What a mesh-recovery model returns for a batch of crops.

    Attributes:
        params: Pose and shape. The place follows from `camera`; `transl`, where it is not None, is where the
            frame of the body lies from the point that the camera places.
        camera: Weak-perspective crop camera (s, tx, ty) of HMR (arXiv 1712.06584, sec. 3.2).
        keypoints: 2D points read from heat maps, where the model has such a head.
        aux_keypoints_2d: Points that CameraHMR's head reads out beside the pose; nothing in its release uses
            or scales them.
        features: What the head read its answers from, for temporal models (FastHMR, sec. 3.3): the token
            of the decoder; of the default preset the token of the whole picture, then x, y (crop units),
            depth (metres) and score of its 35 points. None where the model does not give it.
        vertices: Where the model places them itself, about the point that the camera places; metres.
    """

    params: BodyParams
    camera: Float[Tensor, "batch 3"]
    keypoints: Keypoints2D | None = None
    aux_keypoints_2d: Float[Tensor, "batch aux_points 2"] | None = None
    features: Float[Tensor, "batch width"] | None = None
    vertices: Float[Tensor, "batch vertices 3"] | None = None


@dataclass(frozen=True, kw_only=True)
class MeshOutput:
    """What a model returns that places the vertices of a mesh themselves (METRO, FastMETRO, TORE).

    Points are metres about the root of the body, turned as the camera sees them.

    Attributes:
        camera: Weak perspective (s, tx, ty): s (x + t) is a place in the crop, -1 to 1.
        joints: Read from joint tokens, not from the mesh.
        vertices: Levels of the mesh, coarsest first; the last is the body's own mesh. A level in the middle
            may be left out where nobody asked for it.
        params: Pose and shape read from the mesh, where the model has such a part.
        clusters: Weight of every cell of the feature map in each image token, where tokens were reduced.
    """

    camera: Float[Tensor, "batch 3"]
    joints: Float[Tensor, "batch joints 3"]
    vertices: tuple[Tensor, ...]
    params: BodyParams | None = None
    clusters: Float[Tensor, "batch tokens cells"] | None = None


@dataclass(frozen=True, kw_only=True)
class DenseKeypoints:
    """Points of the body's surface in crop units (pixel / crop side - 0.5).

    Attributes:
        log_sigma: Natural logarithm of the expected error, in crop units.
    """

    xy: Float[Tensor, "batch points 2"]
    log_sigma: Float[Tensor, "batch points"]


@dataclass(frozen=True, kw_only=True)
class MotionTrack:
    """One person through consecutive frames of a video, in the camera frame; what temporal models smooth.

    Attributes:
        params: Pose, shape and place in every frame; `transl` is never None.
        times: Seconds, increasing.
        features: What the image model knows about each frame beside its readings, or None.
        boxes_xyxy: Pixels of the full picture.
        scores: Detector confidence, 0..1; 0 where the person was not detected and the frame was filled in.
    """

    params: BodyParams
    times: Float[Tensor, "frames"]
    boxes_xyxy: Float[Tensor, "frames 4"]
    scores: Float[Tensor, "frames"]
    features: Float[Tensor, "frames width"] | None = None


@dataclass(frozen=True, kw_only=True)
class Detections:
    """Boxes of people, or hands, in one picture, pixels (x1, y1, x2, y2), best score first.

    Attributes:
        left: Which hands are left ones; None for people.
    """

    boxes_xyxy: Float[Tensor, "persons 4"]
    scores: Float[Tensor, "persons"]
    left: Bool[Tensor, "persons"] | None = None


@dataclass(frozen=True, kw_only=True)
class Mesh:
    """A triangle mesh; colours are linear 0..1."""

    vertices: Float[Tensor, "vertices 3"]
    faces: Int[Tensor, "faces 3"]
    vertex_colors: Float[Tensor, "vertices 3"] | None = None
