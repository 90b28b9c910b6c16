from __future__ import annotations

import json
from pathlib import Path

from fasthmr.training.hours import HourCounter, noted_hours


def write(folder: Path, hours: float) -> None:
    folder.mkdir()
    (folder / "hours.json").write_text(json.dumps({"hours": hours}))


def test_hours_go_on_from_those_of_the_start(tmp_path: Path) -> None:
    write(tmp_path / "first", 2.0)
    (tmp_path / "next").mkdir()
    HourCounter(tmp_path / "next", tmp_path / "first" / "model.safetensors").note()
    assert 2.0 <= noted_hours(tmp_path / "next") < 2.1


def test_hours_of_a_stopped_run_include_its_start(tmp_path: Path) -> None:
    write(tmp_path / "first", 2.0)
    write(tmp_path / "next", 3.0)
    HourCounter(tmp_path / "next", tmp_path / "first" / "model.safetensors").note()
    assert 3.0 <= noted_hours(tmp_path / "next") < 3.1


def test_weights_from_elsewhere_have_no_hours(tmp_path: Path) -> None:
    HourCounter(tmp_path, tmp_path / "elsewhere" / "imagenet.safetensors").note()
    assert 0.0 <= noted_hours(tmp_path) < 0.1
