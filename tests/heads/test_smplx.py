from __future__ import annotations

from dataclasses import replace

import pytest
import torch

from fasthmr.heads.smplx import SMPLXHead, SMPLXHeadConfig

TINY = SMPLXHeadConfig(context_dim=10, dim=16, depth=2, heads=2, head_dim=4, mlp_dim=12)


def head() -> SMPLXHead:
    torch.manual_seed(0)
    return TINY.build().eval()


def inputs(batch: int = 3) -> tuple[torch.Tensor, torch.Tensor]:
    generator = torch.Generator().manual_seed(1)
    return torch.randn(batch, 10, 4, 3, generator=generator), torch.randn(batch, 3, generator=generator)


def test_a_pose_for_all_joints_of_smplx():
    with torch.no_grad():
        output = head()(*inputs())
    pose = output.params.body_pose
    assert pose.shape == (3, 54, 3, 3)
    assert torch.equal(pose[:, 21:24], torch.eye(3).expand(3, 3, 3, 3))  # jaw and eyes
    assert torch.allclose(pose @ pose.mT, torch.eye(3).expand_as(pose), atol=1e-5)
    assert (pose[:, 24:] - torch.eye(3)).abs().amax((0, 2, 3)).min() > 1e-3
    assert output.params.betas.shape == (3, 16)


def test_the_left_hand_comes_first():
    model = head()
    with torch.no_grad():
        before = model(*inputs()).params.body_pose
        model.init_hand_pose[:90] += 0.5
        after = model(*inputs()).params.body_pose
    changed = (before - after).abs().amax((0, 2, 3)) > 1e-6
    assert changed.nonzero().flatten().tolist() == list(range(24, 39))


def test_gradients_reach_all_parameters_but_those_of_jaw_and_eyes():
    model = head().train()
    params = model(*inputs()).params
    parts = (params.global_orient, params.body_pose, params.betas)
    camera = model(*inputs()).camera
    torch.stack(
        [(part * torch.arange(part[0].numel()).view(part[0].shape)).sum() for part in (*parts, camera)]
    ).sum().backward()
    for name, parameter in model.named_parameters():
        assert parameter.grad is not None and parameter.grad.abs().sum() > 0, name
    assert (model.decpose.bias.grad[132:] == 0).all()


def test_hands_are_read_once():
    with pytest.raises(ValueError, match="iterations is 1"):
        replace(TINY, iterations=2)
