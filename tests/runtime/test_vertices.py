"""METRO, FastMETRO and TORE in pipelines: vertices from small networks that always see the same person."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from scipy import sparse
from torch import nn

from fasthmr.body.default_body import load_default_body
from fasthmr.body.hierarchy import MeshHierarchy, build_hierarchy, default_hierarchy
from fasthmr.body.lbs import BodyModel
from fasthmr.checkpoints.tore import MESH_TABLE
from fasthmr.errors import UsageError
from fasthmr.geometry.cameras import project
from fasthmr.geometry.crops import crop_pictures
from fasthmr.heads.fastmetro import FastMetroHead, FastMetroHeadConfig
from fasthmr.heads.mesh_parameters import MeshParametersConfig
from fasthmr.heads.metro import MetroHeadConfig
from fasthmr.io.bvh_reader import read_bvh
from fasthmr.io.hierarchy_files import save_hierarchy
from fasthmr.io.video import VideoWriter
from fasthmr.layers.mesh_levels import MeshLevelsConfig
from fasthmr.models.mesh import MeshModel, MeshModelConfig, mesh_operators
from fasthmr.reduction.gtr import MLPRegressor, MLPRegressorConfig, NSRConfig
from fasthmr.results import Clip
from fasthmr.runtime.pipeline import Pipeline
from fasthmr.runtime.vertices import give_mesh
from fasthmr.types import BodyParams, Detections
from tests.runtime.vertex_models import BODIES, SCALE, TRUNK, posed, saved, seeing, tiny

BOX = [30.0, 10.0, 70.0, 90.0]
RGB = np.random.default_rng(0).integers(0, 256, (100, 120, 3), dtype=np.uint8)


@pytest.fixture(scope="module")
def body_file(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return saved(seeing("body"), tmp_path_factory.mktemp("models") / "tiny_fastmetro.safetensors")


@pytest.fixture(scope="module")
def clip(body_file: Path) -> Clip:
    found = Pipeline(body_file)(RGB, boxes=[BOX])
    assert isinstance(found, Clip)
    return found


def test_people_stand_where_the_crop_camera_sees_them(clip: Clip) -> None:
    person = clip.persons[0]
    assert clip.pose_fitted and person.vertices.shape == (1, 13718, 3)
    side, K = 1.2 * 80, torch.from_numpy(clip.intrinsics[0])
    root = project(torch.from_numpy(person.joints[0, :1]).double(), K)
    np.testing.assert_allclose(root[0], [50, 50], atol=0.3)
    points = project(torch.from_numpy(person.vertices[0]).double(), K)
    metres = float(person.vertices[0, :, 1].max() - person.vertices[0, :, 1].min())
    assert float(points[:, 1].max() - points[:, 1].min()) == pytest.approx(
        SCALE * metres * side / 2, rel=0.03
    )


def test_vertices_are_the_models_and_the_pose_fits_them(clip: Clip) -> None:
    person, body, hierarchy = clip.persons[0], BODIES["body"], default_hierarchy("body")
    truth = body(posed(body))
    own = hierarchy.upsample(hierarchy.downsample(truth.vertices)) - truth.joints[:, :1]
    shown = torch.from_numpy(np.asarray(person.vertices))
    torch.testing.assert_close(
        shown - shown.mean(1, keepdim=True), own - own.mean(1, keepdim=True), atol=1e-4, rtol=0
    )
    fitted = body(
        BodyParams(
            **{
                name: torch.from_numpy(getattr(person, name))
                for name in ("global_orient", "body_pose", "betas", "transl")
            }
        )
    )
    assert 1000 * (fitted.vertices - shown).norm(dim=-1).mean() < 4  # three levels of a mesh cost 3 mm
    torch.testing.assert_close(fitted.joints, torch.from_numpy(person.joints), atol=1e-4, rtol=0)


def test_every_format(clip: Clip, tmp_path: Path) -> None:
    for suffix in ("glb", "npz", "obj", "json", "bvh"):
        assert clip.save(tmp_path / f"person.{suffix}").stat().st_size > 1000
    back = Clip.load(tmp_path / "person.npz")
    assert back.pose_fitted
    np.testing.assert_allclose(back.persons[0].vertices, clip.persons[0].vertices, atol=1e-6)
    assert json.loads((tmp_path / "person.json").read_text())["pose_fitted"] is True
    motion = read_bvh(tmp_path / "person.bvh")
    assert len(motion.rotations) == 1


def test_crops_are_those_that_a_model_learned_from() -> None:
    released = seeing("hand")
    learned = replace(released.config, crop="hmr2").build()
    box = torch.tensor([[50.0, 20, 60, 80]])
    sides = [
        float(Pipeline(model).meshes.cut(RGB, box).box_size) for model in (released, ready_to_place(learned))
    ]
    assert sides == pytest.approx([1.2 * 60, 60])
    assert (released.crop_antialias, learned.crop_antialias) == (False, True)


def ready_to_place(model: MeshModel) -> MeshModel:
    model.set_mesh(mesh_operators(default_hierarchy("hand")))
    return model.eval()


def test_another_body_takes_over_the_pose(body_file: Path) -> None:
    other = load_default_body()
    scaled = BodyModel(
        v_template=1.1 * other.v_template[::2],
        shapedirs=other.shapedirs[::2],
        faces=torch.tensor([[0, 1, 2]]),
        parents=other.parents.tolist(),
        lbs_weights=other.lbs_weights[::2],
        J_template=1.1 * other.J_template,
        J_shapedirs=other.J_shapedirs,
        name="larger",
    )
    found = Pipeline(body_file, body=scaled)(RGB, boxes=[BOX])
    assert isinstance(found, Clip) and found.body == "larger"
    assert found.persons[0].vertices.shape == (1, 6859, 3)


def test_a_models_own_pose_is_kept() -> None:
    config = tiny("body")
    assert isinstance(config.head, FastMetroHeadConfig)
    head = replace(config.head, parameters=MeshParametersConfig(hidden=8))
    torch.manual_seed(0)
    model = replace(config, head=head).build().eval()
    model.set_mesh(mesh_operators(default_hierarchy("body")))
    found = Pipeline(model)(RGB, boxes=[BOX])
    assert isinstance(found, Clip) and not found.pose_fitted
    person, body = found.persons[0], BODIES["body"]
    names = ("global_orient", "body_pose", "betas", "transl")
    own = body(BodyParams(**{name: torch.from_numpy(getattr(person, name)) for name in names}))
    shown = torch.from_numpy(np.asarray(person.vertices))
    torch.testing.assert_close(own.vertices.mean(1), shown.mean(1), atol=1e-3, rtol=1e-4)


def test_keypoints_are_read_off(body_file: Path) -> None:
    found = Pipeline(body_file, task="pose")(RGB, boxes=[BOX])
    assert found.persons[0].keypoints_2d.shape == (1, 17, 3)


def test_trunks_are_folded_in_files_and_left_alone_in_modules(body_file: Path, clip: Clip) -> None:
    model = seeing("body")
    own = Pipeline(model)(RGB, boxes=[BOX])
    assert any(isinstance(module, nn.BatchNorm2d) for module in model.modules())
    ready = Pipeline(body_file).model
    assert not any(isinstance(module, nn.BatchNorm2d) for module in ready.modules())
    np.testing.assert_allclose(own.persons[0].vertices, clip.persons[0].vertices, atol=1e-4)


def test_a_video(body_file: Path, tmp_path: Path) -> None:
    path = tmp_path / "clip.mp4"
    with VideoWriter(path, 30.0, (120, 100)) as writer:
        for index in range(4):
            writer.write(RGB, index / 30)

    class OneBox:
        def __call__(self, rgb: np.ndarray) -> Detections:
            return Detections(boxes_xyxy=torch.tensor([BOX]), scores=torch.ones(1))

    pipeline = Pipeline(body_file, detector=OneBox())
    reports = list(pipeline.predict_many([path], tmp_path / "out", save=["overlay", "glb", "npz", "bvh"]))
    assert [(report.status, report.persons) for report in reports] == [("ok", 1)]
    found = Clip.load(tmp_path / "out" / "clip.npz")
    assert found.pose_fitted and len(found.persons[0].frames) == 4
    assert np.asarray(found.persons[0].vertices).shape == (4, 13718, 3)


def test_hands_need_boxes(tmp_path: Path) -> None:
    pipeline = Pipeline(seeing("hand"))
    with pytest.raises(UsageError, match=r"right hands.*no detector of hands.*boxes"):
        pipeline(RGB)
    with pytest.raises(UsageError, match="no detector of hands"):
        pipeline.prepare()
    found = pipeline(RGB, boxes=[BOX])
    assert isinstance(found, Clip) and found.joint_names[0] == "wrist"
    assert found.persons[0].vertices.shape == (1, 1609, 3)
    for suffix in ("glb", "npz", "obj", "json", "bvh"):
        found.save(tmp_path / f"hand.{suffix}")
    assert Clip.load(tmp_path / "hand.npz").persons[0].joints.shape == (1, 16, 3)
    whole = Pipeline(seeing("hand"), detector="full")(RGB)
    assert len(whole.persons) == 1


@pytest.mark.parametrize("shift", [0.0, 0.4])
def test_fastmetros_camera_sees_the_mesh_about_its_root(shift: float) -> None:
    """Nothing in its losses says where the mesh itself is."""
    model = seeing("hand")
    assert model.config.about_root and not tiny("body").about_root  # TORE's bodies are taken as they are
    assert replace(tiny("body"), regressor=None).about_root
    assert isinstance(model.head, FastMetroHead) and isinstance(model.head.regressor, MLPRegressor)
    model.head.regressor.fc3.bias.data += shift
    found = Pipeline(model)(RGB, boxes=[BOX])
    assert isinstance(found, Clip)
    person, hand = found.persons[0], BODIES["hand"]
    assert hand.J_regressor is not None
    wrist = hand.J_regressor[0] @ torch.from_numpy(np.asarray(person.vertices[0]))
    place = project(wrist[None].double(), torch.from_numpy(found.intrinsics[0]))
    np.testing.assert_allclose(place[0], [50, 50], atol=1e-3)
    assert np.linalg.norm(person.joints[0, 0] - wrist.numpy()) < 0.01


def test_the_mesh_of_a_body_must_be_the_models() -> None:
    published = replace(tiny("body").head, mesh=MeshLevelsConfig(), context_dim=32)  # 431 < 1723 < 6890
    model = MeshModelConfig(
        encoder=TRUNK, head=published, regressor=MLPRegressorConfig(dim=8, hidden=6)
    ).build()
    with pytest.raises(UsageError, match=r"431 < 1723 < 6890 vertices.*has 13718.*SMPL"):
        Pipeline(model)
    with pytest.raises(UsageError, match=r"431 < 1723 < 6890 vertices.*'few'.*has 100;"):
        few = load_default_body().restrict(torch.arange(100))
        few.name = "few"
        Pipeline(model, body=few)


def test_a_hierarchy_must_be_that_of_the_body(tmp_path: Path) -> None:
    hierarchy = default_hierarchy("hand")
    model = seeing("hand", stored=False, with_mesh=False)
    save_hierarchy(hierarchy.first(1), tmp_path / "one.safetensors")
    with pytest.raises(UsageError, match=r"one.safetensors: a hierarchy of 1609 .*needs 403 < 1609"):
        give_mesh(model, "tiny", BODIES["hand"], tmp_path / "one.safetensors")
    save_hierarchy(ring(), tmp_path / "ring.safetensors")
    with pytest.raises(UsageError, match=r"12 > 6 vertices and the body .* has 1609"):
        Pipeline(model, mesh=tmp_path / "ring.safetensors")
    save_hierarchy(hierarchy, tmp_path / "hand.safetensors")
    ready = Pipeline(model, mesh=tmp_path / "hand.safetensors")
    assert model.has_mesh and ready(RGB, boxes=[BOX]).persons[0].vertices.shape == (1, 1609, 3)
    with pytest.raises(UsageError, match="carries the mesh of its body itself"):
        Pipeline(model, mesh=tmp_path / "hand.safetensors")


def ring() -> MeshHierarchy:
    kept = torch.arange(0, 12, 2)
    up = torch.zeros(12, 6, dtype=torch.float64)
    up[torch.arange(12), torch.arange(12) // 2] = 1
    edges = [torch.stack([torch.arange(n - 1), torch.arange(1, n)], dim=1) for n in (12, 6)]
    return MeshHierarchy(
        sizes=(12, 6), up=(up.to_sparse_coo(),), kept=(kept,), edges=tuple(edges), faces=(None, None)
    )


def test_other_models_take_no_mesh(stand_in_model: nn.Module, tmp_path: Path) -> None:
    with pytest.raises(UsageError, match=r"for which mesh .*hand.safetensors means nothing"):
        Pipeline(stand_in_model, mesh=tmp_path / "hand.safetensors")


@pytest.mark.parametrize("name", ["fastmetro_l_r50", "metro_r50", "tore_hand_fastmetro_l_r50_itp80"])
def test_presets_without_weights_are_refused(name: str) -> None:
    with pytest.raises(UsageError, match=f"no weights for '{name}' come with the package"):
        Pipeline(name)


def test_other_engines_are_refused(body_file: Path) -> None:
    with pytest.raises(UsageError, match="runs on torch alone, not on onnxruntime"):
        Pipeline(body_file, engine="onnxruntime")


@pytest.mark.parametrize("gtr", [False, True])
def test_metro_starts_from_the_body_at_rest(gtr: bool, tmp_path: Path) -> None:
    hierarchy, body = default_hierarchy("body"), BODIES["body"]
    mesh = mesh_operators(hierarchy).config(stored=False)
    head = MetroHeadConfig(
        context_dim=32, mesh=mesh, widths=(8, 4), hidden=(8, 8, 8), layers=1, mlp_dim=6, positions=900,
        unused_words=0,
    )  # fmt: skip
    regressor = NSRConfig(dim=8, mlp_dim=6, layers=1) if gtr else None
    model = MeshModelConfig(encoder=TRUNK, head=head, regressor=regressor).build().eval()
    with pytest.raises(
        UsageError, match=r"regressor of 17 joints, and the free body holds none: .*--regressor"
    ):
        give_mesh(model, "tiny", body, None)
    joints = torch.zeros(17, body.num_vertices, dtype=torch.float64)
    joints[torch.arange(17), torch.arange(17) * 700] = 1
    save_hierarchy(hierarchy, tmp_path / "ten.safetensors", joints[:10])
    with pytest.raises(UsageError, match=r"of 17 joints, and .*ten.safetensors holds one of 10"):
        give_mesh(model, "tiny", body, tmp_path / "ten.safetensors")
    save_hierarchy(hierarchy, tmp_path / "body.safetensors", joints)
    give_mesh(model, "tiny", body, tmp_path / "body.safetensors")
    template = model.head.tokens.template
    assert template.shape == (14 if gtr else 14 + hierarchy.sizes[-1], 3)
    rest = body.v_template - body.v_template[0]
    upside_down = rest * torch.tensor([1.0, -1.0, -1.0])
    torch.testing.assert_close(template[0], upside_down[3 * 700], atol=1e-4, rtol=0)
    if not gtr:
        torch.testing.assert_close(template[14:], hierarchy.downsample(upside_down), atol=1e-4, rtol=0)


@pytest.fixture(scope="module")
def mano_like(tmp_path_factory: pytest.TempPathFactory) -> tuple[BodyModel, Path]:
    """A hand with the sizes of MANO, and its hierarchy as METRO's file has it."""
    free = BODIES["hand"]
    levels = build_hierarchy(free.v_template, free.faces, sizes=(778, 195))
    kept, faces = levels.kept[0], levels.faces[1]
    assert faces is not None
    hand = BodyModel(
        v_template=free.v_template[kept],
        shapedirs=free.shapedirs[kept],
        faces=faces,
        parents=free.parents.tolist(),
        lbs_weights=free.lbs_weights[kept],
        J_template=free.J_template,
        J_shapedirs=free.J_shapedirs,
        name="MANO-like",
    )
    up, down = levels.up[1].to_dense().numpy(), np.zeros((195, 778))
    down[np.arange(195), levels.kept[1].numpy()] = 1
    lists = {
        "A": [sparse.csc_matrix(levels.adjacency(level).numpy().astype(float)) for level in (1, 2)],
        "U": [sparse.csc_matrix(up)],
        "D": [sparse.csc_matrix(down)],
    }
    arrays = {key: np.empty(len(entries), dtype=object) for key, entries in lists.items()}
    for key, entries in lists.items():
        arrays[key][:] = entries
    path = tmp_path_factory.mktemp("mano") / "mano_downsampling.npz"
    np.savez(path, **arrays)
    return hand, path


