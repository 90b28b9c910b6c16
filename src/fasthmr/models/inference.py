"""Models made ready to be used, and no longer to be trained or saved."""

from __future__ import annotations

from typing import TypeVar

from torch import nn

from fasthmr.encoders.efficientnet import EfficientNet
from fasthmr.encoders.groupmixformer import GroupMixFormer
from fasthmr.encoders.hrnet import HRNet
from fasthmr.encoders.resnet import ResNet
from fasthmr.layers.folding import fold_batch_norms
from fasthmr.layers.group_mix import GroupMixAttention, PositionConv

Network = TypeVar("Network", bound=nn.Module)

TRUNKS = (EfficientNet, GroupMixFormer, HRNet, ResNet)
"""Encoders with batch norms, nearly all of which follow a convolution."""


def ready_for_inference(model: Network) -> Network:
    """The model itself, its trunks without batch norms and with channels last (`docs/design/023`).

    Equal to 1e-5. Weights no longer have the names and numbers of their file.
    """
    for module in model.modules():
        if isinstance(module, TRUNKS):
            fold_batch_norms(module, channels_last=True, in_place=True)
        elif isinstance(module, GroupMixAttention | PositionConv):
            module.fold()
    return model.eval()
