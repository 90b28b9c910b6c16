"""Joint search over layer groups and token schedules: error against cost, and the set nothing beats."""

from __future__ import annotations

import hashlib
import logging
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import torch
from torch import nn

from fasthmr.acceleration.candidates import Candidate, SearchOptions, distinct, pareto
from fasthmr.acceleration.judge import Change, Judge
from fasthmr.acceleration.plan import MergePlan
from fasthmr.acceleration.speed import speed_ratio
from fasthmr.benchmark.counters import count
from fasthmr.reduction.eclm import weights_fingerprint
from fasthmr.reduction.eclm_search import SearchResult, select_merges
from fasthmr.reduction.self_mask import SelfMaskHead
from fasthmr.reduction.tome_schedule import TokenMergePlan

_log = logging.getLogger(__name__)

Progress = Callable[[str, int, int], None]
"""Called with the name of a stage, the steps done, and all of its steps."""


def silent(stage: str, done: int, total: int) -> None:
    """The `Progress` of work that nobody watches."""


@dataclass(frozen=True, kw_only=True)
class JointSearch:
    """Everything that was tried.

    Attributes:
        candidates: All of them.
        front: Those that no other beats in both error and time, smallest error first.
        chosen: The one to use.
        met: Whether it keeps to what was asked for.
    """

    candidates: tuple[Candidate, ...]
    front: tuple[Candidate, ...]
    chosen: Candidate
    met: bool


def joint_search(
    judge: Judge,
    options: SearchOptions,
    *,
    self_mask: SelfMaskHead | None = None,
    state_dir: Path | None = None,
    progress: Progress | None = None,
) -> JointSearch:
    """Search layers under every token schedule, measure what is worth it, and choose.

    Layers are searched while tokens merge, so that both damages are counted together.

    Args:
        self_mask: Finds the person in place of the masks of the frames.
        state_dir: Trials are written here; a stopped search goes on from them.

    Raises:
        UsageError: Schedules do not fit the model.
    """
    parts = judge.parts
    first = self_mask.config.after if self_mask else 0
    plans = options.token_plans(parts.tokens, parts.depth, first)
    report = progress or silent
    folder = None if state_dir is None else state_dir / _digest(judge, options, self_mask)
    candidates: list[Candidate] = [_unmerged(judge)]
    searches = [(plan, number) for plan in plans for number in range(_rounds(options))]
    total = len(searches) * parts.depth
    for index, (plan, number) in enumerate(searches):
        threshold = _threshold(judge, options, plan, number, self_mask)
        if threshold is None:
            continue
        stage = f"layers, {parts.tokens if plan is None else parts.tokens - sum(plan.counts)} tokens"
        file = None if folder is None else folder / f"{index:02d}.json"
        result = select_merges(
            parts.model.encoder,
            judge.batches(plan, self_mask),
            judge.error,
            threshold=threshold,
            rules=options.rules,
            token_plan=plan,
            reject_sigmas=4.0,
            state_file=file,
            progress=lambda search, at=index, stage=stage: report(
                stage, at * parts.depth + 1 + len(search.trials), total
            ),
        )
        candidates.append(_candidate(judge, plan, threshold, result, self_mask, candidates[0].macs))
        report(stage, (index + 1) * parts.depth, total)
    worth = pareto(distinct(candidates), lambda candidate: candidate.macs)
    if options.measure:
        worth = _timed(judge, worth, options, self_mask, report)
    front = pareto(worth, lambda candidate: -candidate.gain)
    chosen, met = _choose(front, options)
    return JointSearch(candidates=tuple(candidates), front=tuple(front), chosen=chosen, met=met)


def merged_model(judge: Judge, candidate: Candidate, self_mask: SelfMaskHead | None = None) -> nn.Module:
    """The merged copy of the judge's model that a candidate stands for."""
    return MergePlan(layers=candidate.layers, tokens=candidate.tokens).fit(judge.parts.model, self_mask)


def _rounds(options: SearchOptions) -> int:
    return 1 if options.max_error_mm is not None else len(options.thresholds_mm)


