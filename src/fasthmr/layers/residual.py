"""Residual blocks of ResNet (arXiv 1512.03385, fig. 5) under the key names of the published networks."""

from __future__ import annotations

import torch
from jaxtyping import Float
from torch import Tensor, nn


def conv_norm(
    in_channels: int, channels: int, *, kernel: int = 3, stride: int = 1
) -> tuple[nn.Conv2d, nn.BatchNorm2d]:
    """A convolution that keeps the size up to its stride, without bias, and its batch norm."""
    padding = kernel // 2
    conv = nn.Conv2d(in_channels, channels, kernel, stride, padding, bias=False)
    return conv, nn.BatchNorm2d(channels)


def _downsample(in_channels: int, channels: int, stride: int) -> nn.Module:
    """The residual path: nothing to do when the shapes agree."""
    if stride == 1 and in_channels == channels:
        return nn.Identity()
    return nn.Sequential(*conv_norm(in_channels, channels, kernel=1, stride=stride))


class BasicBlock(nn.Module):
    """Two 3x3 convolutions."""

    def __init__(self, in_channels: int, channels: int, stride: int = 1) -> None:
        super().__init__()
        self.conv1, self.bn1 = conv_norm(in_channels, channels, stride=stride)
        self.conv2, self.bn2 = conv_norm(channels, channels)
        self.downsample = _downsample(in_channels, channels, stride)

    def forward(
        self, x: Float[Tensor, "batch in_channels rows columns"]
    ) -> Float[Tensor, "batch channels new_rows new_columns"]:
        y = torch.relu(self.bn1(self.conv1(x)))
        return torch.relu(self.bn2(self.conv2(y)) + self.downsample(x))


class Bottleneck(nn.Module):
    """Three convolutions, the outer ones 1x1, from and to four times as many channels; stride on the 3x3."""

    expansion = 4

    def __init__(self, in_channels: int, channels: int, stride: int = 1) -> None:
        super().__init__()
        out_channels = self.expansion * channels
        self.conv1, self.bn1 = conv_norm(in_channels, channels, kernel=1)
        self.conv2, self.bn2 = conv_norm(channels, channels, stride=stride)
        self.conv3, self.bn3 = conv_norm(channels, out_channels, kernel=1)
        self.downsample = _downsample(in_channels, out_channels, stride)

    def forward(
        self, x: Float[Tensor, "batch in_channels rows columns"]
    ) -> Float[Tensor, "batch out_channels new_rows new_columns"]:
        y = torch.relu(self.bn1(self.conv1(x)))
        y = torch.relu(self.bn2(self.conv2(y)))
        return torch.relu(self.bn3(self.conv3(y)) + self.downsample(x))
