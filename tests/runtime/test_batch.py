from __future__ import annotations

import errno
import hashlib
import json
import os
from pathlib import Path

import numpy as np
import pytest
import trimesh
from PIL import Image
from torch import nn

from fasthmr.errors import InputError, ResourceError, UsageError
from fasthmr.results import Clip
from fasthmr.runtime import batch
from fasthmr.runtime.manifest import FILE_NAME, Manifest, module_digest
from fasthmr.runtime.pipeline import Pipeline


@pytest.fixture
def pictures(tmp_path: Path, make_picture) -> Path:
    folder = tmp_path / "in"
    for index in range(3):
        make_picture(folder / f"p{index}.png", seed=index)
    return folder


@pytest.fixture
def pipeline(stand_in_model: nn.Module) -> Pipeline:
    return Pipeline(stand_in_model, detector="full")


def run(pipeline: Pipeline, source: Path, out: Path, **options: object) -> list[batch.ItemReport]:
    return list(pipeline.predict_many([source], out, **options))


def contents(folder: Path, *, without: tuple[str, ...] = (".npz", ".jsonl", ".json")) -> dict[str, str]:
    """Digests of result files; those that hold times are compared elsewhere."""
    files = [path for path in folder.iterdir() if path.suffix not in without]
    return {path.name: hashlib.sha256(path.read_bytes()).hexdigest() for path in files}


def test_every_format_is_written_and_opens(pipeline: Pipeline, pictures: Path, tmp_path: Path) -> None:
    reports = run(pipeline, pictures, tmp_path / "out", save=("overlay", "glb", "npz", "bvh", "obj", "json"))
    assert [report.status for report in reports] == ["ok"] * 3
    assert set(reports[0].timings) == {"read", "detect", "camera", "crop", "model", "body", "render", "write"}
    names = sorted(path.name for path in (tmp_path / "out").iterdir())
    endings = batch.FORMATS["mesh"].values()
    assert names == sorted([f"p{i}{end}" for i in range(3) for end in endings] + [FILE_NAME])
    drawn = np.asarray(Image.open(tmp_path / "out" / "p0.overlay.png"))
    assert drawn.shape == (64, 48, 3)
    assert (drawn != np.asarray(Image.open(pictures / "p0.png"))).any()
    clip = Clip.load(tmp_path / "out" / "p0.npz")
    scene = trimesh.load(tmp_path / "out" / "p0.glb")
    assert sum(len(mesh.vertices) for mesh in scene.geometry.values()) >= clip.persons[0].vertices.shape[1]
    assert json.loads((tmp_path / "out" / "p0.json").read_text())


def test_a_bad_picture_does_not_stop_the_others(pipeline: Pipeline, pictures: Path, tmp_path: Path) -> None:
    (pictures / "p1.png").write_bytes(b"")
    reports = run(pipeline, pictures, tmp_path / "out")
    assert [report.status for report in reports] == ["ok", "failed", "ok"]
    assert isinstance(reports[1].error, InputError)
    left = {path.name for path in (tmp_path / "out").iterdir()}
    assert not {name for name in left if name.startswith((".", "p1"))}
    lines = [json.loads(line) for line in (tmp_path / "out" / FILE_NAME).read_text().splitlines()]
    assert [line["status"] for line in lines] == ["ok", "failed", "ok"]
    assert "empty" in lines[1]["error"]