def _threshold(
    judge: Judge,
    options: SearchOptions,
    plan: TokenMergePlan | None,
    number: int,
    self_mask: SelfMaskHead | None,
) -> float | None:
    """Of the layer search over the model with merged tokens; None where tokens use up all that is allowed."""
    if options.max_error_mm is None:
        return options.thresholds_mm[number]
    if plan is None:
        return options.max_error_mm
    model = MergePlan(tokens=plan).fit(judge.parts.model, self_mask)
    left = options.max_error_mm - max(0.0, float((judge.errors(model) - judge.before).mean()))
    return left if left > 0 else None


def _unmerged(judge: Judge) -> Candidate:
    parts = judge.parts
    return Candidate(
        layers=None,
        tokens=None,
        threshold_mm=None,
        errors=judge.before,
        rise=Change(mean=0.0, interval=(0.0, 0.0)),
        macs=count(parts.model).macs,
        macs_ratio=1.0,
        depth=parts.depth,
        kept_tokens=parts.tokens,
    )


def _candidate(
    judge: Judge,
    plan: TokenMergePlan | None,
    threshold: float,
    result: SearchResult,
    self_mask: SelfMaskHead | None,
    base_macs: int,
) -> Candidate:
    parts = judge.parts
    layers = result.plan if result.plan.depth < result.plan.source_depth else None
    if plan is not None:  # blocks that are gone merge no tokens
        plan = replace(plan, counts=plan.counts[: result.plan.depth])
        plan = plan if any(plan.counts) else None
    found = Candidate(
        layers=layers,
        tokens=plan,
        threshold_mm=threshold,
        errors=result.errors,
        rise=Change.of(result.errors, judge.before),
        macs=0,
        macs_ratio=1.0,
        depth=result.plan.depth,
        kept_tokens=parts.tokens - sum(plan.counts if plan else ()),
        trials=result.search.trials,
    )
    if not found.layers and not found.tokens:
        return replace(found, macs=base_macs)
    macs = count(merged_model(judge, found, self_mask), in_place=True).macs
    return replace(found, macs=macs, macs_ratio=base_macs / macs)


def _timed(
    judge: Judge,
    candidates: Sequence[Candidate],
    options: SearchOptions,
    self_mask: SelfMaskHead | None,
    report: Progress,
) -> list[Candidate]:
    """The candidates with their speed; the unmerged model is the measure of all."""
    timed = []
    for index, candidate in enumerate(candidates):
        report("timing", index, len(candidates))
        if candidate.layers or candidate.tokens:
            model = merged_model(judge, candidate, self_mask)
            speed = speed_ratio(
                judge.parts.model, model, batch_size=options.batch_size, seconds=options.time_s
            )
            _log.info("%s: +%.3f mm, %.2f times as fast", candidate.name, candidate.rise.mean, speed.value)
            candidate = replace(candidate, speed=speed)
        timed.append(candidate)
    report("timing", len(candidates), len(candidates))
    return timed


def _choose(front: Sequence[Candidate], options: SearchOptions) -> tuple[Candidate, bool]:
    if options.max_error_mm is not None:
        allowed = [candidate for candidate in front if candidate.rise.mean < options.max_error_mm]
        chosen = max(allowed, key=lambda candidate: candidate.gain)
        return chosen, chosen.layers is not None or chosen.tokens is not None
    fast = [candidate for candidate in front if candidate.gain >= options.target_speedup]
    if fast:
        return min(fast, key=lambda candidate: candidate.rise.mean), True
    return max(front, key=lambda candidate: candidate.gain), False


def _digest(judge: Judge, options: SearchOptions, self_mask: SelfMaskHead | None) -> str:
    """Names the folder of a search's trials: other weights, settings or people make another."""
    frames = judge.frames
    digest = hashlib.sha256(weights_fingerprint(judge.parts.model).encode())
    digest.update(repr((options, judge.labelled, len(frames))).encode())
    if self_mask is not None:
        digest.update(weights_fingerprint(self_mask).encode())
    for tensor in (frames.pictures[:: max(1, len(frames) // 16)], frames.masks):
        if tensor is not None:
            digest.update(tensor.contiguous().flatten().view(torch.uint8).numpy().tobytes())
    return digest.hexdigest()[:12]
