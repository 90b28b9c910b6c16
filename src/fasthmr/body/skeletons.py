"""Joint names, trees and left/right swaps of the skeletons in use.

Parents are indices into the same table, -1 for the root, and always stand before their children.
A swap (`*_FLIP`) is the permutation that mirroring a person left to right applies to the joints.
Sources: SMPL (Loper et al. 2015), SMPL-H/MANO (Romero et al. 2017), SMPL-X (Pavlakos et al. 2019),
COCO keypoints, OpenPose BODY_25, and the joint set of HMR 2.0 (arXiv 2305.20091).
"""

from __future__ import annotations

from collections.abc import Sequence

SMPL_JOINT_NAMES: tuple[str, ...] = (
    "pelvis",
    "left_hip",
    "right_hip",
    "spine1",
    "left_knee",
    "right_knee",
    "spine2",
    "left_ankle",
    "right_ankle",
    "spine3",
    "left_foot",
    "right_foot",
    "neck",
    "left_collar",
    "right_collar",
    "head",
    "left_shoulder",
    "right_shoulder",
    "left_elbow",
    "right_elbow",
    "left_wrist",
    "right_wrist",
    "left_hand",
    "right_hand",
)
SMPL_PARENTS: tuple[int, ...] = (
    *(-1, 0, 0, 0, 1, 2, 3, 4, 5, 6, 7, 8),
    *(9, 9, 9, 12, 13, 14, 16, 17, 18, 19, 20, 21),
)

MANO_JOINT_NAMES: tuple[str, ...] = (
    "wrist",
    *(f"{finger}{i}" for finger in ("index", "middle", "pinky", "ring", "thumb") for i in (1, 2, 3)),
)
MANO_PARENTS: tuple[int, ...] = (-1, 0, 1, 2, 0, 4, 5, 0, 7, 8, 0, 10, 11, 0, 13, 14)


def _with_hands(names: Sequence[str], parents: Sequence[int]) -> tuple[tuple[str, ...], tuple[int, ...]]:
    """Append the 15 finger joints of the left and then of the right MANO hand to a body."""
    all_names, all_parents = list(names), list(parents)
    for side in ("left", "right"):
        first = len(all_names)
        wrist = names.index(f"{side}_wrist")
        all_names += [f"{side}_{name}" for name in MANO_JOINT_NAMES[1:]]
        all_parents += [wrist if parent == 0 else first + parent - 1 for parent in MANO_PARENTS[1:]]
    return tuple(all_names), tuple(all_parents)


SMPLH_JOINT_NAMES, SMPLH_PARENTS = _with_hands(SMPL_JOINT_NAMES[:22], SMPL_PARENTS[:22])
SMPLX_JOINT_NAMES, SMPLX_PARENTS = _with_hands(
    (*SMPL_JOINT_NAMES[:22], "jaw", "left_eye", "right_eye"), (*SMPL_PARENTS[:22], 15, 15, 15)
)

COCO17_NAMES: tuple[str, ...] = (
    "nose",
    "left_eye",
    "right_eye",
    "left_ear",
    "right_ear",
    "left_shoulder",
    "right_shoulder",
    "left_elbow",
    "right_elbow",
    "left_wrist",
    "right_wrist",
    "left_hip",
    "right_hip",
    "left_knee",
    "right_knee",
    "left_ankle",
    "right_ankle",
)

OPENPOSE25_NAMES: tuple[str, ...] = (
    "nose",
    "neck",
    "right_shoulder",
    "right_elbow",
    "right_wrist",
    "left_shoulder",
    "left_elbow",
    "left_wrist",
    "mid_hip",
    "right_hip",
    "right_knee",
    "right_ankle",
    "left_hip",
    "left_knee",
    "left_ankle",
    "right_eye",
    "left_eye",
    "right_ear",
    "left_ear",
    "left_big_toe",
    "left_small_toe",
    "left_heel",
    "right_big_toe",
    "right_small_toe",
    "right_heel",
)

