from __future__ import annotations

from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest
import torch

from fasthmr.acceleration.candidates import SearchOptions
from fasthmr.acceleration.frames import Frames, load_frames
from fasthmr.acceleration.judge import Judge
from fasthmr.acceleration.parts import ModelParts
from fasthmr.acceleration.search import joint_search, merged_model
from fasthmr.evaluation.metrics import pa_mpjpe_mm
from fasthmr.reduction.self_mask import SelfMaskConfig

QUICK: dict[str, Any] = {"per_block": 10, "measure": False}


@pytest.fixture(scope="module", params=["model", "hmr", "camera_hmr"])
def parts(request) -> ModelParts:
    return ModelParts.of(request.getfixturevalue(request.param))


def frames_of(parts: ModelParts, records: Path, **options) -> Frames:
    return load_frames(records, parts, limit=36, **options)


def test_errors_of_the_search_are_those_of_the_merged_model(parts, records):
    judge = Judge(parts, frames_of(parts, records))
    options = SearchOptions(thresholds_mm=(0.1, 1e4), keep=(48, 30), **QUICK)
    found = joint_search(judge, options)
    assert len(found.candidates) == 5
    for candidate in found.candidates[1:]:
        error = judge.errors(merged_model(judge, candidate))
        torch.testing.assert_close(error, candidate.errors, rtol=1e-3, atol=1e-2)
        assert candidate.rise.mean == pytest.approx(float((error - judge.before).mean()), abs=1e-2)
    assert found.candidates[-1].depth == 1  # everything merges where anything is allowed


def test_without_labels_the_unmerged_model_is_the_judge(parts, records):
    frames = frames_of(parts, records)
    labelled, teacher = Judge(parts, frames), Judge(parts, frames, teacher=True)
    assert teacher.before.max() == 0 and labelled.before.min() > 0
    found = joint_search(teacher, SearchOptions(max_error_mm=30.0, keep=(40,), **QUICK))
    model = merged_model(teacher, found.chosen)
    rise, distance = labelled.errors(model) - labelled.before, teacher.errors(model)
    assert (rise.abs() <= distance + 1e-3).all()  # the certificate
    assert Judge(parts, frames, metric=pa_mpjpe_mm).before.mean() < labelled.before.mean()


def test_an_allowed_error_bounds_all_merges_together(model, records):
    parts = ModelParts.of(model)
    judge = Judge(parts, frames_of(parts, records), teacher=True)
    for allowed in (0.5, 3.0):
        found = joint_search(judge, SearchOptions(max_error_mm=allowed, keep=(48, 30), **QUICK))
        assert found.chosen.rise.mean < allowed
    nothing = joint_search(judge, SearchOptions(max_error_mm=1e-6, keep=(30,), **QUICK))
    assert not nothing.met and nothing.chosen.layers is None and nothing.chosen.tokens is None


def test_the_front_holds_what_nothing_beats(model, records):
    parts = ModelParts.of(model)
    judge = Judge(parts, frames_of(parts, records))
    found = joint_search(
        judge, SearchOptions(thresholds_mm=(20.0,), keep=(48, 40, 30), per_block=10, time_s=0.01)
    )
    assert {candidate.speed is None for candidate in found.front[1:]} <= {False}
    for before, after in pairwise(found.front):
        assert before.rise.mean <= after.rise.mean and before.gain < after.gain
    counted = joint_search(
        judge, SearchOptions(thresholds_mm=(20.0,), target_speedup=1.2, keep=(48, 30), **QUICK)
    )
    assert counted.met and counted.chosen.gain >= 1.2
    assert all(c.gain < 1.2 for c in counted.front if c.rise.mean < counted.chosen.rise.mean)
    unreachable = joint_search(
        judge, SearchOptions(thresholds_mm=(20.0,), keep=(30,), target_speedup=1000.0, **QUICK)
    )
    assert not unreachable.met


def test_a_stopped_search_goes_on(model, records, tmp_path):
    parts = ModelParts.of(model)
    judge = Judge(parts, frames_of(parts, records))
    options = SearchOptions(thresholds_mm=(1.0,), keep=(48, 30), **QUICK)
    whole = joint_search(judge, options)

    def stop(stage: str, done: int, total: int) -> None:
        if done == 8:  # in the second search
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        joint_search(judge, options, state_dir=tmp_path, progress=stop)
    files = sorted(tmp_path.glob("*/*.json"))
    assert [file.name for file in files] == ["00.json", "01.json"]
    steps: list[int] = []
    again = joint_search(
        judge, options, state_dir=tmp_path, progress=lambda stage, done, total: steps.append(done)
    )
    assert len(steps) < 12
    assert [c.key for c in again.candidates] == [c.key for c in whole.candidates]
    other = Judge(parts, judge.frames.rows(slice(20)))
    joint_search(other, options, state_dir=tmp_path)  # other pictures make another log
    assert len(list(tmp_path.glob("*/*.json"))) == 4


@pytest.mark.parametrize("after", [0, 1])
def test_search_with_a_self_mask(model, records, after):
    parts = ModelParts.of(model)
    torch.manual_seed(0)
    head = SelfMaskConfig(dim=16, after=after).build().eval()
    judge = Judge(parts, frames_of(parts, records, masks="none"))
    options = SearchOptions(thresholds_mm=(1.0,), keep=(30,), **QUICK)
    found = joint_search(judge, options, self_mask=head)
    candidate = found.candidates[-1]
    merged = merged_model(judge, candidate, head)
    assert not merged.takes_mask
    torch.testing.assert_close(judge.errors(merged), candidate.errors, rtol=1e-3, atol=1e-2)


def test_schedules():
    plans = SearchOptions().token_plans(192, 12)
    kept = [192 - sum(plan.counts) if plan else 192 for plan in plans]
    assert kept == [192, 144, 112, 90, 72]
    assert plans[3].counts == (40, 40, 22)
    assert SearchOptions(keep=(150,)).token_plans(192, 12, first=2)[0].counts == (0, 0, 40, 2)
    assert SearchOptions(keep=(150,), guided=False).token_plans(192, 12)[0].guided is False
