from __future__ import annotations

import pytest

from fasthmr.body import skeletons
from fasthmr.body.skeletons import joint_names, mirror_permutation, tree_levels

TREES = {
    "MANO": (skeletons.MANO_JOINT_NAMES, skeletons.MANO_PARENTS, 16),
    "SMPL": (skeletons.SMPL_JOINT_NAMES, skeletons.SMPL_PARENTS, 24),
    "SMPL-H": (skeletons.SMPLH_JOINT_NAMES, skeletons.SMPLH_PARENTS, 52),
    "SMPL-X": (skeletons.SMPLX_JOINT_NAMES, skeletons.SMPLX_PARENTS, 55),
}


@pytest.mark.parametrize("tree", TREES)
def test_trees_are_complete(tree: str) -> None:
    names, parents, count = TREES[tree]
    assert len(names) == len(set(names)) == len(parents) == count
    assert sum(len(level) for level in tree_levels(parents)) == count
    assert joint_names(count) == names


def test_published_tables() -> None:
    # specs of SMPL and SMPL-X as published with their models
    assert skeletons.SMPL_PARENTS[12:] == (9, 9, 9, 12, 13, 14, 16, 17, 18, 19, 20, 21)
    assert skeletons.SMPLX_PARENTS[22:31] == (15, 15, 15, 20, 25, 26, 20, 28, 29)
    assert skeletons.SMPLX_PARENTS[40:46] == (21, 40, 41, 21, 43, 44)
    assert skeletons.SMPLH_PARENTS[22:26] == (20, 22, 23, 20) and skeletons.SMPLH_PARENTS[37:39] == (21, 37)
    assert skeletons.HMR2_44_FLIP[:25] == (
        *(0, 1, 5, 6, 7, 2, 3, 4, 8, 12, 13, 14, 9, 10, 11),
        *(16, 15, 18, 17, 22, 23, 24, 19, 20, 21),
    )
    extra = (5, 4, 3, 2, 1, 0, 11, 10, 9, 8, 7, 6, 12, 13, 14, 15, 16, 17, 18)
    assert skeletons.HMR2_44_FLIP[25:] == tuple(25 + i for i in extra)
    assert skeletons.HMR2_44_NAMES[skeletons.HMR2_44_PELVIS] == "extra_pelvis_mpii"
    assert len(skeletons.SMPL_PICKED_VERTEX_NAMES) == len(skeletons.SMPL_PICKED_VERTICES) == 21
    assert len(skeletons.HMR2_EVAL14) == 14


@pytest.mark.parametrize("flip", [skeletons.SMPL_FLIP, skeletons.COCO17_FLIP, skeletons.HMR2_44_FLIP])
def test_mirroring_twice_changes_nothing(flip: tuple[int, ...]) -> None:
    assert [flip[i] for i in flip] == list(range(len(flip)))
    assert flip != tuple(range(len(flip)))


def test_mirroring_keeps_the_tree() -> None:
    for joint, parent in enumerate(skeletons.SMPL_PARENTS[1:], start=1):
        assert skeletons.SMPL_PARENTS[skeletons.SMPL_FLIP[joint]] == skeletons.SMPL_FLIP[parent]


def test_names_without_a_twin_stay() -> None:
    assert mirror_permutation(["left_a", "head", "right_b"]) == (0, 1, 2)


@pytest.mark.parametrize("parents", [(-1, 2, 1), (0, 0), (-1, -1), (-1, 0, 5)])
def test_what_is_no_tree_is_refused(parents: tuple[int, ...]) -> None:
    with pytest.raises(ValueError, match="parents"):
        tree_levels(parents)


def test_unknown_sizes_get_numbered_names() -> None:
    assert joint_names(3) == ("joint_0", "joint_1", "joint_2")