HMR2_EXTRA19_NAMES: tuple[str, ...] = (
    *("right_ankle", "right_knee", "right_hip", "left_hip", "left_knee", "left_ankle"),
    *("right_wrist", "right_elbow", "right_shoulder", "left_shoulder", "left_elbow", "left_wrist"),
    *("neck_lsp", "head_top_lsp", "pelvis_mpii", "thorax_mpii", "spine_h36m", "jaw_h36m", "head_h36m"),
)
HMR2_44_NAMES: tuple[str, ...] = (
    *(f"openpose_{name}" for name in OPENPOSE25_NAMES),
    *(f"extra_{name}" for name in HMR2_EXTRA19_NAMES),
)
HMR2_44_PELVIS = 39
"""Root of HMR 2.0's losses and metrics: the MPII pelvis of the regressed joints."""

HMR2_EVAL14: tuple[int, ...] = (*range(25, 38), 43)
"""Joints of HMR 2.0's 3D metrics, indices into the 44."""

SMPL_PICKED_VERTEX_NAMES: tuple[str, ...] = (
    *("nose", "right_eye", "left_eye", "right_ear", "left_ear"),
    *("left_big_toe", "left_small_toe", "left_heel", "right_big_toe", "right_small_toe", "right_heel"),
    *(
        f"{side}_{finger}_tip"
        for side in ("left", "right")
        for finger in ("thumb", "index", "middle", "ring", "pinky")
    ),
)
SMPL_PICKED_VERTICES: tuple[int, ...] = (
    *(332, 6260, 2800, 4071, 583),
    *(3216, 3226, 3387, 6617, 6624, 6787),
    *(2746, 2319, 2445, 2556, 2673),
    *(6191, 5782, 5905, 6016, 6133),
)
"""Vertices of the SMPL mesh that stand for points without a joint; appended to the 24 they make 45."""

OPENPOSE25_FROM_SMPL45: tuple[int, ...] = (
    *(24, 12, 17, 19, 21, 16, 18, 20, 0, 2, 5, 8, 1, 4, 7),
    *(25, 26, 27, 28, 29, 30, 31, 32, 33, 34),
)
"""Where each OpenPose point stands among the 24 SMPL joints and 21 picked vertices."""

_MIRROR_PAIRS = (("left_", "right_"), ("right_", "left_"))


def mirror_permutation(names: Sequence[str]) -> tuple[int, ...]:
    """Index of the joint that each joint becomes when the person is mirrored left to right.

    Names of a pair differ only in the word `left_` or `right_`; all others map to themselves.
    """
    index = {name: i for i, name in enumerate(names)}
    permutation = []
    for i, name in enumerate(names):
        twins = (name.replace(here, there) for here, there in _MIRROR_PAIRS if here in name)
        permutation.append(index.get(next(twins, name), i))
    return tuple(permutation)


SMPL_FLIP = mirror_permutation(SMPL_JOINT_NAMES)
COCO17_FLIP = mirror_permutation(COCO17_NAMES)
HMR2_44_FLIP = mirror_permutation(HMR2_44_NAMES)

_NAMES_BY_COUNT = {
    len(names): names for names in (MANO_JOINT_NAMES, SMPL_JOINT_NAMES, SMPLH_JOINT_NAMES, SMPLX_JOINT_NAMES)
}


def joint_names(num_joints: int) -> tuple[str, ...]:
    """Names for a body of this many joints: MANO 16, SMPL 24, SMPL-H 52, SMPL-X 55, else `joint_<i>`."""
    return _NAMES_BY_COUNT.get(num_joints) or tuple(f"joint_{i}" for i in range(num_joints))


def tree_levels(parents: Sequence[int]) -> tuple[tuple[int, ...], ...]:
    """Joints grouped by their distance from the root, root first.

    Raises:
        ValueError: The parents are not one tree with joint 0 as its root.
    """
    depth: list[int] = []
    for joint, parent in enumerate(parents):
        if (parent >= joint) or (joint == 0) != (parent < 0):
            raise ValueError(
                f"parents[{joint}] = {parent}: joint 0 must be the only root and parents come before children"
            )
        depth.append(0 if parent < 0 else depth[parent] + 1)
    return tuple(
        tuple(j for j, d in enumerate(depth) if d == level) for level in range(max(depth, default=-1) + 1)
    )


BODY_JOINTS_OF_17 = (3, 2, 1, 4, 5, 6, 16, 15, 14, 11, 12, 13, 8, 10)
"""The 14 joints of the body models among the 17 of the Human3.6M regressor, whose first is the pelvis."""
