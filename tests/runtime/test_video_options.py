from __future__ import annotations

from pathlib import Path

import pytest

from fasthmr.errors import UsageError
from fasthmr.models.motion_filter import DecoderFilter
from fasthmr.runtime import video_options
from fasthmr.runtime.video_options import VideoOptions
from fasthmr.temporal.smoothing import SavitzkyGolay
from fasthmr.zoo import create_model


def test_decoder_needs_its_weights(monkeypatch):
    monkeypatch.setattr(video_options, "pretrained_file", lambda name: None)
    with pytest.raises(UsageError, match="train diffusion_decoder"):
        VideoOptions(smooth="decoder")


def test_decoder_reads_features(monkeypatch):
    monkeypatch.setattr(video_options, "pretrained_file", lambda name: Path(name))
    monkeypatch.setattr(video_options, "create_model", lambda name, pretrained: create_model(name))
    video_options._decoder.cache_clear()
    options = VideoOptions(smooth="decoder")
    assert options.takes_features
    smooth = options.motion_filter()
    assert isinstance(smooth, DecoderFilter)
    assert options.motion_filter() is smooth
    assert VideoOptions(smooth=smooth).takes_features
    video_options._decoder.cache_clear()


def test_plain_filters_read_no_features():
    assert not VideoOptions().takes_features
    assert not VideoOptions(smooth=SavitzkyGolay()).takes_features


@pytest.mark.parametrize("model", ["fasthmr_m_fast", "fasthmr_m"])
def test_auto_is_the_decoder_for_its_own_image_model(model):
    decoder = VideoOptions(every=2).for_model(model)
    assert decoder == VideoOptions(every=2, smooth="decoder") and decoder.takes_features
    smooth = decoder.motion_filter()
    assert isinstance(smooth, DecoderFilter) and smooth.decoder.lead.linear.weight.abs().sum() > 0
    other = VideoOptions().for_model("hmr2_vit_h")
    assert isinstance(other.motion_filter(), SavitzkyGolay) and not other.takes_features
    assert VideoOptions(smooth="none").for_model("fasthmr_m_fast").motion_filter() is None
