"""METRO and FastMETRO with and without TORE's reductions, at tiny sizes and as published."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch

from fasthmr.benchmark.counters import count
from fasthmr.body.hierarchy import build_hierarchy
from fasthmr.checkpoints.config_json import config_from_json, config_to_json
from fasthmr.encoders.resnet import ResNetConfig
from fasthmr.errors import UsageError
from fasthmr.heads.fastmetro import FastMetroHeadConfig
from fasthmr.heads.mesh_parameters import MeshParametersConfig, nearest_rotations
from fasthmr.heads.metro import MetroHeadConfig
from fasthmr.layers.mesh_levels import MeshLevelsConfig, MeshOperators
from fasthmr.models.mesh import MeshModelConfig, build_mesh_head, mesh_operators
from fasthmr.reduction.gtr import GCNRegressorConfig, MLPRegressorConfig, NSRConfig
from fasthmr.reduction.itp import ITPConfig
from fasthmr.reduction.token_learner import TokenLearnerConfig

LEVELS = MeshLevelsConfig(vertices=(6, 12, 20), stored=True)
TRUNK = ResNetConfig(depths=(1, 1, 1, 1), width=2, image_size=(64, 64))
FAST = FastMetroHeadConfig(
    context_dim=64, grid=(2, 2), joints=3, mesh=LEVELS, layers=1, dims=(16, 8), mlp_dims=(24, 12), heads=2
)
METRO = MetroHeadConfig(
    context_dim=64, cells=4, joints=3, mesh=LEVELS, widths=(8, 6), hidden=(12, 8, 8), layers=1, heads=2,
    mlp_dim=12, positions=16, camera_hidden=7, unused_words=4,
)  # fmt: skip
NSR = NSRConfig(dim=8, mlp_dim=12, layers=1, heads=2)

CONFIGS = {
    "fastmetro": MeshModelConfig(encoder=TRUNK, head=FAST),
    "fastmetro_smpl": MeshModelConfig(
        encoder=TRUNK, head=replace(FAST, parameters=MeshParametersConfig(hidden=8, joints=4))
    ),
    "gtr": MeshModelConfig(encoder=TRUNK, head=replace(FAST, learned_levels=0), regressor=NSR),
    "itp": MeshModelConfig(encoder=TRUNK, head=FAST, tokens=ITPConfig(keep_ratio=0.5)),
    "gtr_itp": MeshModelConfig(
        encoder=TRUNK, head=replace(FAST, learned_levels=0), tokens=ITPConfig(keep_ratio=0.8), regressor=NSR
    ),
    "learner": MeshModelConfig(encoder=TRUNK, head=FAST, tokens=TokenLearnerConfig(), regressor=NSR),
    "mlp": MeshModelConfig(encoder=TRUNK, head=FAST, regressor=MLPRegressorConfig(dim=8, hidden=9)),
    "gcn": MeshModelConfig(encoder=TRUNK, head=FAST, regressor=GCNRegressorConfig(dim=8)),
    "metro": MeshModelConfig(encoder=TRUNK, head=METRO),
    "metro_gtr": MeshModelConfig(encoder=TRUNK, head=METRO, regressor=NSR),
}


def operators() -> MeshOperators:
    near = torch.ones(6, 6, dtype=torch.bool).tril(1).triu(-1)
    up = (torch.eye(6).repeat(2, 1), torch.eye(12).repeat(2, 1)[:20])
    return MeshOperators(adjacency=near, up=up)


def ready(config: MeshModelConfig):
    torch.manual_seed(7)
    model = config.build()
    points = 3 if config.regressor else 9
    model.set_mesh(operators(), torch.randn(points, 3))
    return model.eval()


@pytest.mark.parametrize("name", CONFIGS)
def test_shapes_batches_gradients_and_json(name):
    config = CONFIGS[name]
    assert config_from_json(config_to_json(config)) == config
    model, pixels = ready(config), torch.randn(2, 3, 64, 64)
    with torch.no_grad():
        output, single = model(pixels, True), model(pixels[:1], True)
    assert [tuple(v.shape) for v in output.vertices] == [(2, 6, 3), (2, 12, 3), (2, 20, 3)]
    assert output.joints.shape == (2, 3, 3) and output.camera.shape == (2, 3)
    assert torch.allclose(output.vertices[-1][:1], single.vertices[-1], atol=1e-5)
    assert (output.clusters is None) == (config.tokens is None)

    model.train()
    output = model(pixels)
    loss = output.camera.square().sum() + output.joints.square().sum()
    loss = loss + sum(level.square().sum() for level in output.vertices)
    if output.params is not None:
        loss = loss + output.params.betas.square().sum() + output.params.body_pose[..., 0].sum()
    loss.backward()
    without = [key for key, weight in model.named_parameters() if weight.grad is None]
    assert without == []


def test_upright_pictures_are_the_middle_columns():
    config = replace(
        CONFIGS["gtr"],
        encoder=replace(TRUNK, image_size=(128, 64)),
        head=replace(FAST, grid=(4, 2), learned_levels=0),
    )
    model, pixels = ready(config), torch.randn(1, 3, 128, 128)
    outside = pixels.clone()
    outside[..., :32] = outside[..., 96:] = 0
    with torch.no_grad():
        whole, cut = model(pixels), model(outside)
        coarse = model.head(model.encoder(pixels[..., 32:96])[-1], levels=1)
    assert model.crop_size == 128 and torch.equal(whole.vertices[-1], cut.vertices[-1])
    assert len(coarse.vertices) == 1 and torch.equal(coarse.vertices[0], whole.vertices[0])
    with pytest.raises(ValueError, match="wider than high"):
        replace(CONFIGS["gtr"], encoder=replace(TRUNK, image_size=(64, 96)))


def test_learned_tokens_without_image_tokens():
    output = ready(CONFIGS["gtr_itp"])(torch.randn(1, 3, 64, 64))
    assert output.clusters is not None and output.clusters.shape == (1, 3, 4)
    assert torch.allclose(output.clusters.sum(-1), torch.ones(1, 3), atol=1e-5)


@pytest.mark.parametrize("ratio", [0.0, -0.1, 1.01, float("nan")])
def test_keep_ratio(ratio):
    for kind in (ITPConfig, TokenLearnerConfig):
        with pytest.raises(ValueError, match=r"not in \(0, 1\]"):
            kind(keep_ratio=ratio)


def test_parts_that_do_not_go_together():
    with pytest.raises(ValueError, match="reads joint tokens of width 16, the head gives 8"):
        MeshModelConfig(encoder=TRUNK, head=FAST, regressor=replace(NSR, dim=16))
    with pytest.raises(ValueError, match="takes no token reduction"):
        MeshModelConfig(encoder=TRUNK, head=METRO, tokens=ITPConfig())
    with pytest.raises(ValueError, match="camera from the Neural Shape Regressor"):
        MeshModelConfig(encoder=TRUNK, head=METRO, regressor=MLPRegressorConfig(dim=8))
    with pytest.raises(ValueError, match="gives 64 channels, the head reads 32"):
        MeshModelConfig(encoder=TRUNK, head=replace(FAST, context_dim=32)).build()
    with pytest.raises(ValueError, match="keeps none of 4"):
        MeshModelConfig(encoder=TRUNK, head=FAST, tokens=ITPConfig(keep_ratio=0.1)).build()
    model = ready(CONFIGS["fastmetro"])
    with pytest.raises(ValueError, match="hides no tokens"):
        model(torch.randn(1, 3, 64, 64), mask=torch.ones(1, 9, 1))
    with pytest.raises(ValueError, match=r"maps of \(2, 2\) cells, got \(3, 3\)"):
        model(torch.randn(1, 3, 96, 96))
    with pytest.raises(UsageError, match=r"set_mesh\(operators, template\)"):
        CONFIGS["metro"].build().set_mesh(operators())


def test_hierarchies_of_any_mesh_fit():
    rows, columns = torch.meshgrid(torch.arange(9), torch.arange(9), indexing="ij")
    plane = torch.stack([rows, columns, (rows * columns) % 5], dim=-1).flatten(0, 1).float()
    corner = (rows[:-1, :-1] * 9 + columns[:-1, :-1]).flatten()
    lower, upper = (corner, corner + 1, corner + 9), (corner + 1, corner + 10, corner + 9)
    faces = torch.cat([torch.stack(lower, 1), torch.stack(upper, 1)])
    hierarchy = build_hierarchy(plane, faces, levels=3)
    mesh = mesh_operators(hierarchy)
    config = replace(CONFIGS["gtr"], head=replace(FAST, learned_levels=0, mesh=mesh.config()))
    model = config.build().eval()
    model.set_mesh(mesh)
    with torch.no_grad():
        output = model(torch.randn(1, 3, 64, 64))
    assert [level.shape[1] for level in output.vertices] == list(hierarchy.sizes[::-1])
    assert torch.allclose(output.vertices[-1], hierarchy.upsample(output.vertices[0]), atol=1e-5)


def test_nearest_rotations():
    torch.manual_seed(1)
    rotations = nearest_rotations(torch.randn(5, 3, 3))
    assert torch.allclose(rotations @ rotations.mT, torch.eye(3).expand(5, 3, 3), atol=1e-5)
    assert torch.allclose(torch.linalg.det(rotations), torch.ones(5), atol=1e-5)


HAND = MeshLevelsConfig(vertices=(195, 778))
HAND_METRO = MetroHeadConfig(
    mesh=HAND, joints=21, hidden=(1024, 256, 64), cells=None, camera_hidden=150, camera_reads_joints=True
)
L, S = FastMetroHeadConfig(), FastMetroHeadConfig(layers=1)
HAND_L = FastMetroHeadConfig(mesh=HAND, joints=21, learned_levels=0)


@pytest.mark.parametrize(
    ("head", "kept", "nsr", "params", "gmacs"),
    [
        (MetroHeadConfig(), None, 0, 115_010_349, 27.506),  # the reference also counts the template: 27.544
        (HAND_METRO, None, 0, 98_630_365, 12.346),
        (MetroHeadConfig(), None, 3, 116_325_168, 1.289),
        (L, None, 0, 25_679_894, 6.729),
        (FastMetroHeadConfig(layers=2), None, 0, 17_860_630, 4.515),
        (S, None, 0, 10_041_366, 2.300),
        (HAND_L, None, 0, 24_818_310, 3.408),
        (replace(HAND_L, layers=2), None, 0, 16_999_046, 2.295),
        (replace(HAND_L, layers=1), None, 0, 9_179_782, 1.182),
        (L, None, 3, 26_740_282 - 646_449, 1.270),
        (L, 1.0, 3, 26_740_282, 1.301),
        (L, 0.8, 3, 26_728_752, 1.179),
        (L, 0.5, 3, 26_711_457, 0.997),
        (S, None, 1, 10_176_058 - 646_449, 0.461),
        (S, 1.0, 1, 10_176_058, 0.491),
        (S, 0.8, 1, 10_164_528, 0.450),
        (S, 0.5, 1, 10_147_233, 0.388),
    ],
)
def test_counts_of_the_reference_networks(head, kept, nsr, params, gmacs):
    tokens = None if kept is None else ITPConfig(keep_ratio=kept)
    with torch.device("meta"):
        built = build_mesh_head(head, tokens, NSRConfig(layers=nsr) if nsr else None)
    counts = count(built, torch.empty(1, 2048, 7, 7, device="meta"), in_place=True)
    assert counts.params == params
    assert counts.macs / 1e9 == pytest.approx(gmacs, abs=0.0011)
    assert counts.run_macs < counts.macs
