"""Batch norms folded into the convolutions in front of them, for inference."""

from __future__ import annotations

import copy
from itertools import pairwise

import torch
from torch import nn
from torch.nn.utils.fusion import fuse_conv_bn_eval


def fold_batch_norms(model: nn.Module, *, channels_last: bool = False, in_place: bool = False) -> nn.Module:
    """A copy in evaluation mode whose convolutions do the work of the batch norms behind them; exact.

    Which convolution a batch norm belongs to is told by the order of parts: it directly follows it among the
    children of a module. Where it does not, the module names both in `batch_norm_pairs`. Other batch norms
    stay.

    Args:
        channels_last: Also store the weights of convolutions so that channels lie side by side in memory,
            which CPUs and tensor cores read faster; pictures may come in either order.
        in_place: Change the model itself and save the memory for a copy.
    """
    folded = (model if in_place else copy.deepcopy(model)).eval()
    with torch.no_grad():
        for module in list(folded.modules()):
            for name, follower in (*pairwise(dict(module.named_children())), *_named_pairs(module)):
                conv, norm = module.get_submodule(name), module.get_submodule(follower)
                if (
                    isinstance(conv, nn.Conv2d)
                    and isinstance(norm, nn.BatchNorm2d)
                    and norm.num_features == conv.out_channels
                ):
                    module.set_submodule(name, fuse_conv_bn_eval(conv, norm))
                    module.set_submodule(follower, nn.Identity())
        if channels_last:
            for module in folded.modules():
                if isinstance(module, nn.Conv2d):
                    module.weight.data = module.weight.data.contiguous(memory_format=torch.channels_last)
    return folded.requires_grad_(False)


def _named_pairs(module: nn.Module) -> tuple[tuple[str, str], ...]:
    """Convolutions and their batch norms that a module names itself."""
    return getattr(module, "batch_norm_pairs", ())
