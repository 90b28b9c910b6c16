"""Models made ready to be used, and no longer to be trained or saved."""

from __future__ import annotations

from torch import nn

from fasthmr.encoders.efficientnet import EfficientNet
from fasthmr.encoders.hrnet import HRNet
from fasthmr.encoders.resnet import ResNet
from fasthmr.layers.folding import fold_batch_norms

TRUNKS = (EfficientNet, HRNet, ResNet)
"""Convolutional encoders, in which every batch norm follows its convolution."""


def ready_for_inference(model: nn.Module) -> nn.Module:
    """The model itself, its trunks without batch norms and with channels last (`docs/design/023`).

    Equal to 1e-5. Weights no longer have the names and numbers of their file.
    """
    for module in model.modules():
        if isinstance(module, TRUNKS):
            fold_batch_norms(module, channels_last=True, in_place=True)
    return model.eval()
