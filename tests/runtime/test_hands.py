"""Right and left hands through a whole run: boxes with sides, mirrored crops, meshes that face outward."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
import torch
import trimesh

from fasthmr.body.hierarchy import default_hierarchy
from fasthmr.body.mirror import mirrored
from fasthmr.errors import InputError, UsageError
from fasthmr.geometry.cameras import project
from fasthmr.io.images import write_image
from fasthmr.io.video import VideoWriter
from fasthmr.models.mesh import MeshModel, mesh_operators
from fasthmr.results import Clip, Person
from fasthmr.runtime.options import check_hand
from fasthmr.runtime.pipeline import Pipeline
from fasthmr.types import BodyParams, Detections
from tests.runtime.vertex_models import BODIES, seeing, tiny

WIDTH, HEIGHT = 120, 100
RGB = np.random.default_rng(0).integers(0, 256, (HEIGHT, WIDTH, 3), dtype=np.uint8)
RIGHT, LEFT = [10.0, 20.0, 50.0, 70.0], [60.0, 30.0, 110.0, 90.0]


@pytest.fixture(scope="module")
def random_hand() -> MeshModel:
    """A model that says something else of every picture."""
    torch.manual_seed(2)
    model = tiny("hand").build().eval()
    model.set_mesh(mesh_operators(default_hierarchy("hand")))
    return model


def mesh_of(clip: Clip, person: Person) -> trimesh.Trimesh:
    """About its middle: the mesh is open at the wrist, so that its volume depends on the origin."""
    points = np.asarray(person.vertices[0])
    return trimesh.Trimesh(points - points.mean(0), clip.faces_of(person), process=False)


def test_a_left_hand_is_seen_as_a_right_one_in_a_mirror(random_hand: MeshModel) -> None:
    pipeline = Pipeline(random_hand)
    plain = pipeline(RGB, boxes=[RIGHT]).persons[0]
    x1, y1, x2, y2 = RIGHT
    mirror = [WIDTH - 1 - x2, y1, WIDTH - 1 - x1, y2]
    clip = pipeline(np.ascontiguousarray(RGB[:, ::-1]), boxes=[mirror], sides=["left"])
    assert isinstance(clip, Clip)
    seen = clip.persons[0]
    assert (plain.side, seen.side) == ("right", "left")
    flip = np.array([-1, 1, 1], dtype=np.float32)
    for name in ("vertices", "joints"):
        own, other = (np.asarray(getattr(person, name))[0] for person in (plain, seen))
        np.testing.assert_allclose(other - other[:1], (own - own[:1]) * flip, atol=2e-4)
    places = [
        project(
            torch.from_numpy(np.asarray(person.vertices[0])).double(), torch.from_numpy(clip.intrinsics[0])
        )
        for person in (plain, seen)
    ]
    np.testing.assert_allclose(places[1][:, 0], WIDTH - 1 - places[0][:, 0], atol=0.05)
    np.testing.assert_allclose(places[1][:, 1], places[0][:, 1], atol=0.05)


def test_pose_and_shape_are_those_of_the_mirrored_hand() -> None:
    person = Pipeline(seeing("hand"))(RGB, boxes=[LEFT], sides=["left"]).persons[0]
    names = ("global_orient", "body_pose", "betas", "transl")
    params = BodyParams(**{name: torch.from_numpy(getattr(person, name)) for name in names})
    fitted = mirrored(BODIES["hand"])(params)
    torch.testing.assert_close(fitted.joints, torch.from_numpy(person.joints), atol=1e-5, rtol=0)
    shown = torch.from_numpy(np.asarray(person.vertices))
    assert 1000 * (fitted.vertices - shown).norm(dim=-1).mean() < 4  # two levels of a mesh cost 1 mm


@pytest.fixture(scope="module")
def both(tmp_path_factory: pytest.TempPathFactory) -> tuple[Clip, Path]:
    """One hand of each side, with all files."""
    folder = tmp_path_factory.mktemp("both")
    write_image(folder / "hands.png", RGB)
    (folder / "boxes.json").write_text(json.dumps({"hands.png": [[*RIGHT, 0.9], [*LEFT, "left"]]}))
    pipeline = Pipeline(seeing("hand"), boxes=folder / "boxes.json")
    clip = pipeline(folder / "hands.png")
    assert isinstance(clip, Clip)
    for suffix in ("glb", "npz", "obj", "json", "bvh"):
        clip.save(folder / f"hands.{suffix}")
    return clip, folder


def test_sides_come_from_the_boxes(both: tuple[Clip, Path]) -> None:
    clip, folder = both
    assert [person.side for person in clip.persons] == ["left", "right"]  # the better score first
    back = Clip.load(folder / "hands.npz")
    assert [person.side for person in back.persons] == ["left", "right"]
    record = json.loads((folder / "hands.json").read_text())
    assert [person["side"] for person in record["persons"]] == ["left", "right"]


def test_surfaces_face_outward_in_all_files(both: tuple[Clip, Path]) -> None:
    clip, folder = both
    hands = [mesh_of(clip, person) for person in clip.persons]
    volumes = [hand.volume for hand in hands]
    assert volumes[0] == pytest.approx(volumes[1], rel=1e-3) and volumes[0] > 1e-5
    scene = trimesh.load(folder / "hands.glb", process=False)
    for name, mesh in scene.geometry.items():
        mesh.apply_translation(-mesh.vertices.mean(0))
        assert mesh.volume == pytest.approx(volumes[0], rel=1e-3), name
        assert (np.einsum("vc,vc->v", mesh.vertex_normals, mesh.vertices) > 0).mean() > 0.6
    file = trimesh.load(folder / "hands.obj", process=False)
    for part in np.split(np.arange(len(file.faces)), 2):
        corners = file.vertices - file.vertices[file.faces[part].ravel()].mean(0)
        assert trimesh.Trimesh(corners, file.faces[part]).volume == pytest.approx(volumes[0], rel=0.05)


def test_hands_that_fill_the_picture_are_of_the_side_that_is_said(random_hand: MeshModel) -> None:
    said = Pipeline(random_hand, detector="full", hand="left")(RGB)
    assert [person.side for person in said.persons] == ["left"]
    whole = [[0.0, 0.0, float(WIDTH), float(HEIGHT)]]
    listed = Pipeline(random_hand)(RGB, boxes=whole, sides=["left"])
    np.testing.assert_array_equal(said.persons[0].vertices, listed.persons[0].vertices)
    assert Pipeline(random_hand, detector="full")(RGB).persons[0].side == "right"


def test_a_detector_may_tell_sides(random_hand: MeshModel) -> None:
    def hands(rgb: np.ndarray) -> Detections:
        boxes = torch.tensor([LEFT, RIGHT])
        return Detections(boxes_xyxy=boxes, scores=torch.ones(2), left=torch.tensor([True, False]))

    found = Pipeline(random_hand, detector=hands)(RGB)
    assert [person.side for person in found.persons] == ["left", "right"]


def test_hands_in_a_video(random_hand: MeshModel, tmp_path: Path) -> None:
    path = tmp_path / "clip.mp4"
    with VideoWriter(path, 30.0, (WIDTH, HEIGHT)) as writer:
        for index in range(5):
            writer.write(RGB, index / 30)
    lines = ["file,x1,y1,x2,y2,score,side"]
    for frame in (0, 2, 4):
        lines.append(f"clip.mp4#{frame},{','.join(map(str, RIGHT))},0.9,right")
        lines.append(f"clip.mp4#{frame},{','.join(map(str, LEFT))},0.8,left")
    (tmp_path / "boxes.csv").write_text("\n".join(lines))
    pipeline = Pipeline(random_hand, boxes=tmp_path / "boxes.csv")
    reports = list(pipeline.predict_many([path], tmp_path / "out", save=["overlay", "glb", "npz", "json"]))
    assert [(report.status, report.persons) for report in reports] == [("ok", 2)], reports
    clip = Clip.load(tmp_path / "out" / "clip.npz")
    assert sorted(str(person.side) for person in clip.persons) == ["left", "right"]
    for person in clip.persons:
        assert person.frames.tolist() == [0, 1, 2, 3, 4]
        np.testing.assert_allclose(
            person.boxes_xyxy[[0, 2, 4]], [LEFT if person.side == "left" else RIGHT] * 3
        )
    still = Pipeline(random_hand)(RGB, boxes=[LEFT], sides=["left"]).persons[0]
    left = next(person for person in clip.persons if person.side == "left")
    np.testing.assert_allclose(
        left.joints[2] - left.joints[2, 0], still.joints[0] - still.joints[0, 0], atol=0.02
    )


def test_sides_that_make_no_sense(random_hand: MeshModel, stand_in_model, tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"sides \['left'\] for 2 boxes"):
        Pipeline(random_hand)(RGB, boxes=[LEFT, RIGHT], sides=["left"])
    with pytest.raises(InputError, match="'left' or 'right' for each"):
        Pipeline(random_hand)(RGB, boxes=[LEFT], sides=["up"])
    with pytest.raises(UsageError, match="hand is 'both'"):
        check_hand("both", True, False, "model")
    with pytest.raises(UsageError, match="reads people"):
        Pipeline(stand_in_model)(RGB, boxes=[LEFT], sides=["left"])
    with pytest.raises(UsageError, match=r"hand says left or right hand, and .* reads people"):
        Pipeline(stand_in_model, hand="left")
    (tmp_path / "boxes.csv").write_text("a.png,1,2,3,4,left\n")
    with pytest.raises(UsageError, match=r"the boxes say left or right hand, and .* reads people"):
        Pipeline(stand_in_model, boxes=tmp_path / "boxes.csv")
