"""Kinds of FastHMR's layer and token merging: `fasthmr.token_merge`, `vit_tome`, `layer_merge`, `eclm_trace`,
`cka`, `mask_tokens` and `tome_schedule`."""

from __future__ import annotations

import re
from typing import Any

import torch
from parity_lib import Case, Pair, Result, checker
from torch import Tensor, nn

from fasthmr.checkpoints.keymap import KeyTable, load_into
from fasthmr.layers.block import TransformerBlock
from fasthmr.layers.tokens import TokenState
from fasthmr.reduction.cka import cka_map, cka_minibatch, hsic_unbiased
from fasthmr.reduction.eclm import LayerMergePlan, MergeRule, merge_state
from fasthmr.reduction.mask_tokens import mask_coverage, person_patches
from fasthmr.reduction.mask_tome import MaskToMe, match_tokens, merge_tokens
from fasthmr.reduction.merge_search import MergeSearch
from fasthmr.reduction.tome_schedule import TokenMergePlan, run_block, run_blocks, tome_schedule

EXACT = {"exact": True}


class Blocks(nn.Module):
    """Blocks and the norm after them, under the names that they have in an encoder."""

    def __init__(self, options: dict[str, Any], weights: dict[str, Tensor], name: str) -> None:
        super().__init__()
        depth = 1 + max(int(key.split(".")[1]) for key in weights if key.startswith("blocks."))
        eps = options.get("norm_eps", 1e-6)
        self.blocks = nn.ModuleList(
            TransformerBlock(
                dim=options["embed_dim"],
                heads=options["num_heads"],
                mlp_ratio=options.get("mlp_ratio", 4),
                qkv_bias=options.get("qkv_bias", True),
                norm_eps=eps,
            )
            for _ in range(depth)
        )
        self.last_norm = nn.LayerNorm(options["embed_dim"], eps=eps)
        self.to(next(iter(weights.values())).dtype)
        load_into(self, weights, KeyTable(layout="ViT"), name)
        self.eval()

    def forward(self, tokens: Tensor) -> Tensor:
        return self.last_norm(run_blocks(self.blocks, _one_column(tokens)).tokens)


def _one_column(tokens: Tensor) -> TokenState:
    return TokenState.from_grid(tokens, (tokens.shape[1], 1))


def _reducer(options: dict[str, Any]) -> MaskToMe:
    return MaskToMe(
        source=options.get("source", "even"),
        overflow=options.get("overflow", "force"),
        order=options.get("order", "tome"),
        size_weighted=options.get("size_weighted", True),
    )


@checker("fasthmr.token_merge")
def check_token_merge(case: Case) -> Result:
    options, given = _reducer(case.meta["config"]), case.under("input")
    person = given.get("person")
    match = match_tokens(
        given["metric"],
        person,
        case.meta["config"]["r"],
        source=options.source,
        overflow=options.overflow,
        order=options.order,
    )
    state = TokenState(
        tokens=given["x"],
        size=given["size"],
        positions=_one_column(given["x"]).positions,
        group=_one_column(given["x"]).group,
    )
    merged = merge_tokens(state, match)
    result: dict[str, Tensor | Pair] = {
        "output/x": merged.tokens,
        "output/x_plain_mean": merge_tokens(state, match, size_weighted=False).tokens,
        "output/size": merged.size,
        "output/group": merged.group,
        "output/anchor": match.anchor,
        "output/edges": match.edges,
    }
    if person is not None:
        result["output/person"] = merged.any_patch(person)
    return result


@checker("fasthmr.vit_tome")
@torch.no_grad()
def check_vit_tome(case: Case) -> Result:
    options = case.meta["config"]
    model = Blocks(options, case.under("weight"), case.case)
    plan = TokenMergePlan(
        counts=tuple(options.get("r_per_block") or ()),
        reducer=_reducer(options),
        prop_attn=options.get("prop_attn", True),
    )
    person = case.tensors.get("input/person")
    state = _one_column(case.tensors["input/x"])
    result: dict[str, Tensor] = {}
    for i, block in enumerate(model.blocks):
        assert isinstance(block, TransformerBlock)
        state = run_block(block, state, plan=plan, index=i, person=person)
        result[f"mid/block{i}"] = state.tokens
    result["output/x"] = model.last_norm(state.tokens)
    if "output/size" in case.tensors:
        result |= {"output/size": state.size, "output/group": state.group}
    if person is not None:
        result["output/person"] = state.any_patch(person)
    return result


