from __future__ import annotations

import json

import pytest
import torch
from torch import nn

from fasthmr.body.default_body import load_default_body
from fasthmr.checkpoints.config_json import config_to_json
from fasthmr.checkpoints.files import save_weights
from fasthmr.errors import UsageError
from fasthmr.io.images import read_image
from fasthmr.models.motion_decoder import MotionDecoderConfig
from fasthmr.models.motion_prior import MotionPriorConfig
from fasthmr.temporal.patch_denoiser import PatchDenoiserConfig
from fasthmr.temporal.patch_vae import PatchVAEConfig
from fasthmr.training import motion_report
from fasthmr.training.clip_features import PairedClip
from fasthmr.training.motion_report import MotionReportConfig, report


@pytest.fixture
def decoder_file(tmp_path, motion_track):
    torch.manual_seed(0)
    vae = PatchVAEConfig(latents=4, max_tokens=4, width=16, layers=1, mlp_dim=8)
    denoiser = PatchDenoiserConfig(
        latents=4,
        latent_dim=16,
        condition_dim=133 + 14 + 5,
        frame_dim=4,
        width=16,
        layers=1,
        mlp_dim=8,
        max_tokens=5,
    )
    decoder = MotionDecoderConfig(prior=MotionPriorConfig(vae=vae), denoiser=denoiser, features=5).build()
    decoder.prior.take_skeleton(load_default_body())
    params = [motion_track(36, seed=seed).params for seed in range(6)]
    decoder.prior.fit(torch.stack([decoder.prior.representation.encode(one) for one in params]))
    path = tmp_path / "decoder.safetensors"
    save_weights(decoder, path, metadata={"config": config_to_json(decoder.config)})
    return path


def test_report_compares_filters(tmp_path, monkeypatch, motion_track, decoder_file):
    clips = [
        PairedClip(read=motion_track(12, seed=seed, jitter=0.1), true=motion_track(12, seed=seed))
        for seed in range(2)
    ]
    monkeypatch.setattr(motion_report, "_pairs", lambda config, name: clips)
    out = report(
        MotionReportConfig(
            clips=tmp_path,
            features=tmp_path,
            decoder=decoder_file,
            ablations=(decoder_file,),
            unmerged_ablations=(decoder_file,),
            out=tmp_path / "motion.md",
            windows=1,
        )
    )
    text = out.read_text()
    assert "merged + Savitzky-Golay" in text and "merged + decoder" in text and "2 rendered clips" in text
    assert text.count("+ decoder |") == 4 and "| +" in text
    assert read_image(tmp_path / "motion_wrist.png").shape == (320, 900, 3)
    numbers = json.loads(out.with_suffix(".json").read_text())
    assert numbers["merged + One-Euro"]["acceleration"] < numbers["fasthmr_m (unmerged)"]["acceleration"]
    assert numbers["fasthmr_m (unmerged)"] == numbers["fasthmr_m_fast (merged)"]


def test_other_weights_are_refused(tmp_path, monkeypatch):
    monkeypatch.setattr(motion_report, "_pairs", lambda config, name: [])
    monkeypatch.setattr(motion_report, "load_model", lambda path: nn.Linear(1, 1))
    with pytest.raises(UsageError, match="no motion decoder"):
        report(MotionReportConfig(clips=tmp_path, features=tmp_path, decoder=tmp_path / "x"))
