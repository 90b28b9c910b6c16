"""Kind `tore.full_model`: pictures to meshes at published sizes, under whole published key names."""

from __future__ import annotations

from pathlib import Path

import torch
from fill import case_input, filled_weights
from parity_checkers_tore_heads import (
    body_template,
    read_fastmetro,
    read_levels,
    reduced_mids,
    standin,
    watch,
)
from parity_lib import Case, Pair, Result, checker

from fasthmr.checkpoints.keymap import load_into, shapes_of
from fasthmr.checkpoints.tore import MESH_TABLE, mesh_config


@checker("tore.full_model")
@torch.no_grad()
def check_full_model(case: Case) -> Result:
    """The configuration comes from the shapes of the weights alone."""
    weights = filled_weights(case.meta)
    config = mesh_config(shapes_of(weights), Path(case.case))
    kind = "body" if config.head.joints == 14 else "hand"
    operators, file = standin(case, kind)
    model = config.build()
    load_into(model, weights, MESH_TABLE, case.case)
    starts = "input/template_vertices" in case.tensors
    template = body_template(case, file, config.regressor is None) if starts else None
    model.eval().set_mesh(operators, template)
    seen = watch(model.head)
    output = model(case_input(case.meta, case.tensors, "images"), True)
    left_out = sum(getattr(part, "unused_published_params", 0) for part in model.modules())
    result: Result = {
        "num_params": Pair(
            actual=sum(weight.numel() for weight in model.parameters()) + left_out,
            expected=case.meta["num_params"],
            tolerance={"exact": True},
        )
    }
    if "output/pred_cam" in case.tensors:
        return {**result, **read_fastmetro(output)}
    if output.clusters is not None:
        mids = reduced_mids(seen, config.head)
        result = {**result, "output/itp_scores": output.clusters, **mids}
    return {**result, **read_levels(output)}