def _rule(options: dict[str, Any]) -> MergeRule:
    mode = re.sub(r"[\s-]+", "_", options["mode"].lower())
    linear_only = "linear" in mode
    if "blend" in mode:
        return MergeRule(kind="blend", weight=options["blend"], linear_only=linear_only)
    for kind in ("eq4", "mean", "keep_first", "keep_last"):
        if mode.startswith(kind):
            return MergeRule(kind=kind, linear_only=linear_only)
    raise ValueError(f"layer merging mode '{options['mode']}' is not covered")


@checker("fasthmr.layer_merge")
@torch.no_grad()
def check_layer_merge(case: Case) -> Result:
    options, weights = case.meta["config"], case.under("weight")
    depth, ranges = options["depth"], [tuple(pair) for pair in options["ranges"]]
    inside = {block for low, high in ranges for block in range(low, high + 1)}
    groups = [(block,) for block in range(depth) if block not in inside]
    groups += [tuple(range(low, high + 1)) for low, high in ranges]
    plan = LayerMergePlan(groups=tuple(sorted(groups)), rules=(_rule(options),))
    merged = merge_state(weights, plan)
    x = case.tensors["input/x"]
    index_map = tuple(map(tuple, case.meta.get("index_map", plan.groups)))
    return {
        "groups": Pair(actual=plan.groups, expected=index_map, tolerance=EXACT),
        "output/x_before": Blocks(options, weights, case.case)(x),
        "output/x_after": Blocks(options, merged, case.case)(x),
        **{f"output/weight/{key}": tensor for key, tensor in merged.items()},
    }


@checker("fasthmr.eclm_trace")
def check_eclm_trace(case: Case) -> Result:
    return {row["name"]: _trace(row) for row in case.meta["cases"]}


def _trace(row: dict[str, Any]) -> Pair:
    search = MergeSearch(depth=row["num_layers"], threshold=row["tau"], base=row["base"])
    while (trial := search.next_trial) is not None:
        search = search.after(row["mpjpe"][f"{trial[0]},{trial[1]}"])
    actual = {
        "trials": [[trial.low, trial.high, trial.accepted] for trial in search.trials],
        "commits": [list(commit) for commit in search.commits],
        "groups_literal": [list(group) for group in search.groups(commit_pending=False)],
        "pending": list(search.pending) if search.pending else None,
        "groups_commit_pending": [list(group) for group in search.groups()],
    }
    return Pair(actual=actual, expected=row["expected"], tolerance=EXACT)


@checker("fasthmr.cka")
def check_cka(case: Case) -> Result:
    x, y = case.tensors["input/x"], case.tensors["input/y"]
    products = hsic_unbiased(torch.stack([x @ x.T, y @ y.T]))
    return {
        "output/cka_linear": cka_map([x, y])[0, 1:],
        "output/cka_unbiased": cka_map([x, y], unbiased=True)[0, 1:],
        "output/cka_minibatch": cka_minibatch([x, y], case.meta["config"]["minibatch"])[0, 1:],
        "output/hsic_unbiased": torch.stack([products[0, 1], products[0, 0], products[1, 1]]),
        "output/cka_self": cka_map([x])[0],
    }


@checker("fasthmr.mask_tokens")
def check_mask_tokens(case: Case) -> Result:
    options = case.meta["config"]
    left, right = options["columns"]
    mask = case.tensors["input/mask"].double()[..., left:right]
    geometry = {"patch_size": options["patch"], "padding": options["padding"]}
    result = {
        "output/max": mask_coverage(mask, **geometry, stride=options["stride"], pooling="max"),
        "output/fraction": mask_coverage(mask, **geometry, stride=options["stride"]),
        "output/person_any": person_patches(mask, **geometry),
    }
    for name in case.under("output"):
        if name.startswith("person_frac_"):
            share = float(name.removeprefix("person_frac_"))
            result[f"output/{name}"] = person_patches(mask, **geometry, min_share=share)
    return result


@checker("fasthmr.tome_schedule")
def check_tome_schedule(case: Case) -> Result:
    return {f"row {i}": _schedule(row) for i, row in enumerate(case.meta["rows"])}


def _schedule(row: dict[str, Any]) -> Pair:
    counts = tome_schedule(row["N"], row["n_l"], row["keep"])
    left = [row["N"]]
    for count in counts:
        left.append(left[-1] - count)
    expected = {"r": row["r"], "counts": row["counts"]}
    return Pair(actual={"r": list(counts), "counts": left}, expected=expected, tolerance=EXACT)
