from __future__ import annotations

from pathlib import Path

import pytest
import torch
from torch import Tensor

from fasthmr.encoders.vit import ViT, ViTConfig
from fasthmr.errors import ResourceError, UsageError
from fasthmr.layers.tokens import TokenState
from fasthmr.reduction import input_stack
from fasthmr.reduction.eclm import EQ4, MergeRule, merge_layers
from fasthmr.reduction.eclm_search import CalibrationBatch, SearchResult, select_merges
from fasthmr.reduction.input_stack import StackOptions
from fasthmr.reduction.mask_tome import MaskToMe
from fasthmr.reduction.merge_search import MergeSearch
from fasthmr.reduction.tome_schedule import TokenMergePlan, run_blocks

PICTURES = 6


def make_vit(depth: int = 6, *, redundant: tuple[int, ...] = (), seed: int = 0) -> ViT:
    """A ViT in which some blocks do next to nothing."""
    torch.manual_seed(seed)
    vit = ViT(ViTConfig(dim=8, depth=depth, heads=2, image_size=(48, 32))).eval()
    for i in redundant:
        for name in ("attn.proj", "mlp.fc2"):
            layer = vit.blocks[i].get_submodule(name)
            layer.weight.data.mul_(1e-3)
            layer.bias.data.mul_(1e-3)
    return vit


class Bench:
    """Calibration pictures of a model, and their distance to fixed targets as the error."""

    def __init__(self, vit: ViT, pictures: int = PICTURES, batch: int = 4) -> None:
        generator = torch.Generator().manual_seed(1)
        images = torch.randn(pictures, 3, 48, 32, generator=generator)
        self.vit = vit
        self.batches = [vit.token_state(part).tokens.detach() for part in images.split(batch)]
        with torch.no_grad():
            clean = torch.cat(
                [self.features(vit, TokenMergePlan(counts=()), i) for i in range(len(self.batches))]
            )
        self.targets = clean + 0.1 * torch.randn(clean.shape, generator=generator)

    def calibration(self):
        for tokens in self.batches:
            person = torch.zeros(tokens.shape[:2], dtype=torch.bool)
            person[:, :2] = True
            yield CalibrationBatch(state=TokenState.from_grid(tokens, self.vit.grid), person=person)

    def features(self, vit: ViT, plan: TokenMergePlan, batch: int) -> Tensor:
        part = list(self.calibration())[batch]
        return self.read(vit, run_blocks(vit.blocks, part.state, plan=plan, person=part.person))

    @staticmethod
    def read(vit: ViT, state: TokenState) -> Tensor:
        return vit.last_norm(state.tokens).mean(1)

    def error(self, output: TokenState, pictures: slice) -> Tensor:
        return (output.tokens.mean(1) - self.targets[pictures]).norm(dim=-1)

    @torch.no_grad()
    def error_of(self, vit: ViT, plan: TokenMergePlan = TokenMergePlan(counts=())) -> Tensor:  # noqa: B008
        parts = [self.features(vit, plan, i) for i in range(len(self.batches))]
        return (torch.cat(parts) - self.targets).norm(dim=-1).double()

    def search(self, **options) -> SearchResult:
        return select_merges(self.vit, self.calibration(), self.error, **{"threshold": 0.05, **options})


def full_search(bench: Bench, threshold: float, rule: MergeRule = EQ4) -> MergeSearch:
    """The same without any shortcut: a new merged model for every trial."""
    search = MergeSearch(
        depth=len(bench.vit.blocks), threshold=threshold, base=bench.error_of(bench.vit).mean().item()
    )
    while (trial := search.next_trial) is not None:
        low, high = trial
        groups = [group for group in search.groups(commit_pending=False) if not low <= group[0] <= high]
        groups = tuple(sorted([*groups, tuple(range(low, high + 1))]))
        search = search.after(bench.error_of(merge_layers(bench.vit, groups, rule)).mean().item())
    return search


@pytest.mark.parametrize("rule", [EQ4, MergeRule(kind="mean")], ids=["eq4", "mean"])
@pytest.mark.parametrize("redundant", [(), (1, 2), (0, 1, 4, 5)])
def test_the_search_is_algorithm_1_on_whole_models(redundant, rule):
    bench = Bench(make_vit(redundant=redundant))
    result = bench.search(rules=(rule,))
    expected = full_search(bench, 0.05, rule)
    assert [(t.low, t.high, t.accepted) for t in result.search.trials] == [
        (t.low, t.high, t.accepted) for t in expected.trials
    ]
    torch.testing.assert_close(
        torch.tensor([t.error for t in result.search.trials]),
        torch.tensor([t.error for t in expected.trials]),
        rtol=0,
        atol=1e-6,
    )
    merged = merge_layers(bench.vit, result.plan.groups, result.plan.rules)
    torch.testing.assert_close(bench.error_of(merged), result.errors, rtol=0, atol=1e-6)
    torch.testing.assert_close(bench.error_of(bench.vit), result.base_errors, rtol=0, atol=1e-6)
    assert result.errors.mean() - result.base_errors.mean() < 0.05
    if redundant:
        assert result.plan.depth < 6


def test_no_prefix_runs_twice():
    """528 block evaluations for 32 blocks and no merge, instead of 993."""
    bench = Bench(make_vit(32), pictures=2)
    result = bench.search(threshold=1e-9, rules=(MergeRule(kind="mean"),))
    assert result.plan.depth == 32
    assert result.block_evaluations == 528


