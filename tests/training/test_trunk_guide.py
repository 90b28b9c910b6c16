from __future__ import annotations

import torch

from fasthmr.geometry.rotations import axis_angle_to_rotmat
from fasthmr.training.mesh_subject import mesh_subject
from fasthmr.training.tore_losses import MeshLabels
from fasthmr.training.trunk_guide import TrunkGuide, seen_surface
from fasthmr.types import BodyParams


def hand_labels(turn: tuple[float, float, float], focal: float = 2.0) -> MeshLabels:
    """A flat hand before a camera at half a metre, a little beside its axis."""
    subject = mesh_subject("hand")
    rotations = torch.eye(3).repeat(1, 16, 1, 1)
    rotations[:, 0] = axis_angle_to_rotmat(torch.tensor(turn))
    levels = subject.levels(BodyParams.of_rotmats(rotations, torch.zeros(1, 10)))
    joints, root = subject.joints(fitted=True)(levels[-1])
    away = torch.tensor([0.02, -0.01, 0.5])
    seen = joints - root + away
    ones = torch.ones(1, joints.shape[1], 1)
    return MeshLabels(
        joints_2d=torch.cat([focal * seen[..., :2] / seen[..., 2:], ones], -1),
        joints_3d=torch.cat([joints - root, ones], -1),
        vertices=tuple(level - root for level in levels),
        has_3d=torch.ones(1),
        has_mesh=torch.ones(1),
    )


def test_the_surface_lies_where_the_camera_sees_it():
    places = mesh_subject("hand").fitted.v_template
    labels = hand_labels((1.2, 0.4, -0.3), focal=4.0)
    points = labels.vertices[-1] + torch.tensor([0.02, -0.01, 0.5])
    pixels = 0.5 * 4.0 * points[..., :2] / points[..., 2:]
    covered, _ = seen_surface(labels, places, (20, 20))
    cells = ((pixels[0] + 1) / 2 * 20).long()
    expected = torch.zeros(20, 20, dtype=torch.bool)
    expected[cells[:, 1], cells[:, 0]] = True
    assert 20 < expected.sum() < 200
    half = MeshLabels(**{**vars(labels), "joints_2d": labels.joints_2d * torch.tensor([0.5, 0.5, 1.0])})
    assert torch.equal(seen_surface(half, places, (20, 20))[0][0].view(20, 20), expected)
    assert not torch.equal(covered[0].view(20, 20), expected)


def test_the_palm_hides_the_back_of_the_hand():
    template = mesh_subject("hand").fitted.v_template
    heights = {}
    for name, turn in (("palm", torch.pi / 2), ("back", -torch.pi / 2)):
        covered, places = seen_surface(hand_labels((turn, 0.0, 0.0)), template, (14, 14))
        heights[name] = float(places[0, covered[0], 1].mean())
    # At rest the palm looks down y.
    assert heights["palm"] < template[:, 1].mean() < heights["back"]


def test_guide_learns_places_depths_and_surface():
    torch.manual_seed(0)
    labels = hand_labels((1.2, 0.4, -0.3))
    labels.joints_2d[:, 2, 2] = 0
    labels.joints_3d[:, 2, 2] = 9.0  # an unseen joint: its depth does not count
    guide = TrunkGuide(8, 21, mesh_subject("hand").fitted.v_template)
    maps = torch.randn(1, 8, 7, 7)
    optimizer = torch.optim.Adam(guide.parameters(), lr=0.03)
    first = terms = guide(maps, labels)
    for _ in range(150):
        optimizer.zero_grad()
        torch.stack(list(terms.values())).sum().backward()
        optimizer.step()
        terms = guide(maps, labels)
    assert terms["depth"] < 0.3 * first["depth"]
    assert terms["heat"] < 0.9 * first["heat"]
    assert terms["surface"] < 0.7 * first["surface"]


def test_the_surface_is_not_asked_for_where_no_mesh_is_known():
    labels = hand_labels((1.2, 0.4, -0.3))
    guide = TrunkGuide(8, 21, mesh_subject("hand").fitted.v_template)
    unknown = MeshLabels(**{**vars(labels), "has_mesh": torch.zeros(1)})
    maps = torch.randn(1, 8, 7, 7)
    assert guide(maps, unknown)["surface"] == 0
    assert guide(maps, unknown)["heat"] == guide(maps, labels)["heat"]
