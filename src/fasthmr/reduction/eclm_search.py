"""Error-constrained layer merging: Algorithm 1 of FastHMR (arXiv 2510.10868) on calibration pictures."""

from __future__ import annotations

import hashlib
import json
import math
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, cast

import torch
from jaxtyping import Bool, Float
from torch import Tensor, nn

from fasthmr.errors import UsageError
from fasthmr.io.atomic import write_bytes
from fasthmr.layers.tokens import TokenState
from fasthmr.reduction.eclm import EQ4, LayerMergePlan, MergeRule, merge_blocks, weights_fingerprint
from fasthmr.reduction.input_stack import InputStack, StackOptions, open_stack
from fasthmr.reduction.merge_search import MergeSearch
from fasthmr.reduction.tome_schedule import TokenMergePlan, run_blocks

ErrorFn = Callable[[TokenState, slice], Float[Tensor, "pictures"]]
"""Error of each picture, from what leaves the last norm, and which of all pictures these are."""


@dataclass(frozen=True, kw_only=True)
class CalibrationBatch:
    """Pictures to measure the error on, as they enter the first block.

    Attributes:
        person: Patches on the person, where tokens are merged too.
    """

    state: TokenState
    person: Bool[Tensor, "batch patches"] | None = None


@dataclass(frozen=True, kw_only=True)
class SearchResult:
    """What a search found.

    Attributes:
        plan: For `merge_layers`.
        base_errors: Error of the unmerged model for each picture.
        errors: Error of the merged model for each picture, in the same order: compare them in pairs.
        block_evaluations: Blocks run on the whole calibration set.
        fingerprint: Weights and settings of the search.
    """

    search: MergeSearch
    plan: LayerMergePlan
    base_errors: Float[Tensor, "pictures"]
    errors: Float[Tensor, "pictures"]
    block_evaluations: float
    fingerprint: str


def select_merges(
    encoder: nn.Module,
    batches: Iterable[CalibrationBatch],
    error_fn: ErrorFn,
    *,
    threshold: float,
    rules: tuple[MergeRule, ...] = (EQ4,),
    commit_pending: bool = True,
    token_plan: TokenMergePlan | None = None,
    stack: StackOptions | None = None,
    reject_sigmas: float | None = None,
    state_file: Path | None = None,
    progress: Callable[[MergeSearch], None] | None = None,
) -> SearchResult:
    """Find the blocks that can be merged while the error rises by less than `threshold`.

    The unmerged model runs once; what enters each block is kept, so that a trial runs only the merged block
    and those above. Use other pictures than those that the merged model is evaluated on, in random order.

    Args:
        encoder: In evaluation mode, with `blocks` and `last_norm`.
        batches: Gone through once.
        threshold: In the unit of `error_fn`.
        rules: With more than one, each trial takes the best, at that many times the cost.
        commit_pending: See `MergeSearch.merges`.
        token_plan: Search under token merging. Its block numbers refer to the merged model.
        reject_sigmas: Stop a trial when its mean rise so far lies this many standard errors above the
            threshold; 4 is careful. None runs every trial to its end, as published.
        state_file: Every trial is written here; a search that was stopped goes on from there.
        progress: Called after the unmerged model and after every trial.

    Raises:
        UsageError: The threshold is not positive, there are no pictures, or the file is of another search.
        ValueError: The encoder is in training mode.
        ResourceError: No room for the inputs of all blocks.
    """
    if not threshold > 0:
        raise UsageError(f"the allowed rise of the error is threshold={threshold}; it must be above 0")
    if encoder.training:
        raise ValueError("the encoder is in training mode; call encoder.eval() first")
    settings = [threshold, *map(repr, rules), repr(token_plan), reject_sigmas]
    fingerprint = hashlib.sha256(f"{weights_fingerprint(encoder)} {settings}".encode()).hexdigest()
    log = SearchLog.read(state_file, fingerprint) if state_file and state_file.is_file() else None
    with torch.no_grad(), open_stack(stack or StackOptions()) as inputs:
        runner = _Runner(encoder, error_fn, inputs, rules, token_plan, threshold, reject_sigmas)
        base_errors = runner.baseline(batches, trials=runner.depth - 1 - (len(log.trials) if log else 0))
        if log is None:
            log = SearchLog(fingerprint=fingerprint, base_errors=base_errors.tolist())
        elif not log.same_pictures(base_errors):
            raise UsageError(f"{state_file}: this search was done on other pictures; give another file")
        base_errors = torch.tensor(log.base_errors, dtype=torch.float64)
        search = MergeSearch(depth=runner.depth, threshold=threshold, base=base_errors.mean().item())
        for errors, rule in log.trials:
            search = search.after(_error(errors, log.base_errors), rule)
        if progress:
            progress(search)
        while search.next_trial is not None:
            errors, rule = runner.trial(search, base_errors)
            log.trials.append((errors, rule))
            search = search.after(_error(errors, log.base_errors), rule)
            if state_file:
                log.write(state_file)
            if progress:
                progress(search)
    kept = search.merges(commit_pending=commit_pending)
    last = log.trials[search.trials.index(kept[-1])][0] if kept else log.base_errors
    return SearchResult(
        search=search,
        plan=search.plan(rules, commit_pending=commit_pending),
        base_errors=base_errors,
        errors=torch.tensor(last, dtype=torch.float64),
        block_evaluations=runner.evaluations / len(base_errors),
        fingerprint=fingerprint,
    )


