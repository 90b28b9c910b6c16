from __future__ import annotations

from dataclasses import replace

import pytest
import torch
from safetensors.torch import save_file
from torch import nn

from fasthmr.checkpoints.keymap import KeyTable, load_into, match_keys, shapes_of
from fasthmr.checkpoints.trunks import (
    IMAGENET_TRUNK_TABLE,
    SEQUENTIAL_TRUNK_TABLE,
    init_trunk,
    trunk_from_shapes,
    trunk_ignored,
    trunk_renames,
)
from fasthmr.encoders.efficientnet import EfficientNetConfig
from fasthmr.encoders.hrnet import HRNetConfig
from fasthmr.encoders.resnet import ResNetConfig
from fasthmr.errors import CheckpointMismatch

RESNET = ResNetConfig(depths=(1, 2, 1, 1), width=4)
HRNET = HRNetConfig(
    width=4, modules=(1, 1, 1), blocks=1, bottlenecks=1, stem=8, features=16, image_size=(224, 224)
)
EFFICIENTNET = EfficientNetConfig()
TRUNKS = [RESNET, HRNET, EFFICIENTNET]


def built(config):
    torch.manual_seed(0)
    return config.build()


def published(config, table: KeyTable) -> dict[str, torch.Tensor]:
    return {table.published(key): tensor for key, tensor in built(config).state_dict().items()}


@pytest.mark.parametrize("table", [IMAGENET_TRUNK_TABLE, SEQUENTIAL_TRUNK_TABLE], ids=lambda t: t.layout)
@pytest.mark.parametrize("config", TRUNKS, ids=lambda c: type(c).__name__)
def test_configuration_from_a_file(config, table):
    shapes = shapes_of(published(config, table))
    assert trunk_from_shapes(shapes) == config
    inside = {f"backbone.{key}": shape for key, shape in shapes.items()}
    assert trunk_from_shapes(inside, "backbone.") == config


@pytest.mark.parametrize(
    ("config", "table", "names"),
    [
        (RESNET, IMAGENET_TRUNK_TABLE, "conv1.weight bn1.running_var layer1.0.downsample.1.bias"),
        (RESNET, SEQUENTIAL_TRUNK_TABLE, "0.weight 1.running_var 5.1.conv2.weight 7.0.bn3.bias"),
        (HRNET, SEQUENTIAL_TRUNK_TABLE, "conv1.weight incre_modules.3.0.downsample.0.weight"),
        (HRNET, SEQUENTIAL_TRUNK_TABLE, "downsamp_modules.2.1.running_mean final_layer.0.bias bn1.weight"),
        (EFFICIENTNET, IMAGENET_TRUNK_TABLE, "_conv_stem.weight _bn0.bias _conv_head.weight _bn1.bias"),
        (EFFICIENTNET, IMAGENET_TRUNK_TABLE, "_blocks.15._se_reduce.bias _blocks.1._bn0.running_var"),
        (
            EFFICIENTNET,
            IMAGENET_TRUNK_TABLE,
            "_blocks.0._depthwise_conv.weight _blocks.3._project_conv.weight",
        ),
    ],
)
def test_published_names(config, table, names):
    assert set(names.split()) <= published(config, table).keys()


def test_classifiers_are_listed_as_ignored():
    for config, name in ((RESNET, "fc"), (HRNET, "classifier"), (EFFICIENTNET, "_fc")):
        state = published(config, IMAGENET_TRUNK_TABLE) | {f"{name}.weight": torch.zeros(3, 4)}
        ignored = load_into(built(config), state, IMAGENET_TRUNK_TABLE, "trunk")
        assert ignored == {f"{name}.weight": "ImageNet classifier"}


@pytest.mark.parametrize("config", TRUNKS, ids=lambda c: type(c).__name__)
def test_as_encoder_of_a_model(config):
    table = KeyTable(layout="model", renames=trunk_renames(), ignored=trunk_ignored())
    with torch.device("meta"):
        model = nn.ModuleDict({"encoder": config.build()})
    theirs = {
        f"backbone.{key}": shape
        for key, shape in shapes_of(published(config, SEQUENTIAL_TRUNK_TABLE)).items()
    }
    theirs["backbone.classifier.bias"] = (3,)
    match = match_keys(shapes_of(model.state_dict()), theirs, table, "model")
    assert list(match.ignored) == ["backbone.classifier.bias"]


@pytest.mark.parametrize(
    ("table", "prefix"), [(IMAGENET_TRUNK_TABLE, ""), (SEQUENTIAL_TRUNK_TABLE, "backbone.")]
)
def test_starting_a_trunk_from_a_file(tmp_path, table, prefix):
    state = {f"{prefix}{key}": tensor.clone() for key, tensor in published(RESNET, table).items()}
    state[f"{prefix}fc.weight"] = torch.zeros(3, 4)
    if prefix:
        state["xyz_regressor.weight"] = torch.zeros(3, 4)
    save_file(state, tmp_path / "trunk.safetensors")
    torch.manual_seed(1)
    trunk = RESNET.build()
    ignored = init_trunk(trunk, tmp_path / "trunk.safetensors")
    assert f"{prefix}fc.weight" in ignored and len(ignored) == 1 + bool(prefix)
    for key, tensor in built(RESNET).state_dict().items():
        assert torch.equal(trunk.state_dict()[key], tensor)


def test_another_trunk_is_refused(tmp_path):
    save_file(published(RESNET, IMAGENET_TRUNK_TABLE), tmp_path / "trunk.safetensors")
    with pytest.raises(CheckpointMismatch, match="keys do not fit"):
        init_trunk(replace(RESNET, depths=(1, 1, 1, 1)).build(), tmp_path / "trunk.safetensors")


@pytest.mark.parametrize("shapes", [{}, {"0.weight": (64, 3, 7, 7)}, {"_conv_stem.weight": (32,)}])
def test_files_without_a_trunk(shapes):
    with pytest.raises(CheckpointMismatch, match="missing"):
        trunk_from_shapes(shapes)
