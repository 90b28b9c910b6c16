from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest
import torch

from fasthmr.checkpoints.camerahmr import (
    CAMERAHMR_LAYOUT,
    CAMERAHMR_SMPLX_LAYOUT,
    DENSE_KEYPOINTS_LAYOUT,
    HUMAN_FOV_LAYOUT,
    hrnet_from_shapes,
)
from fasthmr.checkpoints.keymap import load_into
from fasthmr.checkpoints.layout import Layout
from fasthmr.checkpoints.layouts import LAYOUTS, find_layout
from fasthmr.encoders.hrnet import HRNetConfig
from fasthmr.encoders.vit import ViTConfig
from fasthmr.errors import CheckpointMismatch
from fasthmr.heads.dense_keypoints import DenseKeypointsHeadConfig
from fasthmr.heads.smpl import SMPLHeadConfig
from fasthmr.heads.smplx import SMPLXHeadConfig
from fasthmr.models.camera_hmr import CameraHMRConfig
from fasthmr.models.dense_keypoints import DenseKeypointsConfig
from fasthmr.models.human_fov import HumanFoVConfig
from fasthmr.zoo import preset

# the decoder is small, with as many heads as a published one of its width
SIZES = {"context_dim": 384, "dim": 16, "depth": 2, "heads": 4, "head_dim": 16, "mlp_dim": 12}
ENCODER = ViTConfig(dim=384, depth=1, heads=12, drop_path=0.1)
HEAD = SMPLHeadConfig(**SIZES, token_input="camera", aux_keypoints=6)
FOV = HumanFoVConfig(
    backbone=HRNetConfig(width=4, modules=(1, 2, 1), blocks=2, bottlenecks=3, stem=8), hidden=12
)
FAMILY = (
    (CAMERAHMR_LAYOUT, CameraHMRConfig(encoder=ENCODER, head=HEAD)),
    (CAMERAHMR_LAYOUT, CameraHMRConfig(encoder=ENCODER, head=replace(HEAD, aux_keypoints=0))),
    (CAMERAHMR_SMPLX_LAYOUT, CameraHMRConfig(encoder=ENCODER, head=SMPLXHeadConfig(**SIZES))),
    (
        DENSE_KEYPOINTS_LAYOUT,
        DenseKeypointsConfig(encoder=ENCODER, head=DenseKeypointsHeadConfig(**SIZES, points=9)),
    ),
    (HUMAN_FOV_LAYOUT, FOV),
)


def published(layout: Layout, config) -> dict[str, torch.Tensor]:
    torch.manual_seed(0)
    return {layout.table.published(key): tensor for key, tensor in config.build().state_dict().items()}


def shapes_of(state: dict[str, torch.Tensor]) -> dict[str, tuple[int, ...]]:
    return {key: tuple(tensor.shape) for key, tensor in state.items()}


@pytest.mark.parametrize(("layout", "config"), FAMILY)
def test_a_file_says_what_it_is(layout, config):
    shapes = shapes_of(published(layout, config))
    assert find_layout(shapes) is layout
    assert [other for other in LAYOUTS if other.matches(shapes)] == [layout]
    assert layout.config(shapes, Path("weights.ckpt")) == config
    assert layout.preset(shapes) is None


@pytest.mark.parametrize(("layout", "config"), FAMILY)
def test_weights_go_in_under_published_names(layout, config):
    state = published(layout, config)
    torch.manual_seed(1)
    model = config.build()
    assert load_into(model, state, layout.table, "test") == {}
    for key, tensor in model.state_dict().items():
        assert torch.equal(tensor, state[layout.table.published(key)]), key


@pytest.mark.parametrize(
    "name", ["camerahmr_vit_h", "camerahmr_smplx_vit_h", "camerahmr_densekp_vit_h", "humanfov_hrnet_w48"]
)
def test_files_of_the_presets(name):
    row = preset(name)
    config = row.config()
    alone = replace(config, intrinsics=None) if isinstance(config, CameraHMRConfig) else config
    with torch.device("meta"):
        state = published(next(layout for layout in LAYOUTS if layout.table is row.layout), alone)
    layout = find_layout(shapes_of(state))
    assert layout is not None and layout.table is row.layout
    assert layout.preset(shapes_of(state)) == name
    assert layout.config(shapes_of(state), Path("weights.ckpt")) == alone


def test_published_names():
    names = published(*FAMILY[0]).keys()
    assert {"smpl_head.deckp.bias", "smpl_head.init_cam", "backbone.last_norm.bias"} <= names
    names = published(*FAMILY[2]).keys()
    assert {
        "smplx_head.init_hand_pose",
        "smplx_head.transformer.transformer.layers.1.1.fn.to_kv.weight",
    } <= names
    assert "head.dec_kp.weight" in published(*FAMILY[3])
    names = published(*FAMILY[4]).keys()
    assert {"backbone.downsample_stage_1.6.weight", "backbone.downsample_stage_3.1.running_var"} <= names


def test_layers_that_nobody_calls_are_ignored_with_a_reason():
    state = published(HUMAN_FOV_LAYOUT, FOV)
    unused = {"fc2.weight": torch.zeros(12, 12), "backbone.final_layer.bias": torch.zeros(24)}
    assert load_into(FOV.build(), {**state, **unused}, HUMAN_FOV_LAYOUT.table, "fov") == dict.fromkeys(
        unused, "never called"
    )
    layout, config = FAMILY[2]
    bodies = {"smplx.v_template": torch.zeros(3, 3), "smpl_layer.faces": torch.zeros(1, 3)}
    ignored = load_into(config.build(), {**published(layout, config), **bodies}, layout.table, "smplx")
    assert ignored == dict.fromkeys(bodies, "body model")


def test_unknown_keys_of_a_head_are_not_passed_over():
    layout, config = FAMILY[0]
    state = {**published(layout, config), "smpl_head.dechandpose.bias": torch.zeros(180)}
    with pytest.raises(CheckpointMismatch, match="dechandpose"):
        load_into(config.build(), state, layout.table, "camerahmr")


def test_half_a_network():
    shapes = {"stage2.0.branches.0.0.conv1.weight": (4, 4, 3, 3)}
    with pytest.raises(CheckpointMismatch, match="no layer1, stage3, stage4"):
        hrnet_from_shapes(shapes)
