from __future__ import annotations

import copy
from dataclasses import replace
from typing import Any

import pytest
import torch
from torch import Tensor

from fasthmr.body.default_body import load_default_body
from fasthmr.data.augment import AugmentConfig, RecordStore
from fasthmr.data.shards import load_shards
from fasthmr.encoders.vit import ViTConfig
from fasthmr.errors import InputError, UsageError
from fasthmr.evaluation.metrics import mpjpe_mm
from fasthmr.heads.smpl import SMPLHeadConfig
from fasthmr.models.camera_hmr import CameraHMRConfig
from fasthmr.models.hmr import HMR, HMRConfig
from fasthmr.models.keypoint_hmr import KeypointHMR
from fasthmr.models.reduced import reduce_model
from fasthmr.reduction.eclm import LayerMergePlan
from fasthmr.reduction.mask_tokens import ellipse_mask
from fasthmr.reduction.tome_schedule import TokenMergePlan
from fasthmr.training.crop_batches import BatchSource, PictureBatches, RecordBatches
from fasthmr.training.distill import Distiller, HealWeights
from fasthmr.training.heal import HealConfig, heal
from tests.rendered_records import write_records
from tests.small_models import small_keypoint_hmr

VIT = ViTConfig(dim=16, depth=4, heads=2, image_size=(64, 48), patch_size=8, patch_padding=2)
HEAD = SMPLHeadConfig(context_dim=16, dim=24, depth=2, heads=2, head_dim=8, mlp_dim=16)
LAYERS = LayerMergePlan(groups=((0,), (1, 2), (3,)))
TOKENS = TokenMergePlan.to_keep(24, tokens=48, per_block=12)


def lively(model: Any) -> Any:
    """Weights large enough that outputs depend on the picture."""
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if name.endswith(("decpose.weight", "deccam.weight", "rotation.weight", "camera.weight")):
                parameter.normal_(std=0.15)
            elif ".blocks." in name and parameter.dim() > 1:
                parameter.mul_(3)
    return model.eval()


def make_hmr() -> HMR:
    torch.manual_seed(0)
    return lively(HMRConfig(encoder=VIT, head=HEAD).build())


def make_keypoint_hmr() -> KeypointHMR:
    return lively(small_keypoint_hmr(depth=4))


def pictures(count: int, seed: int) -> Tensor:
    coarse = torch.randn(count, 3, 8, 6, generator=torch.Generator().manual_seed(seed))
    return torch.nn.functional.interpolate(coarse, (64, 48), mode="bilinear")


def masks(count: int) -> Tensor:
    return ellipse_mask(torch.tensor([[12.0, 6.0, 36.0, 60.0]]), (64, 48)).expand(count, -1, -1)


def source(batch_size: int = 8, count: int = 64) -> PictureBatches:
    return PictureBatches(pictures(count, 0), masks(count), batch_size=batch_size)


@torch.no_grad()
def joints(model: Any) -> Tensor:
    body = load_default_body()
    given = pictures(32, 1)
    encoder = model.encoder
    maps = encoder(given, masks(32)) if getattr(encoder, "takes_mask", False) else encoder(given)
    if isinstance(model, KeypointHMR):
        rotmats = model.head(maps).pose.rotmats
    else:
        params = model.head(maps[-1]).params
        rotmats = torch.cat((params.global_orient, params.body_pose), dim=1)
    rest = body.rest_params(32)
    return body.joints(replace(rest, global_orient=rotmats[:, :1], body_pose=rotmats[:, 1:]))


@pytest.mark.parametrize("make", [make_hmr, make_keypoint_hmr])
def test_healing_halves_the_distance_to_the_original(make):
    teacher = make()
    merged = reduce_model(teacher, layers=LAYERS, tokens=TOKENS)
    wanted = joints(teacher)
    before = mpjpe_mm(joints(merged), wanted).mean()
    config = HealConfig(steps=60, learning_rate=3e-3, bf16=False)
    healed = heal(merged, teacher, source(), config)
    after = mpjpe_mm(joints(healed), wanted).mean()
    assert before > 1 and after < 0.5 * before, (before, after)


def test_nothing_to_learn_where_nothing_is_merged():
    teacher = make_keypoint_hmr()
    same = reduce_model(teacher, tokens=TokenMergePlan(counts=(0,)))
    total, terms = Distiller(same, teacher, HealWeights())(source()(0))
    assert total.abs() < 1e-4 and all(abs(term) < 1e-4 for term in terms.values())


