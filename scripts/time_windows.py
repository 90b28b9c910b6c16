"""Swin with windows gathered from projected tokens against the plain published form: `swin_t_s3 swin_b_s4`.

CPU time of one thread, best of some runs in turns.
"""

from __future__ import annotations

import argparse
import copy
import time

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from fasthmr.encoders.registry import encoder_config
from fasthmr.layers.window import WindowAttention, WindowLayout


class PlainWindows(nn.Module):
    """Pad, roll, cut, project every place, attend, project, put back, roll back, crop."""

    def __init__(self, attention: WindowAttention) -> None:
        super().__init__()
        self.attention = attention

    def forward(self, x: Tensor, layout: WindowLayout) -> Tensor:
        a, w, (rows, columns), (batch, _, dim) = self.attention, layout.window, layout.size, x.shape
        shift, heads, area = layout.shift, self.attention.heads, layout.window**2
        x = F.pad(x.unflatten(1, layout.size), (0, 0, 0, -columns % w, 0, -rows % w))
        height, width = x.shape[1:3]
        x = x.roll((-shift, -shift), (1, 2)) if shift else x
        cut = x.view(batch, height // w, w, width // w, w, dim).transpose(2, 3).reshape(-1, area, dim)
        q, k, v = a.qkv(cut).view(-1, area, 3, heads, dim // heads).permute(2, 0, 3, 1, 4)
        table = a.relative_position_bias_table[layout.relative.flatten()]
        scores = (q * (dim // heads) ** -0.5) @ k.mT + table.view(area, area, heads).permute(2, 0, 1)
        if layout.apart is not None:
            scores = (scores.unflatten(0, (batch, -1)) + layout.apart[:, None]).flatten(0, 1)
        mixed = a.proj((scores.softmax(-1) @ v).transpose(1, 2).flatten(2))
        mixed = mixed.view(batch, height // w, width // w, w, w, dim).transpose(2, 3)
        mixed = mixed.reshape(batch, height, width, dim)
        mixed = mixed.roll((shift, shift), (1, 2)) if shift else mixed
        return mixed[:, :rows, :columns].flatten(1, 2)


def plain_form(net: nn.Module) -> nn.Module:
    """A copy of an encoder with plain windows."""
    plain = copy.deepcopy(net)
    for module in list(plain.modules()):
        for name, part in list(module.named_children()):
            if isinstance(part, WindowAttention):
                setattr(module, name, PlainWindows(part))
    return plain


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("encoders", nargs="+")
    parser.add_argument("--runs", type=int, default=8)
    parser.add_argument("--batches", type=int, nargs="+", default=[1, 4])
    options = parser.parse_args()
    torch.set_num_threads(1)
    torch.manual_seed(0)
    for name in options.encoders:
        net = encoder_config(name).build().eval()
        forms = (plain_form(net), net)
        for batch in options.batches:
            pictures = torch.randn(batch, 3, *net.config.image_size)
            best = [float("inf")] * len(forms)
            with torch.inference_mode():
                maps = [form(pictures)[-1] for form in forms]
                for _ in range(options.runs):
                    for i, form in enumerate(forms):
                        start = time.process_time()
                        form(pictures)
                        best[i] = min(best[i], 1e3 * (time.process_time() - start))
            print(
                f"{name} batch {batch}: plain {best[0]:.0f} ms, ours {best[1]:.0f} ms, "
                f"{best[0] / best[1]:.2f}x, maps differ by {(maps[0] - maps[1]).abs().max():.1e}"
            )


if __name__ == "__main__":
    main()