@dataclass(kw_only=True)
class SearchLog:
    """What a stopped search needs to go on: the errors of each trial's pictures, and its rule."""

    fingerprint: str
    base_errors: list[float]
    trials: list[tuple[list[float], int]] = field(default_factory=list)

    @staticmethod
    def read(path: Path, fingerprint: str) -> SearchLog:
        """Read a log.

        Raises:
            UsageError: It is damaged, or belongs to other weights or settings.
        """
        try:
            content: dict[str, Any] = json.loads(path.read_text())
            trials = [(list(map(float, errors)), int(rule)) for errors, rule in content["trials"]]
            log = SearchLog(
                fingerprint=str(content["fingerprint"]),
                base_errors=list(map(float, content["base_errors"])),
                trials=trials,
            )
        except (ValueError, KeyError, TypeError) as error:
            raise UsageError(f"{path}: not the log of a search ({error}); delete it to start anew") from error
        if log.fingerprint != fingerprint:
            raise UsageError(
                f"{path}: this search was done with other weights or settings; give another file"
            )
        return log

    def write(self, path: Path) -> None:
        """Replace the file at once."""
        write_bytes(path, json.dumps(vars(self)).encode())

    def same_pictures(self, base_errors: Float[Tensor, "pictures"]) -> bool:
        """Whether the unmerged model errs as it did; runs differ by rounding."""
        logged = torch.tensor(self.base_errors, dtype=torch.float64)
        return logged.shape == base_errors.shape and torch.allclose(
            logged, base_errors, rtol=1e-3, atol=1e-4 * logged.abs().mean().item()
        )