def test_given_models_stay_and_runs_repeat():
    teacher = make_hmr().train()
    merged = reduce_model(teacher, layers=LAYERS, tokens=TOKENS)
    before = copy.deepcopy((teacher.state_dict(), merged.state_dict()))
    config = HealConfig(steps=2, bf16=False)
    one, other = (heal(merged, teacher, source(), config) for _ in range(2))
    for model, state in zip((teacher, merged), before, strict=True):
        assert all(torch.equal(state[key], value) for key, value in model.state_dict().items())
        assert model.training and all(parameter.requires_grad for parameter in model.parameters())
    repeated = other.state_dict()
    assert all(torch.equal(value, repeated[key]) for key, value in one.state_dict().items())
    assert one.config == merged.config


@pytest.mark.parametrize("which", ["all", "blocks", "merged"])
def test_what_learns(which):
    teacher = make_keypoint_hmr()
    merged = reduce_model(teacher, layers=LAYERS, tokens=TOKENS)
    healed = heal(merged, teacher, source(), HealConfig(steps=1, parameters=which, bf16=False))
    after = dict(healed.named_parameters())
    changed = {name for name, value in merged.named_parameters() if not torch.equal(value, after[name])}
    blocks = {name for name in after if name.startswith("encoder.inner.blocks.")}
    norm = {name for name in after if name.startswith("encoder.inner.last_norm.")}
    if which == "all":
        assert changed >= blocks and any(name.startswith("head.") for name in changed)
    elif which == "blocks":
        assert changed == blocks | norm
    else:
        middle = {name for name in blocks if name.startswith("encoder.inner.blocks.1.")}
        assert changed == norm | middle | {name for name in blocks if ".norm" in name}
    buffers = dict(healed.named_buffers())
    assert all(torch.equal(value, buffers[name]) for name, value in merged.named_buffers())


def test_a_model_that_knows_the_camera_and_batches_without_masks():
    torch.manual_seed(0)
    head = replace(HEAD, token_input="camera")
    teacher = CameraHMRConfig(encoder=VIT, head=head).build().eval()
    merged = reduce_model(teacher, layers=LAYERS, tokens=replace(TOKENS, guided=False))
    batches = PictureBatches(pictures(8, 0), bbox_info=torch.rand(8, 3), batch_size=4)
    seen: list[dict[str, Tensor]] = []
    heal(merged, teacher, batches, HealConfig(steps=2), progress=lambda step, terms: seen.append(dict(terms)))
    assert len(seen) == 2 and "states" in seen[0] and "heat" not in seen[0]


def test_records_with_labels(tmp_path):
    write_records(tmp_path / "records", 6)
    store = RecordStore(load_shards(tmp_path / "records"))
    batches: BatchSource = RecordBatches(store, (64, 48), batch_size=3, augment=AugmentConfig.none())
    batch = batches(5)
    assert batch.mask is not None and batch.mask.shape == (3, 64, 48)
    assert torch.equal(batch.pixels, batches(5).pixels) and not torch.equal(batch.pixels, batches(6).pixels)
    teacher = make_keypoint_hmr()
    merged = reduce_model(teacher, layers=LAYERS)
    _, terms = Distiller(merged, teacher, HealWeights(truth=0.1))(batch)
    assert terms["truth"] > 0


def test_mirrored_pictures_keep_their_masks():
    column = torch.arange(48.0).expand(2, 64, 48)
    batch = PictureBatches(column[:, None].expand(2, 3, 64, 48), column, batch_size=16)(0)
    assert batch.mask is not None and torch.equal(batch.pixels[:, 0], batch.mask)
    assert 0 < int((batch.mask[:, 0, 0] == 47).sum()) < 16


def test_what_cannot_be_healed():
    teacher = make_hmr()
    merged = reduce_model(teacher, layers=LAYERS)
    with pytest.raises(UsageError, match="cannot be healed"):
        heal(merged, make_keypoint_hmr(), source())
    with pytest.raises(UsageError, match="in this order"):
        heal(teacher, merged, source())
    other = HMRConfig(encoder=replace(VIT, depth=2), head=HEAD).build()
    with pytest.raises(UsageError, match="another size"):
        heal(merged, other, source())
    with pytest.raises(ValueError, match="HealConfig"):
        HealConfig(steps=0)
    with pytest.raises(InputError, match="no pictures"):
        PictureBatches(pictures(0, 0))
