from __future__ import annotations

import json
from pathlib import Path

import pytest

from fasthmr.benchmark.chooser import write_report
from fasthmr.benchmark.listing import matching_models
from fasthmr.benchmark.zoo_files import read_runs
from fasthmr.benchmark.zoo_runs import GroupRun, Setting, ZooRuns
from fasthmr.cli import main
from fasthmr.io.images import read_image

SETTINGS = tuple(Setting(threads=2, engine="torch", precision="float32", batch=batch) for batch in (1, 8))


def runs_of(patterns: str) -> ZooRuns:
    names = matching_models(patterns)
    rows = [tuple((1 + 0.1 * i) * (1 + n) / 50 for n in range(len(names))) for i in range(3)]
    groups = [GroupRun(setting=setting, models=tuple(names), seconds=tuple(rows)) for setting in SETTINGS]
    machine = {"device": "abacus", "cores": 2, "torch": "1", "load_before": 0.5}
    return ZooRuns(
        reference=names[0],
        settings=SETTINGS,
        machine=machine,
        runs=groups,
        failures={"hmr2_vit_h": "too big"},
    )


def test_the_answer_comes_first(tmp_path: Path) -> None:
    accuracy = {
        name: {"pa_mpjpe_mm": value, "mpjpe_mm": 2 * value}
        for name, value in (("hmr2_swin_t_s2", 60.0), ("hmr2_swin_t_s3", 50.5), ("hmr2_swin_t_s4", 50.0))
    }
    report = write_report(
        runs_of("*_swin_t_*"), tmp_path / "speed", accuracy, command="fasthmr bench --zoo x"
    )
    assert [path.name for path in report.files] == ["speed.md", "speed.json", "speed.png", "speed_batch8.png"]
    text = report.files[0].read_text()
    answer, other = text.split("\n\n")[1], text.split("\n\n")[3]
    assert answer == (
        "For body meshes take `hmr2_swin_t_s3` (22.7 crops/s): mpjpe_mm 101, within 2% of the best (100, "
        "`hmr2_swin_t_s4` (15.2 crops/s)), and 1.5 times as fast."
    )
    assert other.startswith(
        "For 2D keypoints, `vitpose_swin_t_s2` (11.4 crops/s) is the fastest; of those at least"
    )
    assert "No accuracy was given" in other
    assert "| 15 | `hmr2_swin_t_s4` | 15.2 | 66.0 | 31.00 | 5.22 | 100 | 50 |" in text
    assert (
        "| `hmr2_swin_t_s2` | 4.17 | 1.78 | 22.0 | 45.5 | 1.00 | 1.00-1.00 | 120 | 60 | size, work, mpjpe_mm"
        in text
    )
    assert "| `hmr2_swin_t` | 3.00 | 3.00-3.00 | 1.50 | 1.50-1.50 |" in text
    assert (
        "at least 2 times as fast as all four in 1 of 2 (with the whole interval in 1); 1.50 to 3.00" in text
    )
    assert "- `hmr2_vit_h`: too big" in text and "    fasthmr bench --zoo x" in text
    written = json.loads(report.files[1].read_text())
    assert written["advice"][0]["sentence"] == answer
    assert len(written["rows"]) == 12 and written["cuts"][0]["ratios"]["2"][0] == pytest.approx(3)
    assert read_runs(report.files[1]).runs == report.runs.runs
    for path in report.files[2:]:  # two tasks, four axes
        height, width, _ = read_image(path).shape
        assert 2.2 < width / height < 3


def test_the_command(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    out = tmp_path / "new" / "speed"
    command = [
        "bench",
        "--zoo",
        "fasthmr_[s]",
        "--batch",
        "1",
        "--threads",
        "1",
        "--seconds",
        "0",
        "--rounds",
        "2",
    ]
    assert main([*command, "--out", str(out), "--resume"]) == 2
    assert "there is no run to go on with" in capsys.readouterr().err
    assert main([*command, "--out", str(out)]) == 0
    printed = capsys.readouterr()
    assert printed.out.startswith("For body meshes, `fasthmr_s` (") and "wrote" in printed.err
    assert main([*command, "--out", str(out), "--resume", "--json"]) == 0
    rows = json.loads(capsys.readouterr().out)["rows"]
    assert [row["model"] for row in rows] == ["fasthmr_s"] and rows[0]["rounds"] == 2


@pytest.mark.parametrize(
    ("options", "code", "message"),
    [
        (["--zoo", "fasthmr_q*"], 2, "no model matches"),
        (["--zoo", "fasthmr_s", "--threads", "0"], 2, "at least 1"),
        (["--zoo", "fasthmr_s", "--threads", "two"], 2, "whole numbers"),
        (["--zoo", "fasthmr_s", "--engine", "torhc"], 2, "did you mean 'torch'"),
        (["--zoo", "fasthmr_s", "--batch", "0"], 2, "at least 1"),
        (["--zoo", "fasthmr_s", "--layers", "2"], 2, "not for --zoo"),
        (["--zoo", "fasthmr_s", "--accuracy", "/none.json"], 3, "no accuracy of the form"),
        (["--zoo", "fasthmr_s", "--device", "abacus"], 2, "not available"),
        (["fasthmr_s", "--resume"], 2, "belong to --zoo"),
        (["fasthmr_s", "--threads", "1,2"], 2, "are for --zoo"),
        ([], 2, "needs models"),
    ],
)
def test_wrong_options(
    options: list[str], code: int, message: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["bench", *options]) == code
    assert message in capsys.readouterr().err
