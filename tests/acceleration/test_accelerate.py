from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import pytest
import torch

import fasthmr
from fasthmr.acceleration.accelerate import Accelerated, accelerate_model
from fasthmr.acceleration.candidates import SearchOptions
from fasthmr.acceleration.plan import MergePlan
from fasthmr.acceleration.settings import AccelerateConfig
from fasthmr.cli import main
from fasthmr.errors import InputError, UsageError
from fasthmr.models.keypoint_hmr import KeypointHMR
from fasthmr.reduction.eclm import LayerMergePlan
from fasthmr.reduction.tome_schedule import TokenMergePlan
from fasthmr.zoo import load_model

QUICK = AccelerateConfig(
    search=SearchOptions(max_error_mm=5.0, keep=(30,), per_block=18, measure=False),
    masks="true",
    heal_steps=2,
    heal_batch=4,
    time_s=0.01,
)


@pytest.fixture(scope="module")
def done(
    model: KeypointHMR, records: Path, tmp_path_factory: pytest.TempPathFactory
) -> tuple[Accelerated, Path]:
    out = tmp_path_factory.mktemp("out")
    stages: list[tuple[str, int, int]] = []
    result = accelerate_model(model, records, QUICK, out=out, progress=lambda *told: stages.append(told))
    assert all(0 <= step <= total for _, step, total in stages)
    assert {stage.split(",")[0] for stage, _, _ in stages} == {
        "reading",
        "layers",
        "healing",
        "judging",
    }
    return result, out


def test_the_model_gets_cheaper_and_the_report_says_what_it_cost(done):
    _, out = done
    numbers = json.loads((out / "report.json").read_text())
    assert numbers["blocks"][1] < 5 and numbers["tokens"] == [48, 30] and numbers["macs_ratio"] > 1.3
    assert [row["name"] for row in numbers["rows"]] == ["unmerged", "merged", "merged, healed"]
    assert numbers["rows"][0]["distance_mm"] == 0 and numbers["rows"][1]["distance_mm"] > 0
    assert set(numbers["speedup"]) == {"1", "8", "32"}
    assert "MPJPE" in numbers["rows"][2]["change"]
    page = (out / "report.html").read_text()
    assert page.count("data:image/png;base64,") == 2 and "http" not in page
    assert "48 -&gt; 30 in the first 1" in page
    assert "![CKA" in (out / "report.md").read_text()
    assert (out / "cka.png").is_file() and (out / "examples.png").is_file()


def test_the_file_alone_is_the_merged_model(done, model):
    result, out = done
    loaded = load_model(out / "model.safetensors")
    pixels = torch.randn(2, 3, 128, 128, generator=torch.Generator().manual_seed(0))
    mask = torch.zeros(2, 128, 128)
    mask[:, 30:100, 40:80] = 1
    with torch.no_grad():
        ours, theirs = loaded(pixels, mask), result.model(pixels, mask)
    torch.testing.assert_close(ours.params.body_pose, theirs.params.body_pose, rtol=0, atol=0)


def test_the_plan_makes_the_merged_model_again(done, model, records):
    result, out = done
    plan = MergePlan.read(out / "plan.json")
    assert plan == result.plan
    again = plan.apply(model)
    config = replace(QUICK, plan=plan, heal_steps=0)
    other = accelerate_model(model, records, config).model
    assert all(torch.equal(a, b) for a, b in zip(again.parameters(), other.parameters(), strict=True))
    with pytest.raises(UsageError, match="other weights"):
        plan.apply(result.model)


def test_pictures_need_no_labels(model, pictures):
    search = replace(QUICK.search, max_error_mm=500.0)
    config = replace(QUICK, search=search, masks="ellipse", detector="full", heal_steps=0)
    report = accelerate_model(model, pictures, config).report
    assert all(not row.errors for row in report.rows) and "without labels" in report.held_out
    assert report.rows[1].distance.mean() > 0


