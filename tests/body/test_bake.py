"""The shipped body, hand and wardrobe files keep the promises of their format."""

from __future__ import annotations

import json
from importlib.resources import files
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from safetensors import safe_open

from fasthmr.body.skeletons import (
    COCO17_NAMES,
    MANO_JOINT_NAMES,
    MANO_PARENTS,
    SMPL_FLIP,
    SMPL_JOINT_NAMES,
    SMPL_PARENTS,
)

ASSETS = Path(str(files("fasthmr") / "assets"))
WARDROBE = ASSETS / "wardrobe"
BASE_VERTICES = 19_158


def read(path: Path) -> tuple[dict[str, np.ndarray], dict[str, str]]:
    with safe_open(path, framework="numpy") as file:
        return {key: file.get_tensor(key) for key in file.keys()}, file.metadata()  # noqa: SIM118


@pytest.fixture(scope="module")
def body() -> tuple[dict[str, np.ndarray], dict[str, str]]:
    return read(ASSETS / "body.safetensors")


@pytest.fixture(scope="module")
def hand() -> tuple[dict[str, np.ndarray], dict[str, str]]:
    return read(ASSETS / "hand.safetensors")


@pytest.fixture(scope="module")
def garments() -> tuple[dict[str, np.ndarray], dict[str, str]]:
    return read(WARDROBE / "garments.safetensors")


@pytest.fixture(scope="module")
def wardrobe_index() -> list[dict]:
    return json.loads((WARDROBE / "index.json").read_text(encoding="utf-8"))


@pytest.fixture(params=["body", "hand"])
def baked(request: pytest.FixtureRequest) -> tuple[dict[str, np.ndarray], dict[str, str]]:
    return request.getfixturevalue(request.param)


def dense(tensors: dict[str, np.ndarray], prefix: str, rows: int) -> np.ndarray:
    table = np.zeros((rows, len(tensors["v_template"])))
    np.add.at(table, (tensors[f"{prefix}_row"], tensors[f"{prefix}_col"]), tensors[f"{prefix}_val"])
    return table


def test_weights_are_a_partition_of_one(baked: tuple) -> None:
    tensors, _ = baked
    weights = tensors["lbs_weight"].astype(np.float64)
    assert (weights >= 0).all()
    assert (weights.sum(axis=1) == 1).all()
    assert tensors["lbs_index"].max() < len(tensors["parents"])


@pytest.mark.parametrize(
    ("name", "parents", "names"),
    [("body", SMPL_PARENTS, SMPL_JOINT_NAMES), ("hand", MANO_PARENTS, MANO_JOINT_NAMES)],
)
def test_tree_is_the_published_one(
    name: str, parents: tuple, names: tuple, request: pytest.FixtureRequest
) -> None:
    tensors, metadata = request.getfixturevalue(name)
    assert tensors["parents"].tolist() == list(parents)
    assert json.loads(metadata["joint_names"]) == list(names)


def test_faces_and_parts_point_into_the_mesh(baked: tuple) -> None:
    tensors, _ = baked
    count = len(tensors["v_template"])
    assert np.array_equal(np.unique(tensors["faces"]), np.arange(count))
    assert tensors["faces_uv"].shape == tensors["faces"].shape
    assert tensors["faces_uv"].max() < len(tensors["uv"])
    assert tensors["part"].max() < len(tensors["parents"])
    base = tensors["base_vertex_index"].astype(int)
    assert base.shape == (count,)
    assert (np.diff(base) > 0).all()
    assert base[-1] < BASE_VERTICES
    assert np.isfinite(tensors["shapedirs"].astype(np.float32)).all()


def test_metadata_states_licence_axes_and_units(baked: tuple, garments: tuple) -> None:
    for _, metadata in (baked, garments):
        assert "CC0-1.0" in metadata["licence"]
        assert {"format", "version", "source", "axes", "units"} <= metadata.keys()
    assert "NAVER" in baked[1]["licence"]


def test_regressors_are_convex_and_find_the_joints(baked: tuple) -> None:
    tensors, metadata = baked
    regressor = dense(tensors, "J_regressor", len(tensors["parents"]))
    assert (regressor >= 0).all()
    np.testing.assert_allclose(regressor.sum(axis=1), 1, atol=1e-6)
    error = np.linalg.norm(regressor @ tensors["v_template"] - tensors["J_template"], axis=1)
    assert error.mean() < 0.004
    if "keypoint_names" in metadata:
        names = json.loads(metadata["keypoint_names"])
        assert names[:17] == list(COCO17_NAMES)
        keypoints = dense(tensors, "keypoint", len(names))
        np.testing.assert_allclose(keypoints.sum(axis=1), 1, atol=1e-5)


