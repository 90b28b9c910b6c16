"""Speed of the exact selective scans against their plain forms, and how equal they are.

Run: python scripts/measure_scans.py [--device cuda] [--batch N] [--rounds N]

Single precision. The forms take turns; printed are medians in milliseconds.

On a processor that is the time of one thread, so that other work on the machine disturbs little. "in place"
of the scan alone has its inputs token by token in memory, as networks have them; "copied" channel by
channel, as the plain form reads them fastest. On a GPU it is the time on the clock until the GPU is done,
inputs token by token; "torch" is the form without a kernel of its own, "Triton" the one with.
"""

from __future__ import annotations

import argparse
import os
import time
from collections.abc import Callable
from functools import partial
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


Form = Callable[[], Tensor]


def measure(plain: Form, *fast: Form, rounds: int, clock: Callable[[], float]) -> str:
    """Medians, ratios and the largest difference."""
    expected = plain()
    error = max(float((form() - expected).abs().max()) for form in fast)
    times: list[list[float]] = [[] for _ in range(1 + len(fast))]
    for _ in range(rounds):
        times[0].append(spent(plain, clock))
        for _ in range(FAST_PER_PLAIN):
            for form, record in zip(fast, times[1:], strict=True):
                record.append(spent(form, clock))
    slow, *quick = (median(record) for record in times)
    ratios = "".join(f"{t:10.2f} {slow / t:6.1f}x" for t in quick)
    return f"{slow:10.1f}{ratios}   max error {error:.1e}"


def spent(form: Form, clock: Callable[[], float]) -> float:
    start = clock()
    form()
    return 1e3 * (clock() - start)


def until_done() -> float:
    """The time in seconds once a GPU has done what it was given."""
    torch.cuda.synchronize()
    return time.perf_counter()


def chosen(choice: str, form: Form) -> Tensor:
    """What a form gives where FASTHMR_SCAN says so."""
    os.environ["FASTHMR_SCAN"] = choice
    return form()


def scan_arguments(batch: int, channels: int, tokens: int) -> list[Tensor]:
    """u, delta, A, B, C, D and bias with step sizes and decays as trained networks have them."""
    weights = [torch.randn(batch, DIRECTIONS, 1, tokens) for _ in range(2)]
    return [
        torch.randn(batch, channels, tokens),
        torch.randn(batch, channels, tokens),
        -torch.rand(channels, 1) - 0.1,
        *weights,
        torch.randn(channels),
        torch.randn(channels) - 2,
    ]


@torch.inference_mode()
def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--device", choices=("cpu", "cuda"), default="cpu")
    parser.add_argument("--batch", type=int, default=1)
    parser.add_argument("--rounds", type=int, default=7, help="runs of each plain form")
    options = parser.parse_args()
    gpu = options.device == "cuda"
    run = partial(measure, rounds=options.rounds, clock=until_done if gpu else time.process_time)
    names = "torch", "Triton"
    torch.set_num_threads(1)
    torch.manual_seed(0)
    columns = names if gpu else ("in place", "copied")
    print(f"{'selective scan':24}{'plain':>10}{columns[0]:>10} {'':7}{columns[1]:>10}")
    for channels, tokens in SCANS:
        given = [x.to(options.device) for x in scan_arguments(options.batch, channels, tokens)]
        by_token = [x.mT.contiguous().mT for x in given[:2]] + given[2:]
        plain, form, copied = (
            partial(selective_scan_reference, *given),
            partial(selective_scan, *by_token),
            partial(selective_scan, *given),
        )
        fast = (partial(chosen, name.lower(), form) for name in names) if gpu else (form, copied)
        print(f"{f'{channels} x {tokens}':24}{run(plain, *fast)}")
    columns = names if gpu else ("in place",)
    print(f"\n{'block':24}{'plain':>10}" + f"{'':8}".join(f"{name:>10}" for name in columns))
    for ratio, dim, rows, width in BLOCKS:
        block = SS2D(dim, ratio=ratio).eval().to(options.device)
        x = torch.randn(options.batch, rows, width, dim, device=options.device)
        form = partial(block, x)
        fast = (partial(chosen, name.lower(), form) for name in names) if gpu else (form,)
        print(f"{f'ratio {ratio}, {dim} at {rows} x {width}':24}{run(partial(block.plain, x), *fast)}")


if __name__ == "__main__":
    main()
