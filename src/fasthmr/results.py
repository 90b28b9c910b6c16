"""Result records of a run: numpy only, so that files are read and written without a network.

Units are metres, radians and pixels. Every 3D quantity is in the camera frame of its picture with
OpenCV axes (x right, y down, z forward), so that all people of a picture share one scene.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal, SupportsIndex

import numpy as np
from jaxtyping import Float, Int


class LazyVertices:
    """Body surfaces that are computed when they are asked for, so that long clips need little memory.

    Reads like an array (frames, vertices, 3): one frame by its index, several by a slice or an array of
    indices, all by `numpy.asarray`.

    Args:
        frames: Number of frames.
        vertices: Number of vertices.
        pose: Computes the surfaces of the frames with these indices, metres.
    """

    ndim = 3
    dtype = np.dtype(np.float32)

    def __init__(
        self,
        frames: int,
        vertices: int,
        pose: Callable[[Int[np.ndarray, "picked"]], Float[np.ndarray, "picked vertices 3"]],
    ) -> None:
        self.shape = (frames, vertices, 3)
        self._pose = pose

    def __len__(self) -> int:
        return self.shape[0]

    def __getitem__(self, index: SupportsIndex | slice | np.ndarray) -> Float[np.ndarray, "... vertices 3"]:
        picked = np.arange(len(self))[index]
        return self._pose(np.atleast_1d(picked)).reshape(*picked.shape, *self.shape[1:])

    def __array__(self, dtype: np.dtype | None = None, copy: bool | None = None) -> np.ndarray:
        if copy is False:
            raise ValueError("vertices that are computed on demand cannot be had without a copy")
        return self[:].astype(dtype or self.dtype, copy=False)


Side = Literal["left", "right"]

DEFAULT_FPS = 30.0
"""Of frames without a clock, such as the pictures of a folder, where a format asks for one."""


@dataclass(frozen=True, kw_only=True)
class Person:
    """One person through the frames in which he or she was seen.

    Attributes:
        track_id: Number of the person, unique within the clip.
        frames: Indices into the frames of the clip, strictly increasing.
        boxes_xyxy: Boxes in pixels of the full picture.
        scores: Detector confidence, 0..1.
        vertices: Body surface in the camera frame, metres; of videos computed on demand.
        joints: Kinematic joints in the camera frame, metres.
        global_orient: Rotation matrix of the root joint, camera frame.
        body_pose: Rotation matrices of the other joints relative to their parents.
        betas: Shape coefficients in standard deviations.
        transl: Translation of the model frame (not of the pelvis) in the camera frame, metres.
        keypoints_2d: COCO-17 points (x, y in pixels of the full picture, score), or None.
        side: Of a hand. A left one is the mirror image of a right one: pose and shape are those of the
            mirrored body, with the mirrored triangles, see `Clip.faces_of`. None for people.
    """

    track_id: int
    frames: Int[np.ndarray, "frames"]
    boxes_xyxy: Float[np.ndarray, "frames 4"]
    scores: Float[np.ndarray, "frames"]
    vertices: Float[np.ndarray, "frames vertices 3"] | LazyVertices
    joints: Float[np.ndarray, "frames joints 3"]
    global_orient: Float[np.ndarray, "frames 1 3 3"]
    body_pose: Float[np.ndarray, "frames joints_1 3 3"]
    betas: Float[np.ndarray, "frames num_betas"]
    transl: Float[np.ndarray, "frames 3"]
    keypoints_2d: Float[np.ndarray, "frames 17 3"] | None = None
    side: Side | None = None


@dataclass(frozen=True, kw_only=True)
class PosePerson:
    """2D keypoints of one person through the frames in which he or she was seen.

    Attributes:
        track_id: Number of the person, unique within the clip.
        frames: Indices into the frames of the clip, strictly increasing.
        boxes_xyxy: Boxes in pixels of the full picture.
        scores: Confidence in the whole person, as COCO's evaluation ranks people: the mean score of the
            keypoints above 0.2, times the detector's.
        keypoints_2d: Points (x, y in pixels of the full picture, score), in the order of the clip's names.
    """

    track_id: int
    frames: Int[np.ndarray, "frames"]
    boxes_xyxy: Float[np.ndarray, "frames 4"]
    scores: Float[np.ndarray, "frames"]
    keypoints_2d: Float[np.ndarray, "frames points 3"]


@dataclass(frozen=True, kw_only=True)
class Clip:
    """What was found in one picture or video; no people is a valid result.

    Attributes:
        persons: The people, in order of `track_id`.
        faces: Triangles of the body surface, indices into the vertices of every person; of left hands see
            `faces_of`.
        parents: Parent of each joint, -1 for the root.
        joint_names: One name per joint.
        intrinsics: Camera matrix of each frame in pixels of the full picture.
        camera_source: Where the camera comes from: "focal", "fov" or "calib" (given), "exif", "network"
            (estimated), or "hmr2" (the long lens that HMR 2.0 assumes; distances are too large).
        image_size: Width and height of the full picture, pixels.
        fps: Frames per second of a video, None for a picture.
        times: Seconds of each frame, increasing, where the video tells them; see `frame_times`.
        source: Name of the picture or video.
        body: Name of the body model.
        model: Name of the mesh-recovery model.
        lbs_weights: Skinning weights of the body, where kept.
        pose_fitted: The model gives vertices and no pose (METRO, FastMETRO, TORE): pose, shape and place were
            fitted to them. Vertices of pictures are the model's own, those of videos the fitted body's.
        timings: Seconds spent in each stage of the run.
    """

    persons: tuple[Person, ...]
    faces: Int[np.ndarray, "faces 3"]
    parents: Int[np.ndarray, "joints"]
    joint_names: tuple[str, ...]
    intrinsics: Float[np.ndarray, "frames 3 3"]
    image_size: tuple[int, int]
    camera_source: str = ""
    fps: float | None = None
    times: Float[np.ndarray, "frames"] | None = None
    source: str = ""
    body: str = ""
    model: str = ""
    lbs_weights: Float[np.ndarray, "vertices joints"] | None = None
    pose_fitted: bool = False
    timings: Mapping[str, float] = field(default_factory=dict)

    @property
    def num_frames(self) -> int:
        """Frames of the picture (1) or video, with or without people."""
        return len(self.intrinsics)

    def faces_of(self, person: Person) -> Int[np.ndarray, "faces 3"]:
        """Triangles of a person's surface, counter-clockwise seen from outside."""
        return self.faces[:, ::-1] if person.side == "left" else self.faces

    @property
    def frame_times(self) -> Float[np.ndarray, "frames"]:
        """Seconds of each frame from the first on: by `times`, else evenly by `fps`, else 30 to a second."""
        if self.times is not None:
            return self.times - self.times[:1]
        return np.arange(self.num_frames) / (self.fps or DEFAULT_FPS)

    def save(self, path: str | Path) -> Path:
        """Writes the clip in the format of the suffix: .npz, .glb, .bvh, .obj or .json.

        A .bvh holds one person, an .obj one frame; several give numbered files beside each other, and the
        path of the first is returned. Every file appears complete or not at all.

        Raises:
            UsageError: the suffix is not supported, or the format cannot hold this clip.
            ResourceError: the disk is full or the folder cannot be written.
        """
        from fasthmr.io.export import save_clip

        return save_clip(self, Path(path))

    @classmethod
    def load(cls, path: str | Path) -> Clip:
        """Reads a clip written as .npz.

        Raises:
            InputError: the file is missing, damaged or of another schema.
        """
        from fasthmr.io.npz import read_npz

        return read_npz(Path(path))


