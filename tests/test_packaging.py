from __future__ import annotations

import re
import tomllib
import zipfile
from pathlib import Path

import pytest
from hatchling.builders.wheel import WheelBuilder

ROOT = Path(__file__).resolve().parents[1]
LIMIT_FILE, LIMIT_ALL = 50_000_000, 100_000_000


@pytest.fixture(scope="module")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> zipfile.ZipFile:
    folder = tmp_path_factory.mktemp("wheel")
    return zipfile.ZipFile(next(WheelBuilder(str(ROOT)).build(directory=str(folder))))


def test_the_wheel_holds_all_data_of_the_package(wheel: zipfile.ZipFile) -> None:
    names = set(wheel.namelist())
    assets = ROOT / "src" / "fasthmr" / "assets"
    wanted = {
        f"fasthmr/assets/{path.relative_to(assets).as_posix()}"
        for path in assets.rglob("*")
        if path.is_file()
    }
    assert wanted <= names
    assert {"fasthmr/assets/body.safetensors", "fasthmr/assets/demo/ATTRIBUTION.md"} <= names
    assert any(name.endswith("licenses/LICENSE") for name in names)
    assert any(name.endswith("licenses/NOTICE") for name in names)


def test_the_wheel_fits_a_package_index(wheel: zipfile.ZipFile) -> None:
    for member in wheel.infolist():
        assert member.file_size <= LIMIT_FILE, member.filename
    assert sum(member.compress_size for member in wheel.infolist()) <= LIMIT_ALL


def test_the_core_needs_at_most_ten_packages_and_a_bounded_torch() -> None:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    needed = {re.split(r"[<>=\[]", line)[0]: line for line in project["dependencies"]}
    assert len(needed) <= 10
    assert "<" in needed["torch"], "an open range takes a build with gigabytes of CUDA packages"
    assert not {"torchvision", "timm", "opencv-python", "opencv-contrib-python-headless"} & set(needed)
    extras = {"viewer", "export", "train", "cluster", "eval", "bake", "dev"}
    assert set(project["optional-dependencies"]) == extras


def test_the_demo_pictures_are_small() -> None:
    pictures = list((ROOT / "src" / "fasthmr" / "assets" / "demo").glob("*.jpg"))
    assert len(pictures) >= 2
    assert sum(path.stat().st_size for path in pictures) <= 400_000
    told = (ROOT / "src" / "fasthmr" / "assets" / "demo" / "ATTRIBUTION.md").read_text()
    assert all(path.name in told for path in pictures)
