"""Report `adaptive_tokens`: as many tokens of every picture, against as many as each one needs."""

from __future__ import annotations

import logging
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor, nn

from fasthmr.acceleration.document import Document
from fasthmr.acceleration.frames import Frames, record_frames
from fasthmr.acceleration.judge import BATCH, Change, predict_joints
from fasthmr.acceleration.parts import ModelParts
from fasthmr.acceleration.report import change_text
from fasthmr.errors import UsageError
from fasthmr.evaluation.metrics import mpjpe_mm
from fasthmr.evaluation.timing import Timing, summarise, time_in_turns
from fasthmr.models.reduced import ReducedEncoder, with_budget
from fasthmr.reduction.adaptive import TokenBudget, run_adaptive
from fasthmr.runtime.loading import load_model

_LOG = logging.getLogger(__name__)


@dataclass(frozen=True, kw_only=True)
class AdaptiveReportConfig:
    """What to measure.

    Attributes:
        model: Preset or weight file of a merged model.
        original: Preset or weight file of the model it was made from.
        test: Rendered records.
        deeper: Tokens that may merge in one more block for the row that spends less on small people.
        batch: Crops at once in timings.
    """

    test: Path
    model: str = "fasthmr_m_fast"
    original: str = "fasthmr_m"
    out: Path = Path("docs/reports/adaptive_tokens.md")
    test_people: int = 2048
    spare: int = 16
    deeper: int = 24
    batch: int = 32
    time_s: float = 20.0
    seed: int = 0


@dataclass(frozen=True, kw_only=True)
class _Row:
    """One way to spend tokens on the test people."""

    name: str
    model: nn.Module
    kept: Int[Tensor, "people"]
    lost: Float[Tensor, "people"]
    errors: Float[Tensor, "people"]


