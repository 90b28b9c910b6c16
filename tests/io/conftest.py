"""Small clips for the tests of result files."""

from __future__ import annotations

import functools
from collections.abc import Callable

import numpy as np
import pytest
import torch

from fasthmr.body.default_body import load_default_body
from fasthmr.body.skeletons import COCO17_NAMES
from fasthmr.geometry.rotations import axis_angle_to_rotmat
from fasthmr.results import Clip, Person, PoseClip, PosePerson
from fasthmr.types import BodyParams

# An octahedron seen from outside counter-clockwise, y up.
_POINTS = np.array([[1, 0, 0], [-1, 0, 0], [0, 1, 0], [0, -1, 0], [0, 0, 1], [0, 0, -1]], dtype=np.float32)
_FACES = np.array(
    [[0, 2, 4], [2, 1, 4], [1, 3, 4], [3, 0, 4], [2, 0, 5], [1, 2, 5], [3, 1, 5], [0, 3, 5]], dtype=np.int32
)
_PARENTS = np.array([-1, 0, 1], dtype=np.int32)


def _clip(persons: int = 2, frames: int = 1, keypoints: bool = True) -> Clip:
    """Octahedra with three joints, in a picture of 640x480."""
    rng = np.random.default_rng(7)
    people = []
    for index in range(persons):
        seen = np.arange(index % max(frames, 1), frames)
        count = len(seen)
        transl = rng.normal(size=(count, 3)) + np.array([0, 0, 4])
        rotations, _ = np.linalg.qr(rng.normal(size=(count, 3, 3, 3)))
        rotations *= np.sign(np.linalg.det(rotations))[..., None, None]
        people.append(
            Person(
                track_id=index + 1,
                frames=seen,
                boxes_xyxy=rng.uniform(0, 400, (count, 4)).astype(np.float32),
                scores=rng.uniform(size=count).astype(np.float32),
                # Half a turn about x, so that the octahedron looks outward in the camera frame too.
                vertices=(_POINTS * [0.5, -0.5, -0.5] + transl[:, None]).astype(np.float32),
                joints=(rng.normal(size=(count, 3, 3)) * 0.2 + transl[:, None]).astype(np.float32),
                global_orient=rotations[:, :1].astype(np.float32),
                body_pose=rotations[:, 1:].astype(np.float32),
                betas=rng.normal(size=(count, 10)).astype(np.float32),
                transl=transl.astype(np.float32),
                keypoints_2d=rng.uniform(0, 400, (count, 17, 3)).astype(np.float32) if keypoints else None,
            )
        )
    K = np.array([[600.0, 0, 319.5], [0, 600.0, 239.5], [0, 0, 1]])
    return Clip(
        persons=tuple(people),
        faces=_FACES,
        parents=_PARENTS,
        joint_names=("pelvis", "spine", "head"),
        intrinsics=np.repeat(K[None], frames, axis=0),
        image_size=(640, 480),
        camera_source="exif",
        fps=None if frames == 1 else 25.0,
        source="pictures/größe.jpg",
        body="default",
        model="fasthmr_s",
        lbs_weights=np.eye(6, 3, dtype=np.float32),
        timings={"decode": 0.25, "model": 1.5},
    )


@pytest.fixture
def make_clip() -> Callable[..., Clip]:
    """make_clip(persons=2, frames=1, keypoints=True) -> a clip that is the same every time."""
    return _clip


@pytest.fixture
def make_pose_clip() -> Callable[..., PoseClip]:
    """make_pose_clip(persons=2, frames=1) -> keypoints that are the same every time."""

    def make(persons: int = 2, frames: int = 1) -> PoseClip:
        rng = np.random.default_rng(3)
        people = []
        for index in range(persons):
            seen = np.arange(index % max(frames, 1), frames)
            low = rng.uniform(0, 300, (len(seen), 2))
            people.append(
                PosePerson(
                    track_id=index,
                    frames=seen,
                    boxes_xyxy=np.concatenate([low, low + 100], axis=1).astype(np.float32),
                    scores=rng.uniform(size=len(seen)).astype(np.float32),
                    keypoints_2d=rng.uniform(0, 400, (len(seen), 17, 3)).astype(np.float32),
                )
            )
        return PoseClip(
            persons=tuple(people),
            keypoint_names=COCO17_NAMES,
            image_ids=np.arange(785, 785 + frames),
            image_size=(640, 480),
            fps=None if frames == 1 else 25.0,
            source="größe.jpg",
            model="vitpose_vit_s",
            timings={"model": 1.5},
        )

    return make


@functools.cache
def _body_clip(frames: int) -> Clip:
    body = load_default_body()
    generator = torch.Generator().manual_seed(11)
    people = []
    for track_id, seen in ((1, np.arange(frames)), (4, np.array([2, 3, 4, 6, 7]))):
        count = len(seen)
        # Waves of every joint, fast enough that quaternions change sign.
        size, phase = (torch.randn(2, 24, 3, generator=generator) * torch.tensor([[[0.5]], [[3.0]]])).unbind(
            0
        )
        time = torch.from_numpy(seen)[:, None, None] * 0.4
        R = axis_angle_to_rotmat((time + phase).sin() * size)
        turn = torch.stack([torch.pi + 0.4 * time[:, 0, 0], 0 * time[:, 0, 0], 0 * time[:, 0, 0]], dim=-1)
        params = BodyParams(
            global_orient=axis_angle_to_rotmat(turn)[:, None] @ R[:, :1],
            body_pose=R[:, 1:],
            betas=torch.randn(1, 10, generator=generator).expand(count, 10).contiguous(),
            transl=torch.tensor([track_id - 2.0, 0.2, 4.0]) + 0.1 * time[:, 0] * torch.tensor([1.0, 0, -1]),
        )
        mesh = body(params)
        assert params.transl is not None
        people.append(
            Person(
                track_id=track_id,
                frames=seen,
                boxes_xyxy=np.zeros((count, 4), np.float32),
                scores=np.ones(count, np.float32),
                vertices=mesh.vertices.numpy(),
                joints=mesh.joints.numpy(),
                global_orient=params.global_orient.numpy(),
                body_pose=params.body_pose.numpy(),
                betas=params.betas.numpy(),
                transl=params.transl.numpy(),
            )
        )
    K = np.array([[1000.0, 0, 639.5], [0, 1000.0, 359.5], [0, 0, 1]])
    return Clip(
        persons=tuple(people),
        faces=body.faces.numpy(),
        parents=body.parents.numpy(),
        joint_names=tuple(body.joint_names),
        intrinsics=np.repeat(K[None], frames, axis=0),
        image_size=(1280, 720),
        fps=25.0,
        source="walk.mp4",
        body=body.name,
        model="fasthmr_m",
        lbs_weights=body.lbs_weights.numpy(),
    )


@pytest.fixture
def body_clip() -> Clip:
    """10 frames at 25/s: the free body as track 1, and as track 4 in frames 2 to 7 without 5."""
    return _body_clip(10)