PUBLISHED_HANDS = {
    "fastmetro": FastMetroHeadConfig(
        context_dim=32, joints=21, mesh=MeshLevelsConfig(vertices=(195, 778)), layers=1, dims=(16, 8),
        mlp_dims=(12, 6), learned_levels=0,
    ),
    "metro": MetroHeadConfig(
        context_dim=32, cells=None, joints=21, mesh=MeshLevelsConfig(vertices=(195, 778)), widths=(8, 4),
        hidden=(8, 8, 4), layers=1, mlp_dim=6, positions=230, camera_hidden=15, camera_reads_joints=True,
        masked_share=0.0, unused_words=0,
    ),
}  # fmt: skip


@pytest.mark.parametrize("family", PUBLISHED_HANDS)
def test_a_published_file_with_the_files_of_its_hand(
    family: str, mano_like: tuple[BodyModel, Path], tmp_path: Path
) -> None:
    hand, mesh = mano_like
    torch.manual_seed(3)
    model = MeshModelConfig(encoder=TRUNK, head=PUBLISHED_HANDS[family]).build().eval()
    path = tmp_path / "released.bin"
    torch.save({MESH_TABLE.published(key): tensor for key, tensor in model.state_dict().items()}, path)
    with pytest.raises(UsageError, match=r"195 < 778 vertices and the hand .* has 1609; .*MANO"):
        Pipeline(path)
    with pytest.raises(UsageError, match=r"needs the mesh hierarchy of its hand at 195 < 778"):
        Pipeline(path, body=hand)
    found = Pipeline(path, body=hand, mesh=mesh, boxes=None)(RGB, boxes=[BOX])
    assert isinstance(found, Clip) and found.body == "MANO-like"
    give_mesh(model, "released.bin", hand, mesh)
    with torch.no_grad():
        own = model(crop_pictures(RGB, torch.tensor([[22.0, 2, 78, 98]]), 224, (1, 1), False).pixels)
    shown = torch.from_numpy(np.asarray(found.persons[0].vertices))
    expected = own.vertices[-1]
    torch.testing.assert_close(shown - shown[:, :1], expected - expected[:, :1], atol=1e-3, rtol=1e-3)