def report(config: AdaptiveReportConfig) -> None:
    """Measure and write the report.

    Raises:
        UsageError: The model merges no tokens around a person.
    """
    model: Any = load_model(config.model, "mesh").eval()
    encoder = model.encoder
    if not isinstance(encoder, ReducedEncoder) or encoder.config.tokens is None:
        raise UsageError(f"{config.model}: no tokens merge in this model; 'fasthmr accelerate' makes one")
    counts = encoder.config.tokens.counts
    parts = ModelParts.of(load_model(config.original, "mesh").eval())
    test = record_frames(config.test, parts, masks="true", limit=config.test_people, seed=config.seed)
    assert test.joints is not None
    least = parts.tokens - sum(counts)
    more = (*counts, min(config.deeper, least // 2))
    fewer = parts.tokens - sum(more)
    ways: dict[str, nn.Module] = {
        f"{least} tokens of every picture": model,
        f"person + {config.spare}, at least {least}": with_budget(
            model, TokenBudget(spare=config.spare, least=least)
        ),
        f"person + {config.spare}, at least {fewer}": with_budget(
            model, TokenBudget(spare=config.spare, least=fewer), counts=more
        ),
    }
    rows = [_row(name, way, parts, test) for name, way in ways.items()]
    patches = torch.cat([_start(model, some)[1].sum(1) for some in test.batches(BATCH)])
    _write(config, parts, test, rows, patches > least, least, _times(config, rows, test))


def _row(name: str, model: nn.Module, parts: ModelParts, test: Frames) -> _Row:
    assert test.joints is not None
    joints = predict_joints(parts, test, model)
    kept, lost = zip(*(_spent(model, some) for some in test.batches(BATCH)), strict=True)
    _LOG.info("%s: done", name)
    return _Row(
        name=name,
        model=model,
        kept=torch.cat(kept),
        lost=torch.cat(lost),
        errors=mpjpe_mm(joints, test.joints),
    )


def _inputs(model: Any, some: Frames) -> tuple[Tensor, ...]:
    if model.encoder.takes_mask and some.masks is not None:
        return some.pictures, some.masks
    return (some.pictures,)


@torch.no_grad()
def _start(model: Any, some: Frames) -> tuple[Any, Bool[Tensor, "people patches"]]:
    _, state, person = model.encoder.start(*_inputs(model, some))
    assert person is not None
    return state, person


@torch.no_grad()
def _spent(model: Any, some: Frames) -> tuple[Int[Tensor, "people"], Float[Tensor, "people"]]:
    """Tokens left of each picture, and the share of the person's patches that merged with another patch."""
    encoder: ReducedEncoder = model.encoder
    state, person = _start(model, some)
    config = encoder.config
    if config.budget is None:
        _, state = encoder.merge(*_inputs(model, some))
    else:
        assert config.tokens is not None
        blocks = encoder.inner.blocks[encoder.first_merge :]
        state = run_adaptive(
            blocks, state, person, config.budget(person), config.tokens, first=encoder.first_merge
        )
    merged = state.size.gather(1, state.group) > 1
    lost = (merged & person).sum(1) / person.sum(1).clamp(min=1)
    return (state.size > 0).sum(1), lost


def _times(config: AdaptiveReportConfig, rows: list[_Row], test: Frames) -> list[Timing]:
    """Every row on one batch, then the last row on the same pictures one by one."""
    some = test.rows(slice(config.batch))

    def run(model: Any, pieces: list[Frames]) -> Callable[[], None]:
        given = [_inputs(model, piece) for piece in pieces]

        @torch.inference_mode()
        def once() -> None:
            for inputs in given:
                model.head(model.encoder(*inputs))

        return once

    singles = [some.rows(slice(i, i + 1)) for i in range(len(some))]
    runs = [run(row.model, [some]) for row in rows] + [run(row.model, singles) for row in rows[1:]]
    return summarise(time_in_turns(runs, seconds=config.time_s))


def _write(
    config: AdaptiveReportConfig,
    parts: ModelParts,
    test: Frames,
    rows: list[_Row],
    crowded: Bool[Tensor, "people"],
    least: int,
    times: list[Timing],
) -> None:
    page = Document(title="Adaptive token counts: every picture keeps what it needs")
    page.text(
        f"`fasthmr report adaptive_tokens` on `{config.model}` ({parts.depth} blocks, {parts.tokens} "
        f"tokens before merging). Judged on {test.describe()}. In {int(crowded.sum())} of them the person "
        f"covers more than {least} patches (below: filled crops), so that a fixed number merges patches of "
        "the person."
    )
    head = [
        "tokens",
        "mean",
        "least",
        "most",
        "person patches merged %",
        "MPJPE",
        "change",
        "filled crops",
        "change",
    ]
    lines = []
    first = rows[0].errors
    for row in rows:
        inside, before = row.errors[crowded], first[crowded]
        lines.append(
            [
                row.name,
                f"{float(row.kept.float().mean()):.1f}",
                str(int(row.kept.min())),
                str(int(row.kept.max())),
                f"{100 * float(row.lost.mean()):.2f}",
                f"{float(row.errors.mean()):.2f}",
                change_text(Change.of(row.errors, first)),
                f"{float(inside.mean()):.2f}" if len(inside) else "-",
                change_text(Change.of(inside, before)) if len(inside) > 1 else "-",
            ]
        )
    page.table(head, lines)
    page.heading("Speed")
    page.text(
        f"{config.batch} crops in one batch, and one by one, which the paper gave adaptive counts up for; in "
        f"turns, {torch.get_num_threads()} threads, eager single precision."
    )
    names = [f"{row.name}, one batch" for row in rows] + [f"{row.name}, one by one" for row in rows[1:]]
    page.table(
        ["", "crops/s", "speed over the first line (95 % interval)"],
        [
            [
                name,
                f"{config.batch / timing.median_s:.1f}",
                f"{timing.speedup:.2f} ({timing.interval[0]:.2f} to {timing.interval[1]:.2f})",
            ]
            for name, timing in zip(names, times, strict=True)
        ],
    )
    page.write(config.out.parent, config.out.stem, page=False)
    _LOG.info("%s written", config.out)
