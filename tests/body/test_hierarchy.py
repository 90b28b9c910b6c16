from __future__ import annotations

import pytest
import torch

from fasthmr.body.default_body import load_default_hand, read_asset
from fasthmr.body.hierarchy import (
    DEFAULT_BODIES,
    HIERARCHIES_FILE,
    MeshHierarchy,
    build_hierarchy,
    default_hierarchy,
    mesh_fingerprint,
)
from fasthmr.errors import UsageError
from fasthmr.geometry.rotations import axis_angle_to_rotmat

PARTS = ("sizes", "edges", "faces")


@pytest.fixture(scope="module")
def hand() -> MeshHierarchy:
    body = load_default_hand()
    return build_hierarchy(body.v_template, body.faces, levels=3)


def test_a_quarter_of_the_vertices_on_every_level(hand):
    assert hand.sizes == (1609, 403, 101)
    assert [len(faces) for faces in hand.faces[1:]] == [790, 194]


def test_down_undoes_up(hand):
    for size, level in ((403, 1), (101, 2)):
        x = torch.randn(2, size, 3, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
        up = hand.upsample(x, level=level)
        assert up.shape == (2, 1609, 3)
        assert torch.equal(hand.downsample(up, to=level), x)


def test_rows_of_at_most_three_that_sum_to_one(hand):
    for up in hand.up:
        rows = up.coalesce().indices()[0]
        counts = torch.bincount(rows)
        assert counts.min() == 1 and counts.max() == 3
        sums = torch.sparse.sum(up, 1).to_dense()
        assert torch.allclose(sums, torch.ones_like(sums), atol=1e-9)
        values = up.coalesce().values()
        assert values.min() >= -1 and values.max() <= 2


def test_the_template_comes_back(hand):
    template = load_default_hand().v_template.double()
    back = hand.upsample(hand.downsample(template, to=1), level=1)
    error_mm = (back - template).norm(dim=1) * 1000
    assert error_mm.mean() < 0.3 and error_mm.max() < 4


def test_operators_follow_rigid_motion(hand):
    template = load_default_hand().v_template.double()
    turn = axis_angle_to_rotmat(torch.tensor([0.3, -1.0, 0.5], dtype=torch.float64))
    moved = template @ turn.mT + torch.tensor([0.1, -2.0, 3.0], dtype=torch.float64)
    expected = hand.upsample(hand.downsample(template)) @ turn.mT + moved[0] - template[0] @ turn.mT
    assert torch.allclose(hand.upsample(hand.downsample(moved)), expected, atol=1e-9)


def test_no_row_of_the_mask_is_empty(hand):
    near = hand.adjacency()
    assert near.shape == (101, 101) and torch.equal(near, near.T)
    assert near.diagonal().all() and near.sum(1).min() >= 3
    lonely = MeshHierarchy(
        sizes=(3,), up=(), kept=(), edges=(torch.tensor([[0, 1]]),), faces=(torch.tensor([[0, 1, 1]]),)
    )
    assert lonely.adjacency().any(1).all()


def test_order_of_the_operators(hand):
    assert [tuple(up.shape) for up in hand.coarsest_first()] == [(403, 101), (1609, 403)]


def test_leaving_out_coarse_levels(hand):
    two = hand.first(2)
    assert two.sizes == (1609, 403) and len(two.up) == len(two.kept) == 1
    with pytest.raises(UsageError, match="1609 > 403 > 101"):
        hand.first(4)


def test_another_body_is_named(hand):
    hand.check_body(1609, "hand")
    with pytest.raises(UsageError, match=r"1609 > 403 > 101 .*'smpl' has 6890"):
        hand.check_body(6890, "smpl")


def test_chosen_sizes():
    body = load_default_hand()
    built = build_hierarchy(body.v_template, body.faces, sizes=(1000,))
    assert built.sizes == (1609, 1000)


@pytest.mark.parametrize(("kind", "sizes"), [("body", (13718, 3430, 858)), ("hand", (1609, 403))])
def test_hierarchies_that_come_along_fit_the_bodies(kind, sizes):
    """Where this fails after a new body was baked, `scripts/bake_hierarchies.py` chooses vertices anew."""
    body, hierarchy = DEFAULT_BODIES[kind](), default_hierarchy(kind)
    assert hierarchy.sizes == sizes and default_hierarchy(kind) is hierarchy
    assert read_asset(HIERARCHIES_FILE)[1][kind] == mesh_fingerprint(body.v_template, body.faces)
    assert torch.equal(hierarchy.faces[0], body.faces)
    template = body.v_template.double()
    back = hierarchy.upsample(hierarchy.downsample(template, to=1), level=1)
    assert (back - template).norm(dim=1).mean() < 4e-4
    for level in range(1, len(sizes)):
        assert (hierarchy.kept[level - 1].diff() > 0).all()
        assert torch.equal(hierarchy.faces[level].unique(), torch.arange(sizes[level]))
        euler = [s - len(e) + len(f) for s, e, f in zip(*(getattr(hierarchy, k) for k in PARTS), strict=True)]
        assert euler[level] == euler[0]  # as many parts and holes as the body


def test_the_hand_that_comes_along_is_what_is_computed(hand):
    stored = default_hierarchy("hand")
    assert torch.equal(stored.kept[0], hand.kept[0]) and torch.equal(stored.faces[1], hand.faces[1])
    torch.testing.assert_close(stored.up[0].to_dense(), hand.up[0].to_dense())


def test_parts_that_do_not_fit():
    edges = torch.zeros(0, 2, dtype=torch.long)
    with pytest.raises(ValueError, match="1 operators between 1 levels"):
        MeshHierarchy(sizes=(3,), up=(torch.zeros(3, 1),), kept=(), edges=(edges,), faces=(None,))
