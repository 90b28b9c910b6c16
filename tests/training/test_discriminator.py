from __future__ import annotations

import pytest
import torch

from fasthmr.checkpoints.keymap import load_into
from fasthmr.errors import CheckpointMismatch
from fasthmr.training.discriminator import (
    DISCRIMINATOR_TABLE,
    DiscriminatorConfig,
    discriminator_loss,
    generator_loss,
)

SMALL = DiscriminatorConfig(joints=5, hidden=16, joint_dim=8)


def inputs(config: DiscriminatorConfig, batch: int = 3) -> tuple[torch.Tensor, torch.Tensor]:
    generator = torch.Generator().manual_seed(0)
    pose = torch.randn(batch, config.joints, 3, 3, generator=generator)
    return pose, torch.randn(batch, config.num_betas, generator=generator)


def test_size_of_the_published_one():
    model = DiscriminatorConfig().build()
    assert sum(p.numel() for p in model.parameters()) == 1_807_619
    assert model(*inputs(DiscriminatorConfig(), 2)).shape == (2, 25)


def test_every_weight_matters_and_samples_do_not_mix():
    torch.manual_seed(0)
    model = SMALL.build()
    pose, betas = inputs(SMALL)
    model(pose, betas).square().sum().backward()
    assert all(p.grad is not None and p.grad.abs().max() > 0 for p in model.parameters())
    torch.testing.assert_close(model(pose, betas)[1:2], model(pose[1:2], betas[1:2]))
    changed = pose.clone()
    changed[:, 2] += 1
    moved = (model(changed, betas) != model(pose, betas)).any(dim=0)
    assert moved.tolist() == [False, False, True, False, False, False, True]


def test_weights_travel_under_their_published_names():
    model, other = SMALL.build(), SMALL.build()
    state = {DISCRIMINATOR_TABLE.published(key): value for key, value in model.state_dict().items()}
    assert {"discriminator.D_conv1.weight", "discriminator.pose_out.4.bias"} <= set(state)
    assert {"discriminator.D_alljoints_out.weight", "discriminator.betas_fc2.bias"} <= set(state)
    load_into(other, {**state, "backbone.pos_embed": torch.zeros(1)}, DISCRIMINATOR_TABLE, "discriminator")
    torch.testing.assert_close(other(*inputs(SMALL)), model(*inputs(SMALL)))
    with pytest.raises(CheckpointMismatch, match="D_conv1"):
        load_into(DiscriminatorConfig(joint_dim=4, joints=5).build(), state, DISCRIMINATOR_TABLE, "other")


def test_losses_by_hand():
    fake, real = torch.tensor([[0.0, 2.0], [1.0, 1.0]]), torch.tensor([[1.0, 0.0]])
    assert generator_loss(fake).item() == pytest.approx((1 + 1) / 2)
    assert discriminator_loss(fake, real).item() == pytest.approx(6 / 2 + 1)
