"""Which blocks to merge next: Algorithm 1 of FastHMR (arXiv 2510.10868), apart from what measures errors."""

from __future__ import annotations

from dataclasses import dataclass, replace

from fasthmr.reduction.eclm import Groups, LayerMergePlan, MergeRule


@dataclass(frozen=True, kw_only=True)
class Trial:
    """One try to merge blocks low..high.

    Attributes:
        rule: Which of the rules did best.
        error: Mean error; after an early stop, as far as the pictures seen tell.
    """

    low: int
    high: int
    error: float
    accepted: bool
    rule: int = 0


@dataclass(frozen=True, kw_only=True)
class MergeSearch:
    """Algorithm 1 as a value: what was tried so far decides what to try next.

    Attributes:
        depth: Blocks of the model.
        threshold: Allowed rise of the error over `base`, exclusive; it bounds all merges together.
        base: Error of the unmerged model.
    """

    depth: int
    threshold: float
    base: float
    trials: tuple[Trial, ...] = ()

    @property
    def next_trial(self) -> tuple[int, int] | None:
        """First and last block to merge next, or None at the end, after depth - 1 trials."""
        low, high, _ = self._replay()
        return (low, high) if low >= 0 else None

    def after(self, error: float, rule: int = 0) -> MergeSearch:
        """The search with the error of `next_trial` known."""
        trial = self.next_trial
        if trial is None:
            raise ValueError("the search is over")
        low, high = trial
        accepted = error - self.base < self.threshold
        done = Trial(low=low, high=high, error=error, accepted=accepted, rule=rule)
        return replace(self, trials=(*self.trials, done))

    @property
    def commits(self) -> tuple[tuple[int, int], ...]:
        """Ranges merged for good, from the top down."""
        return tuple((trial.low, trial.high) for trial in self._replay()[2])

    @property
    def pending(self) -> tuple[int, int] | None:
        """The range that was accepted last and is not committed yet."""
        low, high, _ = self._replay()
        return (low + 1, high) if low + 1 != high else None

    def merges(self, *, commit_pending: bool = True) -> tuple[Trial, ...]:
        """Trials whose merges the model of this moment contains, from the top down.

        Args:
            commit_pending: Include the range that trials accepted down to the lowest block. Algorithm 1 as
                printed throws it away at its end, although the error bound holds for it.
        """
        committed = self._replay()[2]
        return (*committed, self.trials[-1]) if commit_pending and self.pending else tuple(committed)

    def groups(self, *, commit_pending: bool = True) -> Groups:
        """Original blocks of each block of the merged model, bottom to top."""
        groups: dict[int, tuple[int, ...]] = {block: (block,) for block in range(self.depth)}
        for trial in self.merges(commit_pending=commit_pending):
            merged = tuple(range(trial.low, trial.high + 1))
            groups = {block: group for block, group in groups.items() if block not in merged}
            groups[trial.low] = merged
        return tuple(groups[block] for block in sorted(groups))

    def plan(self, rules: tuple[MergeRule, ...], *, commit_pending: bool = True) -> LayerMergePlan:
        """Groups with the rule that did best for each."""
        chosen = {trial.low: rules[trial.rule] for trial in self.merges(commit_pending=commit_pending)}
        groups = self.groups(commit_pending=commit_pending)
        each = tuple(chosen.get(group[0], rules[0]) for group in groups)
        return LayerMergePlan(groups=groups, rules=rules if len(rules) == 1 else each)

    def _replay(self) -> tuple[int, int, list[Trial]]:
        high = self.depth - 1
        low = high - 1
        commits: list[Trial] = []
        accepted: Trial | None = None
        for trial in self.trials:
            if trial.accepted:
                accepted = trial
            elif accepted is not None:
                commits.append(accepted)
                high, accepted = low, None
            else:
                high -= 1
            low -= 1
        return low, high, commits
