"""Speed of the exact selective scans against their plain forms, and how equal they are.

Run: python scripts/measure_scans.py [--rounds N]

One processor thread, single precision, batch 1. Both forms take turns; printed are medians of the processor
time in milliseconds, so that other work on the machine disturbs little. "in place" of the scan alone has its
inputs token by token in memory, as a network has them; "copied" channel by channel, as the plain form reads
them fastest.
"""

from __future__ import annotations

import argparse
import time
from collections.abc import Callable
from statistics import median

import torch
from torch import Tensor

from fasthmr.layers.scan import selective_scan, selective_scan_reference
from fasthmr.layers.ss2d import DIRECTIONS, SS2D

SCANS = ((384, 3072), (768, 768), (1536, 192), (3072, 48), (768, 3072))
"""Channels of all four directions, and tokens."""

BLOCKS = tuple((ratio, 96 * 2**i, 64 // 2**i, 48 // 2**i) for ratio in (1, 2) for i in range(4))
"""Ratio, channels, rows and columns of the stages of VMamba-T at 256 x 192."""

FAST_PER_PLAIN = 5
"""Runs of each fast form in the time of one of the plain form."""


def measure(plain: Callable[[], Tensor], *fast: Callable[[], Tensor], rounds: int) -> str:
    """Medians, ratios and the largest difference."""
    expected = plain()
    error = max(float((form() - expected).abs().max()) for form in fast)
    times: list[list[float]] = [[] for _ in range(1 + len(fast))]
    for _ in range(rounds):
        times[0].append(spent(plain))
        for _ in range(FAST_PER_PLAIN):
            for form, record in zip(fast, times[1:], strict=True):
                record.append(spent(form))
    slow, *quick = (median(record) for record in times)
    ratios = "".join(f"{t:10.2f} {slow / t:6.1f}x" for t in quick)
    return f"{slow:10.1f}{ratios}   max error {error:.1e}"


def spent(form: Callable[[], Tensor]) -> float:
    start = time.process_time()
    form()
    return 1e3 * (time.process_time() - start)


def scan_arguments(channels: int, tokens: int) -> list[Tensor]:
    """u, delta, A, B, C, D and bias with step sizes and decays as trained networks have them."""
    weights = [torch.randn(1, DIRECTIONS, 1, tokens) for _ in range(2)]
    return [
        torch.randn(1, channels, tokens),
        torch.randn(1, channels, tokens),
        -torch.rand(channels, 1) - 0.1,
        *weights,
        torch.randn(channels),
        torch.randn(channels) - 2,
    ]


@torch.inference_mode()
def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--rounds", type=int, default=7, help="runs of each plain form")
    rounds = parser.parse_args().rounds
    torch.set_num_threads(1)
    torch.manual_seed(0)
    print(f"{'selective scan':24}{'plain':>10}{'in place':>10} {'':7}{'copied':>10}")
    for channels, tokens in SCANS:
        given = scan_arguments(channels, tokens)
        by_token = [x.mT.contiguous().mT for x in given[:2]] + given[2:]
        line = measure(
            lambda given=given: selective_scan_reference(*given),
            lambda given=by_token: selective_scan(*given),
            lambda given=given: selective_scan(*given),
            rounds=rounds,
        )
        print(f"{f'{channels} x {tokens}':24}{line}")
    print(f"\n{'block':24}{'plain':>10}{'in place':>10}")
    for ratio, dim, rows, columns in BLOCKS:
        block, x = SS2D(dim, ratio=ratio).eval(), torch.randn(1, rows, columns, dim)
        line = measure(
            lambda block=block, x=x: block.plain(x), lambda block=block, x=x: block(x), rounds=rounds
        )
        print(f"{f'ratio {ratio}, {dim} at {rows} x {columns}':24}{line}")


if __name__ == "__main__":
    main()