@dataclass(frozen=True, kw_only=True)
class PoseClip:
    """2D keypoints found in one picture or video; no people is a valid result.

    Attributes:
        persons: The people, best first.
        keypoint_names: One name per keypoint, COCO's 17.
        image_ids: Number of each frame's picture in COCO's sense: the number that its file name is, if it is
            one, else its place in the run.
        image_size: Width and height of the full picture, pixels.
        fps: Frames per second of a video, None for a picture.
        source: Name of the picture or video.
        model: Name of the model.
        timings: Seconds spent in each stage of the run.
    """

    persons: tuple[PosePerson, ...]
    keypoint_names: tuple[str, ...]
    image_ids: Int[np.ndarray, "frames"]
    image_size: tuple[int, int]
    fps: float | None = None
    source: str = ""
    model: str = ""
    timings: Mapping[str, float] = field(default_factory=dict)

    @property
    def num_frames(self) -> int:
        """Frames of the picture (1) or video, with or without people."""
        return len(self.image_ids)

    def save(self, path: str | Path) -> Path:
        """Writes the clip as .json (COCO results format) or .npz.

        The file appears complete or not at all.

        Raises:
            UsageError: the suffix is not supported.
            ResourceError: the disk is full or the folder cannot be written.
        """
        from fasthmr.io.export import save_pose_clip

        return save_pose_clip(self, Path(path))

    @classmethod
    def load(cls, path: str | Path) -> PoseClip:
        """Reads a clip written as .npz.

        Raises:
            InputError: the file is missing, damaged or of another schema.
        """
        from fasthmr.io.pose_npz import read_pose_npz

        return read_pose_npz(Path(path))
