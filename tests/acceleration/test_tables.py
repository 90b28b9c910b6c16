from __future__ import annotations

import pytest
import torch

from fasthmr.acceleration.accelerate import save_merged
from fasthmr.acceleration.tables import AccelerationReportConfig, report
from fasthmr.errors import UsageError
from fasthmr.zoo import load_model


def test_the_report_holds_every_variant(model, records, tmp_path):
    source = tmp_path / "small.safetensors"
    save_merged(model, source)
    config = AccelerationReportConfig(
        data=records,
        test=records,
        model=str(source),
        out=tmp_path / "docs" / "acceleration.md",
        weights=tmp_path / "fast.safetensors",
        target_speedup=1.01,
        keep=(30,),
        thresholds_mm=(20.0,),
        heal_steps=1,
        self_mask_steps=1,
        time_s=0.01,
        seed=1,
    )
    report(config)
    text = config.out.read_text()
    for name in ("layers alone", "plain ToMe), healed", "both, self-mask, healed", "ellipse in the box"):
        assert f"| {name}" in text or f"{name}" in text
    assert text.count("| both, ") == 7
    pictures = sorted(path.name for path in config.out.parent.iterdir())
    assert pictures == ["acceleration.md", "acceleration_cka.png", "acceleration_examples.png"]
    fast = load_model(config.weights)
    assert torch.isfinite(fast(torch.zeros(1, 3, 128, 128)).camera).all()


def test_healing_belongs_to_the_report(records):
    with pytest.raises(UsageError, match="heal_steps"):
        AccelerationReportConfig(data=records, test=records, heal_steps=0)
