"""Small clips for the tests of result files."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pytest

from fasthmr.body.skeletons import COCO17_NAMES
from fasthmr.results import Clip, Person, PoseClip, PosePerson

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
