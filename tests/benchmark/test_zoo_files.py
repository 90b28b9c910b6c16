from __future__ import annotations

import json
from pathlib import Path

import pytest

from fasthmr.benchmark.zoo_files import read_accuracy, read_runs, write_runs
from fasthmr.benchmark.zoo_runs import GroupRun, Setting, ZooRuns
from fasthmr.errors import InputError

ONE = Setting(threads=1, engine="torch", precision="float32", batch=1)
GROUP = GroupRun(setting=ONE, models=("fasthmr_s", "fasthmr_m"), seconds=((0.25, 0.5), (0.2, 0.4)))
RUNS = ZooRuns(reference="fasthmr_s", settings=(ONE,), machine={"device": "abacus"}, runs=[GROUP])


def test_runs(tmp_path: Path) -> None:
    path = tmp_path / "runs.json"
    write_runs(path, RUNS, {"rows": [{"a": 1}], "note": "more"})
    assert read_runs(path) == RUNS
    path.write_text(path.read_text()[:-30])
    with pytest.raises(InputError, match="cannot go on from it"):
        read_runs(path)
    path.write_text('{"reference": 1}')
    with pytest.raises(InputError, match="KeyError"):
        read_runs(path)


def test_accuracy_files(tmp_path: Path) -> None:
    path = tmp_path / "report.json"
    entries = {
        "hmr2_vit_s": {"ap": 0.7},
        "one": {"model": "hmr2_swin_t_s2", "ap": 0.5, "mpjpe_mm": 90.0},
        "two": {"model": "hmr2_swin_t_s2", "ap": 0.6},
    }
    path.write_text(json.dumps({"accuracy": entries, "seeds": [1]}))
    found = read_accuracy(path)
    assert found == {
        "hmr2_vit_s": {"ap": 0.7},
        "hmr2_swin_t_s2": {"ap": pytest.approx(0.55), "mpjpe_mm": 90.0},
    }


@pytest.mark.parametrize(
    "text",
    [
        "",
        "[]",
        "{}",
        '{"accuracy": {"a": 1}}',
        '{"accuracy": {"a": {"b": "c"}}}',
        '{"accuracy": {"a": {"b": NaN}}}',
    ],
)
def test_files_without_accuracy(tmp_path: Path, text: str) -> None:
    path = tmp_path / "report.json"
    path.write_text(text)
    with pytest.raises(InputError, match=r'no accuracy of the form {"accuracy"'):
        read_accuracy(path)
    with pytest.raises(InputError, match="no accuracy"):
        read_accuracy(tmp_path / "none.json")
