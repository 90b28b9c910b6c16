from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor

from fasthmr.body.default_body import load_default_body
from fasthmr.encoders.vit import ViTConfig
from fasthmr.errors import UsageError
from fasthmr.geometry.cameras import project_to_crop
from fasthmr.heads.smpl import SMPLHeadConfig
from fasthmr.models.hmr import HMRConfig
from fasthmr.models.reduced import reduce_model
from fasthmr.reduction.mask_tokens import ellipse_mask
from fasthmr.reduction.self_mask import SelfMaskConfig
from fasthmr.reduction.tome_schedule import TokenMergePlan
from fasthmr.training.crop_batches import CropBatch, PictureBatches
from fasthmr.training.self_mask import (
    SelfMaskTraining,
    compare_with_masks,
    silhouettes,
    train_self_mask,
)
from fasthmr.types import BodyParams
from tests.small_models import small_keypoint_hmr


def make_keypoint_hmr() -> Any:
    return small_keypoint_hmr(depth=3)


def make_hmr() -> Any:
    torch.manual_seed(0)
    encoder = ViTConfig(dim=16, depth=3, heads=2, image_size=(64, 48), patch_size=8)
    head = SMPLHeadConfig(context_dim=16, dim=24, depth=1, heads=2, head_dim=8, mlp_dim=16)
    model = HMRConfig(encoder=encoder, head=head).build().eval()
    torch.nn.init.zeros_(model.head.deccam.weight)  # the body in front of the camera
    return model


def bright_people(count: int, seed: int) -> tuple[Tensor, Tensor]:
    """Noise with a brighter ellipse somewhere."""
    generator = torch.Generator().manual_seed(seed)
    corner = torch.rand(count, 2, generator=generator) * torch.tensor([20.0, 16.0])
    size = 20 + torch.rand(count, 2, generator=generator) * torch.tensor([8.0, 28.0])
    mask = ellipse_mask(torch.cat((corner, corner + size), dim=1), (64, 48))
    noise = torch.randn(count, 3, 64, 48, generator=generator)
    return noise + 8 * mask[:, None], mask


@pytest.mark.parametrize(("make", "after"), [(make_keypoint_hmr, 0), (make_hmr, 1)])
def test_the_head_learns_to_find_the_person(make, after):
    model = make().train()
    batches = PictureBatches(*bright_people(96, 0), batch_size=12)
    config = SelfMaskTraining(steps=400)
    size = SelfMaskConfig(dim=16, hidden=16, after=after, threshold=0.35)
    seen: list[float] = []
    head = train_self_mask(
        model, batches, config, head=size, progress=lambda _, loss: seen.append(float(loss))
    )
    assert len(seen) == 400 and seen[-1] < 0.85 * seen[0]
    pixels, mask = bright_people(16, 1)
    assert model.training
    agreement = compare_with_masks(head, model.eval(), CropBatch(pixels=pixels, mask=mask), config)
    assert agreement.iou > 0.6 and agreement.recall > 0.75 and 0.1 < agreement.share < 0.7
    plan = TokenMergePlan(counts=(0, 12) if after else (12,))
    reduced = reduce_model(model, tokens=plan, self_mask=head)
    assert reduced.encoder(pixels)[-1].shape[0] == 16
    first, second = (train_self_mask(model, batches, SelfMaskTraining(steps=10), head=size) for _ in range(2))
    assert all(torch.equal(value, second.state_dict()[key]) for key, value in first.state_dict().items())


@pytest.mark.parametrize("make", [make_keypoint_hmr, make_hmr])
@torch.no_grad()
def test_silhouettes_lie_where_the_body_is_projected(make):
    model, body = make(), load_default_body()
    pixels = bright_people(2, 0)[0]
    mask = silhouettes(model, CropBatch(pixels=pixels), body)
    assert mask.shape == (2, 64, 48)
    features = model.encoder(pixels)
    if make is make_hmr:
        output = model.head(features[-1])
        params, camera = output.params, output.camera
    else:
        pose = model.head(features).pose
        params, camera = BodyParams.of_rotmats(pose.rotmats, pose.betas), pose.camera
    spots = (project_to_crop(body.joints(params), camera) * 64 + torch.tensor([24.0, 32.0])).long()
    inside = ((spots >= 0) & (spots < torch.tensor([48, 64]))).all(-1)
    assert int(inside.sum()) > 20
    hits = [
        bool(mask[i, y, x]) for i in range(2) for (x, y), ok in zip(spots[i], inside[i], strict=True) if ok
    ]
    assert sum(hits) >= 0.8 * len(hits)
    assert mask.mean() < 0.6


def test_batches_without_masks_take_silhouettes():
    model = make_keypoint_hmr()
    batches = PictureBatches(bright_people(4, 0)[0], batch_size=2)
    head = train_self_mask(model, batches, SelfMaskTraining(steps=2))
    assert head.config == SelfMaskConfig(dim=16)
    with pytest.raises(ValueError, match="no masks"):
        compare_with_masks(head, model, batches(0))


def test_what_cannot_be_trained():
    reduced = reduce_model(make_hmr(), tokens=TokenMergePlan(counts=(4,)))
    with pytest.raises(UsageError, match="not reduced yet"):
        train_self_mask(reduced, PictureBatches(bright_people(2, 0)[0]))
    with pytest.raises(ValueError, match="SelfMaskTraining"):
        SelfMaskTraining(steps=0)