def test_t_pose_of_the_body(body: tuple) -> None:
    tensors, _ = body
    joints = dict(zip(SMPL_JOINT_NAMES, tensors["J_template"], strict=True))
    np.testing.assert_allclose(joints["pelvis"], 0, atol=1e-6)
    mirrored = tensors["J_template"][np.array(SMPL_FLIP)] * [-1, 1, 1]
    assert np.abs(mirrored - tensors["J_template"]).max() < 0.001
    arm = [joints[f"left_{name}"] for name in ("shoulder", "elbow", "wrist", "hand")]
    assert (np.diff([p[0] for p in arm]) > 0.08).all()
    assert np.ptp([p[1] for p in arm]) < 0.03
    keypoints = dense(tensors, "keypoint", 23) @ tensors["v_template"]
    assert keypoints[0, 2] > joints["head"][2] + 0.05  # nose in front of the head joint
    assert keypoints[17, 2] > keypoints[19, 2] + 0.1  # toes in front of the heel
    height = np.ptp(tensors["v_template"][:, 1])
    assert 1.6 < height < 1.8


def test_shape_components_are_standard_deviations_of_height_first(body: tuple) -> None:
    tensors, _ = body
    shapedirs = tensors["shapedirs"].astype(np.float64)
    heights = [np.ptp((tensors["v_template"] + b * shapedirs[..., 0])[:, 1]) for b in (-2.5, 0, 2.5)]
    assert 1.35 < heights[0] < heights[1] - 0.2
    assert heights[1] + 0.2 < heights[2] < 2.1
    size = np.linalg.norm(shapedirs, axis=(0, 1))
    assert (np.diff(size) < 0).all()


def test_hand_lies_flat_along_minus_x(hand: tuple) -> None:
    tensors, metadata = hand
    joints = dict(zip(MANO_JOINT_NAMES, tensors["J_template"], strict=True))
    assert metadata["side"] == "right"
    np.testing.assert_allclose(joints["wrist"], 0, atol=1e-6)
    assert -0.12 < joints["middle1"][0] < -0.09
    assert joints["thumb3"][2] > 0.03
    tips = tensors["v_template"][tensors["fingertip_index"]]
    for name, tip in zip(json.loads(metadata["fingertip_names"]), tips, strict=True):
        assert tip[0] < joints[f"{name}3"][0]


def test_every_indexed_garment_is_whole(garments: tuple, wardrobe_index: list[dict]) -> None:
    tensors, _ = garments
    with_geometry = {key.split("/")[0] for key in tensors}
    assert with_geometry <= {entry["name"] for entry in wardrobe_index}
    for entry in wardrobe_index:
        if entry["kind"] == "skin":
            continue
        item = {key: tensors[f"{entry['name']}/{key}"] for key in ("template", "shapedirs", "faces", "uv")}
        count = len(item["template"])
        assert item["shapedirs"].shape == (count, 3, 10)
        assert item["faces"].max() < count
        assert tensors[f"{entry['name']}/faces_uv"].max() < len(item["uv"])
        assert (tensors[f"{entry['name']}/lbs_weight"].astype(np.float64).sum(axis=1) == 1).all()
        assert tensors[f"{entry['name']}/lbs_index"].max() < 24
        island = tensors[f"{entry['name']}/island"]
        assert island.shape == (len(item["faces"]),)
        deleted = tensors[f"{entry['name']}/delete_verts"]
        assert (deleted < BASE_VERTICES).all()
        if entry["kind"] == "suit":
            assert tensors[f"{entry['name']}/delete_island"].shape == deleted.shape
            parts = {*entry.get("upper_islands", ()), *entry.get("lower_islands", ())}
            assert parts <= set(island.tolist())
        assert np.abs(item["template"].astype(np.float32)).max() < 1.3


def test_shipped_wardrobe_is_cc0_and_its_textures_open(wardrobe_index: list[dict]) -> None:
    shipped = {path.name for path in (WARDROBE / "textures").iterdir()}
    used = set()
    for entry in wardrobe_index:
        assert entry["licence"] == "CC0-1.0"
        assert entry["author"]
        for role, name in entry["textures"].items():
            used.add(Path(name).name)
            with Image.open(WARDROBE / name) as image:
                assert max(image.size) <= 512
                assert image.mode == ("L" if role == "ao" else "RGBA" if name.endswith(".webp") else "RGB")
    assert used == shipped


def test_shoes_sit_on_the_feet_and_hair_on_the_head(garments: tuple, body: tuple) -> None:
    tensors, (shape, _) = garments[0], body
    soles = tensors["shoes01/template"].astype(np.float32)[:, 1].min()
    assert abs(soles - shape["v_template"][:, 1].min()) < 0.05
    crown = tensors["short01/template"].astype(np.float32)[:, 1].max()
    assert 0 < crown - shape["v_template"][:, 1].max() < 0.05


def test_files_stay_small() -> None:
    assert (ASSETS / "body.safetensors").stat().st_size < 2e6
    assert (ASSETS / "hand.safetensors").stat().st_size < 3e5
    assert sum(path.stat().st_size for path in WARDROBE.rglob("*") if path.is_file()) < 10e6
