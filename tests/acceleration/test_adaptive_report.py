from __future__ import annotations

import pytest

from fasthmr.acceleration.accelerate import save_merged
from fasthmr.acceleration.adaptive_report import AdaptiveReportConfig, report
from fasthmr.errors import UsageError
from fasthmr.models.reduced import reduce_model
from fasthmr.reduction.tome_schedule import TokenMergePlan


def test_the_report_compares_fixed_and_adaptive_counts(model, records, tmp_path):
    whole, merged = tmp_path / "whole.safetensors", tmp_path / "merged.safetensors"
    save_merged(model, whole)
    save_merged(reduce_model(model, tokens=TokenMergePlan(counts=(10, 8))), merged)
    config = AdaptiveReportConfig(
        model=str(merged),
        original=str(whole),
        test=records,
        out=tmp_path / "docs" / "adaptive.md",
        spare=2,
        deeper=6,
        batch=4,
        time_s=0.01,
    )
    report(config)
    rows = [line for line in config.out.read_text().splitlines() if line.startswith("| ")]
    fixed, kept, deeper = (line.split(" | ") for line in rows[2:5])
    assert fixed[2] == fixed[3]
    assert int(kept[2]) >= int(fixed[2]) and float(kept[4]) == 0 == float(deeper[4])
    assert sum("one by one" in line for line in rows) == 2


def test_a_model_without_merged_tokens_has_no_counts(model, records, tmp_path):
    whole = tmp_path / "whole.safetensors"
    save_merged(model, whole)
    with pytest.raises(UsageError, match="no tokens merge in this model"):
        report(AdaptiveReportConfig(model=str(whole), test=records, out=tmp_path / "adaptive.md"))
