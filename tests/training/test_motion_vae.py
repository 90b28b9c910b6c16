from __future__ import annotations

import logging
from dataclasses import replace

import pytest
import torch

from fasthmr.body.default_body import load_default_body
from fasthmr.errors import UsageError
from fasthmr.models.motion_prior import MotionPrior
from fasthmr.training.loop import LoopConfig
from fasthmr.training.motion_vae import MotionVAETraining, train
from fasthmr.zoo import load_model

TINY = {"width": 48, "layers": 1, "mlp_dim": 16, "batch_size": 2, "fit_windows": 6, "judged_windows": 2}


def tiny(out, steps: int = 4, **more) -> MotionVAETraining:
    loop = LoopConfig(steps=steps, learning_rate=1e-4, checkpoint_every=2, report_every=2)
    return MotionVAETraining(out=out, loop=loop, **{**TINY, **more})


def test_recipe_writes_a_prior_that_loads(tmp_path, caplog):
    caplog.set_level(logging.INFO)
    path = train(tiny(tmp_path))
    prior = load_model(path)
    assert isinstance(prior, MotionPrior)
    assert torch.allclose(prior.rest_template[:24], load_default_body().J_template, atol=1e-3)
    assert "unseen subjects MPJPE" in caplog.text
    clip = torch.zeros(1, 243, 133)
    rebuilt, latent = prior(clip)
    assert rebuilt.shape == clip.shape and latent.mean.shape == (1, 27, 48)


def test_stopped_run_continues_as_if_it_had_not(tmp_path, monkeypatch):
    whole = load_model(train(tiny(tmp_path / "whole"))).state_dict()

    import fasthmr.training.loop as loop

    saved = torch.save

    def save_and_stop(state, path):
        saved(state, path)
        stop.append(path)

    stop: list = []
    monkeypatch.setattr(loop.torch, "save", save_and_stop)
    real = loop.follow_average

    def stopping(average, model, decay):
        if stop:
            raise KeyboardInterrupt
        real(average, model, decay)

    monkeypatch.setattr(loop, "follow_average", stopping)
    with pytest.raises(KeyboardInterrupt):
        train(tiny(tmp_path / "parts"))
    monkeypatch.undo()
    parts = load_model(train(tiny(tmp_path / "parts"))).state_dict()
    assert all(torch.equal(whole[key], parts[key]) for key in whole)


def test_checkpoint_of_another_run_is_refused(tmp_path):
    train(tiny(tmp_path))
    with pytest.raises(UsageError, match="other settings"):
        train(tiny(tmp_path, seed=1))


@pytest.mark.parametrize("more", [{"representation": "rotations"}, {"form": "frames"}])
def test_other_forms(tmp_path, more):
    config = tiny(tmp_path, steps=1, **more)
    assert isinstance(load_model(train(replace(config, fit_windows=12))), MotionPrior)


def test_rate_rises_and_falls():
    loop = LoopConfig(steps=100, learning_rate=1.0)
    rates = [loop.rate(step) for step in range(100)]
    assert max(rates) == pytest.approx(1.0) and rates.index(max(rates)) in (14, 15)
    assert rates[0] < 0.2 and rates[-1] < 0.01
    with pytest.raises(UsageError, match="positive"):
        LoopConfig(steps=0, learning_rate=1.0)