def test_a_defect_in_one_picture_does_not_stop_the_others(
    pipeline: Pipeline, pictures: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    recover = pipeline.recover

    def defect(rgb, *, path, **options):
        if path.name == "p0.png":
            raise ZeroDivisionError("a defect")
        return recover(rgb, path=path, **options)

    monkeypatch.setattr(pipeline, "recover", defect)
    assert [report.status for report in run(pipeline, pictures, tmp_path / "out")] == ["failed", "ok", "ok"]


def test_r13_a_broken_run_is_taken_up_again(
    pipeline: Pipeline, pictures: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    run(pipeline, pictures, tmp_path / "whole")
    steps = pipeline.predict_many([pictures], tmp_path / "out")
    next(steps)
    steps.close()
    with (tmp_path / "out" / FILE_NAME).open("ab") as file:
        file.write(b'{"picture": "torn')
    resumed = run(pipeline, pictures, tmp_path / "out", resume=True)
    assert [report.status for report in resumed] == ["skipped", "ok", "ok"]
    assert [path.name for path in resumed[0].outputs] == ["p0.overlay.png", "p0.glb", "p0.npz"]
    assert contents(tmp_path / "out") == contents(tmp_path / "whole")
    again = run(pipeline, pictures, tmp_path / "out", resume=True)
    assert [report.status for report in again] == ["skipped"] * 3


def test_resume_does_again_what_changed(
    pipeline: Pipeline, stand_in_model: nn.Module, pictures: Path, tmp_path: Path, make_picture
) -> None:
    out = tmp_path / "out"
    run(pipeline, pictures, out)
    make_picture(pictures / "p1.png", width=50, seed=9)
    (out / "p2.glb").unlink()
    assert [report.status for report in run(pipeline, pictures, out, resume=True)] == ["skipped", "ok", "ok"]
    other = Pipeline(stand_in_model, detector="full", focal=300.0)
    assert [report.status for report in run(other, pictures, out, resume=True)] == ["ok"] * 3
    assert [report.status for report in run(other, pictures, out, resume=True)] == ["skipped"] * 3
    assert [report.status for report in run(other, pictures, out)] == ["ok"] * 3
    with np.errstate(all="ignore"):
        stand_in_model.gain.data.fill_(0.5)
    changed = Pipeline(stand_in_model, detector="full", focal=300.0)
    assert [report.status for report in run(changed, pictures, out, resume=True)] == ["ok"] * 3


def test_r14_a_full_disk_ends_the_run_and_leaves_nothing_half(
    pipeline: Pipeline, pictures: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(source: object, target: object) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(os, "replace", full)
    with pytest.raises(ResourceError, match="full"):
        run(pipeline, pictures, tmp_path / "out", save=("npz",))
    assert [path.name for path in (tmp_path / "out").iterdir()] == [FILE_NAME]
    monkeypatch.undo()
    reports = run(pipeline, pictures, tmp_path / "out", save=("npz",), resume=True)
    assert [report.status for report in reports] == ["ok"] * 3


def test_the_out_folder_may_not_be_a_file(pipeline: Pipeline, pictures: Path, tmp_path: Path) -> None:
    (tmp_path / "out").write_text("a file")
    with pytest.raises(ResourceError, match="out"):
        run(pipeline, pictures, tmp_path / "out")


def test_formats_are_checked_first(pipeline: Pipeline, pictures: Path, tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="did you mean 'overlay'"):
        run(pipeline, pictures, tmp_path / "out", save=("overlays",))
    with pytest.raises(UsageError, match="nothing to save"):
        run(pipeline, pictures, tmp_path / "out", save=())
    assert not (tmp_path / "out").exists()
    assert batch.check_formats(["glb", "npz", "glb"]) == ("glb", "npz")


def test_results_in_the_folder_of_the_pictures_are_no_sources(pipeline: Pipeline, pictures: Path) -> None:
    assert len(run(pipeline, pictures, pictures)) == 3
    assert len(run(pipeline, pictures, pictures)) == 3


@pytest.mark.parametrize(
    "line", [b"", b"[]", b"7", b"{}", b'{"status": "ok", "key": 3, "outputs": 4}', b"\xff"]
)
def test_a_damaged_manifest_only_costs_work(tmp_path: Path, make_picture, line: bytes) -> None:
    picture = make_picture(tmp_path / "a.png")
    (tmp_path / FILE_NAME).write_bytes(line + b"\n" + line)
    manifest = Manifest(tmp_path, "settings", resume=True)
    assert manifest.finished(picture) is None
    manifest.add(picture, "ok", [picture.name])
    assert Manifest(tmp_path, "settings", resume=True).finished(picture) == ("a.png",)
    assert Manifest(tmp_path, "others", resume=True).finished(picture) is None


def test_digest_tells_weights_apart() -> None:
    layer = nn.Linear(2, 2)
    before = module_digest(layer)
    assert before == module_digest(layer)
    layer.bias.data[0] += 1
    assert before != module_digest(layer)