@pytest.mark.parametrize(
    "stack",
    [
        StackOptions(memory=0),
        StackOptions(memory=3000),
        StackOptions(every=2),
        StackOptions(every=3, memory=0),
        StackOptions(dtype=torch.float64),
    ],
    ids=["file", "both", "every 2", "every 3", "double"],
)
def test_where_inputs_are_kept_does_not_matter(stack, tmp_path):
    bench = Bench(make_vit(redundant=(1, 2)))
    plain = bench.search()
    other = bench.search(stack=StackOptions(**{**vars(stack), "folder": tmp_path}))
    assert other.search == plain.search
    assert list(tmp_path.iterdir()) == []


def test_half_precision_inputs_are_nearly_the_same():
    bench = Bench(make_vit(redundant=(1, 2)))
    half = bench.search(stack=StackOptions(dtype=torch.bfloat16))
    assert half.plan == bench.search().plan


def test_a_full_disk_says_what_to_do(tmp_path, monkeypatch):
    monkeypatch.setattr(input_stack.shutil, "disk_usage", lambda _: type("Usage", (), {"free": 10}))
    with pytest.raises(ResourceError, match="every=2"):
        Bench(make_vit()).search(stack=StackOptions(memory=0, folder=tmp_path))


class Stopped(Exception):
    pass


@pytest.mark.parametrize("done", [0, 1, 3, 5])
def test_a_stopped_search_goes_on(done, tmp_path):
    bench, log = Bench(make_vit(redundant=(1, 2, 4))), tmp_path / "search.json"
    whole = bench.search()

    def stop(search: MergeSearch) -> None:
        if len(search.trials) == done:
            raise Stopped

    with pytest.raises(Stopped):
        bench.search(state_file=log, progress=stop)
    seen: list[int] = []
    resumed = bench.search(state_file=log, progress=lambda search: seen.append(len(search.trials)))
    assert resumed.search == whole.search
    assert torch.equal(resumed.errors, whole.errors)
    assert seen == list(range(done, 6))
    assert resumed.block_evaluations <= whole.block_evaluations
    if done == 5:
        assert resumed.block_evaluations == 6


def test_a_log_of_another_search_is_refused(tmp_path):
    bench, log = Bench(make_vit()), tmp_path / "search.json"
    bench.search(state_file=log)
    with pytest.raises(UsageError, match="other weights or settings"):
        bench.search(state_file=log, threshold=0.06)
    with pytest.raises(UsageError, match="other weights or settings"):
        Bench(make_vit(seed=1)).search(state_file=log)
    with pytest.raises(UsageError, match="other pictures"):
        Bench(make_vit(), pictures=5).search(state_file=log)
    log.write_text('{"trials": 3')
    with pytest.raises(UsageError, match="delete it"):
        bench.search(state_file=log)


def test_both_readings_of_the_end(tmp_path: Path):
    bench = Bench(make_vit(redundant=(0, 1, 2)))
    literal = bench.search(commit_pending=False)
    sensible = bench.search()
    assert literal.search == sensible.search
    assert literal.search.pending is not None
    assert literal.plan.depth > sensible.plan.depth
    merged = merge_layers(bench.vit, literal.plan.groups)
    torch.testing.assert_close(bench.error_of(merged), literal.errors, rtol=0, atol=1e-6)


def test_the_best_rule_of_each_trial():
    bench = Bench(make_vit(redundant=(1, 4)))
    rules = (EQ4, MergeRule(kind="keep_first"), MergeRule(kind="mean"))
    best = bench.search(rules=rules)
    singles = [bench.search(rules=(rule,)) for rule in rules]
    assert best.search.trials[0].error == min(single.search.trials[0].error for single in singles)
    merged = merge_layers(bench.vit, best.plan.groups, best.plan.rules)
    torch.testing.assert_close(bench.error_of(merged), best.errors, rtol=0, atol=1e-6)


def test_hopeless_trials_stop_early_and_change_nothing():
    bench = Bench(make_vit(redundant=(1, 2)), pictures=96, batch=8)
    whole = bench.search()
    quick = bench.search(reject_sigmas=4.0)
    assert quick.plan == whole.plan
    assert quick.block_evaluations < 0.8 * whole.block_evaluations


@pytest.mark.parametrize("prop_attn", [True, False])
def test_searching_under_token_merging(prop_attn):
    bench = Bench(make_vit(redundant=(1, 2)))
    plan = TokenMergePlan(counts=(1, 1), prop_attn=prop_attn, reducer=MaskToMe())
    result = bench.search(token_plan=plan)
    assert result.plan.depth < 6
    merged = merge_layers(bench.vit, result.plan.groups)
    torch.testing.assert_close(bench.error_of(bench.vit, plan), result.base_errors, rtol=0, atol=1e-6)
    torch.testing.assert_close(bench.error_of(merged, plan), result.errors, rtol=0, atol=1e-6)


def test_bad_input_before_any_work():
    bench = Bench(make_vit())
    for threshold in (0.0, -1.0, float("nan")):
        with pytest.raises(UsageError, match="above 0"):
            bench.search(threshold=threshold)
    with pytest.raises(UsageError, match="no pictures"):
        select_merges(bench.vit, [], bench.error, threshold=1.0)
    with pytest.raises(ValueError, match="finite error for each"):
        select_merges(bench.vit, bench.calibration(), lambda s, _: s.tokens[:, 0, 0] / 0, threshold=1.0)
    bench.vit.train()
    with pytest.raises(ValueError, match="training mode"):
        bench.search()