@pytest.mark.parametrize("name", ["model", "hmr", "camera_hmr"])
def test_a_model_that_finds_the_person_itself_needs_no_mask(name, request, pictures, tmp_path):
    model = request.getfixturevalue(name)
    plan = MergePlan(
        layers=LayerMergePlan(groups=((0,), (1,), (2,), *([(3,)] if name != "model" else [(3, 4)]))),
        tokens=TokenMergePlan(counts=(0, 0, 10)),
    )
    config = replace(QUICK, plan=plan, masks="self", self_mask_steps=2, detector="full")
    fast = accelerate_model(model, pictures, config, out=tmp_path).model
    assert fast.encoder.self_mask is not None and not fast.takes_mask
    loaded = load_model(tmp_path / "model.safetensors")
    pixels = torch.randn(1, 3, 128, 128, generator=torch.Generator().manual_seed(0))
    inputs = (pixels, torch.zeros(1, 3)) if model.takes_camera else (pixels,)
    with torch.no_grad():
        torch.testing.assert_close(loaded(*inputs).camera, fast(*inputs).camera, rtol=0, atol=0)


def test_models_that_take_the_camera(camera_hmr, records):
    config = replace(QUICK, search=replace(QUICK.search, max_error_mm=1000.0))
    accelerated = accelerate_model(camera_hmr, records, config)
    assert accelerated.model.takes_camera and accelerated.plan.tokens is not None


def test_public_call(model, records, monkeypatch):
    monkeypatch.setattr("fasthmr.acceleration.accelerate.THROUGHPUT_BATCHES", (1,))
    fast = fasthmr.accelerate(
        model, frames=records, max_error_mm=0.1, heal_steps=0, tokens=44, masks="ellipse"
    )
    assert isinstance(fast, KeypointHMR)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"search": SearchOptions(keep=(49,))}, "the model has 48"),
        ({"search": SearchOptions(keep=(3,), per_block=2)}, "let more merge"),
        ({"plan": MergePlan(layers=LayerMergePlan(groups=((0,), (1, 2))))}, "groups of 3 blocks"),
        ({"plan": MergePlan(tokens=TokenMergePlan(counts=(40,)))}, "cannot lose 40"),
        ({"plan": MergePlan(source="other")}, "other weights"),
    ],
)
def test_what_does_not_fit_the_model_shows_before_pictures_are_read(model, change, message):
    with pytest.raises(UsageError, match=message):
        accelerate_model(model, "/nowhere/at/all", replace(QUICK, **change))


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"max_error_mm": 0.0}, "above 0"),
        ({"max_error_mm": -1.0}, "above 0"),
        ({"target_speedup": 1.0}, "above 1"),
        ({"thresholds_mm": (1.0, 0.0)}, "above 0"),
    ],
)
def test_options_out_of_range(options, message):
    with pytest.raises(UsageError, match=message):
        SearchOptions(**options)


def test_an_accelerated_model_is_refused(done):
    with pytest.raises(UsageError, match="accelerated already"):
        accelerate_model(done[0].model, "/nowhere", QUICK)


def test_damaged_plans(tmp_path):
    path = tmp_path / "plan.json"
    for text in ("", "[]", "{}", '{"layers": {"type": "HMRConfig"}, "tokens": null}'):
        path.write_text(text)
        with pytest.raises(InputError, match="not a plan"):
            MergePlan.read(path)


def test_command(tmp_path, capsys, model, records, monkeypatch):
    from fasthmr.acceleration.accelerate import save_merged

    monkeypatch.setattr("fasthmr.acceleration.accelerate.THROUGHPUT_BATCHES", (1,))
    assert main(["accelerate", "--help"]) == 0
    assert "--max-error-mm" in capsys.readouterr().out
    weights = tmp_path / "small.safetensors"
    save_merged(model, weights)
    plan = tmp_path / "plan.json"
    MergePlan(tokens=TokenMergePlan(counts=(10,))).write(plan)
    out = tmp_path / "out"
    arguments = ["accelerate", str(weights), "--data", str(records), "--plan", str(plan), "--masks", "true"]
    assert main([*arguments, "--heal-steps", "1", "--out", str(out), "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["tokens"] == [48, 38]
    assert (out / "model.safetensors").is_file()
    assert main(["accelerate", str(weights), "--data", str(tmp_path / "none")]) == 3
    assert "no such folder" in capsys.readouterr().err
    assert main(["accelerate", str(weights), "--data", str(records), "--max-error-mm", "0"]) == 2