class _Runner:
    """Runs the unmerged model and trials on the calibration set."""

    def __init__(
        self,
        encoder: nn.Module,
        error_fn: ErrorFn,
        inputs: InputStack,
        rules: tuple[MergeRule, ...],
        token_plan: TokenMergePlan | None,
        threshold: float,
        reject_sigmas: float | None,
    ) -> None:
        self.blocks = list(cast(nn.ModuleList, encoder.blocks))
        self.last_norm = cast(nn.Module, encoder.last_norm)
        self.depth = len(self.blocks)
        self.error_fn, self.inputs, self.rules = error_fn, inputs, rules
        self.token_plan, self.threshold, self.reject_sigmas = token_plan, threshold, reject_sigmas
        self.persons: list[Tensor | None] = []
        self.committed: dict[int, nn.Module] = {}
        self.evaluations = 0

    def baseline(self, batches: Iterable[CalibrationBatch], trials: int) -> Float[Tensor, "pictures"]:
        """Errors of the unmerged model; keeps what enters the lowest blocks, one for each trial to come."""
        errors: list[float] = []
        for batch in batches:
            self.persons.append(batch.person)
            state = batch.state
            for i in range(self.depth):
                if i < trials:
                    self.inputs.push(i, state)
                state = self._run([self.blocks[i]], state, i, len(self.persons) - 1)
            errors += self._errors(state, len(errors))
        if not errors:
            raise UsageError("there are no pictures to measure the error on")
        return torch.tensor(errors, dtype=torch.float64)

    def trial(self, search: MergeSearch, base: Float[Tensor, "pictures"]) -> tuple[list[float], int]:
        """Errors of the next trial with the best rule, and which rule that is."""
        assert search.next_trial is not None
        low, high = search.next_trial
        for done in search.merges(commit_pending=False):
            if done.low not in self.committed:
                self.committed[done.low] = self._merged(done.low, done.high, done.rule)
        groups = search.groups(commit_pending=False)
        above = [self.committed.get(group[0], self.blocks[group[0]]) for group in groups if group[0] > high]
        start, states = self.inputs.nearest(low)
        tried = []
        for rule in range(len(self.rules)):
            blocks = [*self.blocks[start:low], self._merged(low, high, rule), *above]
            tried.append(self._measure(blocks, states, start, base))
        best = min(range(len(tried)), key=lambda rule: _error(tried[rule], base.tolist()))
        return tried[best], best

    def _measure(
        self, blocks: list[nn.Module], states: list[TokenState], first: int, base: Float[Tensor, "pictures"]
    ) -> list[float]:
        errors: list[float] = []
        for i, state in enumerate(states):
            errors += self._errors(self._run(blocks, state, first, i), len(errors))
            if self._hopeless(torch.tensor(errors, dtype=torch.float64) - base[: len(errors)], len(base)):
                break
        return errors

    def _hopeless(self, rise: Float[Tensor, "seen"], total: int) -> bool:
        """Whether the mean rise of all pictures is almost surely above the threshold."""
        if self.reject_sigmas is None or len(rise) < 32 or len(rise) == total:
            return False
        unseen = (total - len(rise)) / (total - 1)  # the calibration set is finite
        spread = math.sqrt(rise.var().item() / len(rise) * unseen)
        return rise.mean().item() - self.reject_sigmas * spread > self.threshold

    def _merged(self, low: int, high: int, rule: int) -> nn.Module:
        return merge_blocks(self.blocks[low : high + 1], self.rules[rule])

    def _run(self, blocks: list[nn.Module], state: TokenState, first: int, batch: int) -> TokenState:
        weight = cast(Tensor, self.last_norm.weight)
        state = replace(state, tokens=state.tokens.to(weight.device, weight.dtype))
        self.evaluations += len(blocks) * len(state.tokens)
        return run_blocks(blocks, state, plan=self.token_plan, first=first, person=self.persons[batch])

    def _errors(self, state: TokenState, seen: int) -> list[float]:
        output = replace(state, tokens=self.last_norm(state.tokens))
        errors = self.error_fn(output, slice(seen, seen + len(state.tokens)))
        if errors.shape != (len(state.tokens),) or not bool(torch.isfinite(errors).all()):
            raise ValueError(f"error_fn must return a finite error for each of {len(state.tokens)} pictures")
        return errors.double().tolist()


def _error(errors: list[float], base: list[float]) -> float:
    """Mean error; after an early stop, that of all pictures as far as the pairs seen tell."""
    rise = [after - before for after, before in zip(errors, base[: len(errors)], strict=True)]
    return math.fsum(base) / len(base) + math.fsum(rise) / len(rise)
