"""Kinds `tore.*` of transformers and heads: METRO, FastMETRO, and TORE's reductions of both."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import torch
from fill import case_input, filled_weights
from parity_lib import Case, Result, checker
from safetensors.torch import load_file
from torch import Tensor, nn

from fasthmr.body.skeletons import BODY_JOINTS_OF_17
from fasthmr.checkpoints.keymap import KeyTable, load_into
from fasthmr.checkpoints.tore import MESH_HEAD_TABLE
from fasthmr.heads.fastmetro import FastMetroHeadConfig
from fasthmr.heads.mesh_parameters import MeshParametersConfig
from fasthmr.heads.metro import MetroHeadConfig
from fasthmr.layers.mesh_levels import MeshOperators
from fasthmr.layers.neighbours import neighbours_of
from fasthmr.layers.query_transformer import QueryTransformer, QueryTransformerConfig, sine_positions
from fasthmr.models.mesh import build_mesh_head, rest_template
from fasthmr.reduction.gtr import NSRConfig
from fasthmr.reduction.itp import ImageTokenPruner, ITPConfig
from fasthmr.types import MeshOutput

LAYERS = {"S": 1, "M": 2, "L": 3}


class Wrapper(nn.Module):
    """Gives lone parts the names that they have inside a model."""

    def __init__(self, **parts: nn.Module) -> None:
        super().__init__()
        for name, part in parts.items():
            self.add_module(name, part)


def weights_of(case: Case) -> dict[str, Tensor]:
    """Stored weights, or those of the fill rule."""
    return case.under("weight") or filled_weights(case.meta)


def standin(case: Case, kind: str) -> tuple[MeshOperators, dict[str, Tensor]]:
    """The mesh beside the cases, and its file."""
    file = load_file(case.folder / f"hierarchy_standin_{kind}.safetensors")
    up = []
    for i in reversed(range(sum(key.endswith("/val") for key in file))):
        at = torch.stack([file[f"U{i}/row"], file[f"U{i}/col"]]).long()
        up.append(
            torch.sparse_coo_tensor(
                at, file[f"U{i}/val"], file[f"U{i}/shape"].tolist(), check_invariants=True
            )
        )
    vertices = int(file["adj/n"])
    adjacency = torch.zeros(vertices, vertices, dtype=torch.bool)
    adjacency[file["adj/row"].long(), file["adj/col"].long()] = True
    return MeshOperators(adjacency=adjacency, up=tuple(up)), file


def _first(x: Tensor) -> Tensor:
    """Tokens first, as the references have them."""
    return x.transpose(0, 1)


@checker("tore.fastmetro_transformer", "tore.nsr")
@torch.no_grad()
def check_transformer(case: Case) -> Result:
    options, tensors = case.meta["config"], case.under("input")
    layers = options.get("num_layers") or options["num_enc_layers"]
    if options.get("num_dec_layers", layers) != layers:
        raise ValueError("encoder and decoder of different depth are not covered")
    transformer = QueryTransformer(
        QueryTransformerConfig(
            dim=options["model_dim"],
            mlp_dim=options["feedforward_dim"],
            layers=layers,
            heads=options["nhead"],
        )
    )
    prefix = "transformer_3." if case.kind == "tore.nsr" else ""
    load_into(transformer, weights_of(case), KeyTable(layout="", renames=((r"(.*)", prefix + r"\1"),)), "")
    transformer.eval()
    names = ("body_features", "vertex_tokens") if prefix else ("img_features", "jv_tokens")
    context, queries = (_first(tensors[name]) for name in names)
    forbidden = tensors["attention_mask"]
    vertices = options.get("adj", options.get("vertices"))
    shared = len(forbidden) - vertices
    neighbours = neighbours_of(~forbidden[shared:, shared:], shared)
    if not torch.equal(neighbours.allowed(), ~forbidden):
        raise ValueError("the mask is not one of joints in front of a mesh")
    camera, context, queries = transformer(
        context, _first(tensors["cam_token"]), queries, _first(tensors["pos_embed"]), neighbours
    )
    outputs = ("enc_body_features", "vertex_features") if prefix else ("enc_img_features", "jv_features")
    return {
        "output/cam_features": _first(camera),
        f"output/{outputs[0]}": _first(context),
        f"output/{outputs[1]}": _first(queries),
    }


@checker("tore.itp")
@torch.no_grad()
def check_itp(case: Case) -> Result:
    options, features = case.meta["config"], case_input(case.meta, case.tensors, "img_features")
    reducer = ITPConfig(keep_ratio=options["keep_ratio"]).build(options["channels"], features.shape[-2:])
    load_into(reducer, weights_of(case), KeyTable(layout=""), case.case)
    tokens, scores = reducer.eval()(features)
    return {"output/tokens": tokens, "output/itp_scores": scores}


def fastmetro_head(options: dict[str, Any], operators: MeshOperators, kind: str) -> FastMetroHeadConfig:
    """The head that a case describes; what it leaves out has the published size."""
    wide, narrow = options.get("model_dim_1", 512), options.get("model_dim_2", 128)
    if "model_dims" in options:
        wide, narrow = options["model_dims"][:2]
    mlp_dims = options.get(
        "feedforward_dims", [options.get("feedforward_dim_1", 2048), options.get("feedforward_dim_2", 512)]
    )
    reduced = "keep_ratio" in options
    return FastMetroHeadConfig(
        context_dim=options.get("conv_1x1_dim", 1280 if "efficientnet" in options.get("arch", "") else 2048),
        joints=14 if kind == "body" else 21,
        mesh=operators.config(stored=False),
        layers=LAYERS[options["model_name"][-1]],
        dims=(wide, narrow),
        mlp_dims=tuple(mlp_dims[:2]),
        heads=options.get("transformer_nhead", options.get("nhead", 8)),
        learned_levels=1 if kind == "body" and not reduced else 0,
        parameters=MeshParametersConfig() if options.get("use_smpl_param_regressor") else None,
    )


def nsr(options: dict[str, Any], head: FastMetroHeadConfig) -> NSRConfig:
    """The regressor of a case with the depth of its head."""
    default = options.get("feedforward_dims", [0, 0, 512])[2]
    return NSRConfig(
        dim=head.dims[1],
        mlp_dim=options.get("feedforward_dim_3", default),
        layers=head.layers,
        heads=head.heads,
    )


def read_levels(output: MeshOutput) -> dict[str, Tensor]:
    """Outputs under the names of METRO and TORE."""
    levels = {f"output/vertices_{level.shape[1]}": level for level in output.vertices}
    return {"output/cam": output.camera, "output/joints": output.joints, **levels}


def read_fastmetro(output: MeshOutput) -> dict[str, Tensor]:
    """Outputs under the names of FastMETRO."""
    names = ("coarse", "intermediate", "fine") if len(output.vertices) == 3 else ("coarse", "fine")
    pairs = zip(names, output.vertices, strict=True)
    result = {f"output/pred_3d_vertices_{name}": level for name, level in pairs}
    if output.params is not None:
        params = output.params
        result["output/pred_rotmat"] = torch.cat([params.global_orient, params.body_pose], dim=1)
        result["output/pred_betas"] = params.betas
    return {**result, "output/pred_cam": output.camera, "output/pred_3d_joints": output.joints}


def watch(head: nn.Module) -> dict[str, Any]:
    """What transformers, reducer and encoders inside a head return, by their name there."""
    seen: dict[str, Any] = {}
    for name, part in head.named_modules():
        if isinstance(part, QueryTransformer | ImageTokenPruner) or name in ("conv_1x1",):
            part.register_forward_hook(lambda module, inputs, out, name=name: seen.update({name: out}))
    return seen


@checker("tore.fastmetro")
@torch.no_grad()
def check_fastmetro(case: Case) -> Result:
    options, features = case.meta["config"], case_input(case.meta, case.tensors, "features")
    kind = "body" if case.tensors["output/pred_3d_joints"].shape[1] == 14 else "hand"
    operators, _ = standin(case, kind)
    config = fastmetro_head(options, operators, kind)
    head = build_mesh_head(replace(config, grid=tuple(features.shape[-2:])))
    load_into(Wrapper(head=head), weights_of(case), MESH_HEAD_TABLE, case.case)
    head.set_mesh(operators)
    return {
        **read_fastmetro(head.eval()(features)),
        **{
            f"mid/pos_enc_{i}": sine_positions(*features.shape[-2:], dim)[:, None]
            for i, dim in enumerate(config.dims, start=1)
        },
    }


@checker("tore.fastmetro_gtr_itp")
@torch.no_grad()
def check_reduced_fastmetro(case: Case) -> Result:
    options, features = case.meta["config"], case_input(case.meta, case.tensors, "features")
    kind = "body" if case.tensors["output/joints"].shape[1] == 14 else "hand"
    operators, _ = standin(case, kind)
    config = fastmetro_head(options, operators, kind)
    config = replace(config, grid=tuple(features.shape[-2:]))
    head = build_mesh_head(config, ITPConfig(keep_ratio=options["keep_ratio"]), nsr(options, config))
    load_into(Wrapper(head=head), weights_of(case), MESH_HEAD_TABLE, case.case)
    head.set_mesh(operators)
    seen = watch(head)
    output = head.eval()(features)
    assert output.clusters is not None
    return {**read_levels(output), "output/itp_scores": output.clusters, **reduced_mids(seen, config)}


def reduced_mids(seen: dict[str, Any], config: FastMetroHeadConfig) -> dict[str, Tensor]:
    """Values between, under the names of the cases."""
    tokens = seen["reducer"][0]
    return {
        "mid/conv_1x1_out": seen["conv_1x1"],
        "mid/itp_tokens": tokens,
        "mid/pos_enc_1": sine_positions(tokens.shape[1], 1, config.dims[0])[:, None],
        "mid/pos_enc_3": sine_positions(config.joints, 1, config.dims[1])[:, None],
        "mid/t1_cam": _first(seen["transformer_1"][0]),
        "mid/t1_joint_features": _first(seen["transformer_1"][2]),
        "mid/t2_cam": _first(seen["transformer_2"][0]),
        "mid/t2_joint_features": _first(seen["transformer_2"][2]),
        "mid/nsr_vertex_features": _first(seen["regressor.transformer"][2]),
    }


def metro_head(options: dict[str, Any], operators: MeshOperators, kind: str) -> MetroHeadConfig:
    """The head that a case describes."""
    first, *widths = options["input_feat_dim"]
    return MetroHeadConfig(
        context_dim=first - 3,
        cells=49 if kind == "body" else None,
        joints=14 if kind == "body" else 21,
        mesh=operators.config(stored=False),
        widths=tuple(widths),
        hidden=tuple(options["hidden_feat_dim"]),
        layers=options["num_hidden_layers"],
        heads=options["num_attention_heads"],
        mlp_dim=options["intermediate_size"],
        positions=options["max_position_embeddings"],
        camera_hidden=250 if kind == "body" else 150,
        camera_reads_joints=kind == "hand",
    )


def body_template(case: Case, file: dict[str, Tensor], coarse: bool) -> Tensor:
    """Joints, and coarse vertices if asked for, of the case's body at rest about its pelvis."""
    vertices = case.tensors["input/template_vertices"][0]
    joints = file["J_h36m"] @ vertices
    near = vertices[file["D0/col"].long()][file["D1/col"].long()] if coarse else vertices[:0]
    return rest_template(joints[list(BODY_JOINTS_OF_17)], near, joints[0])


@checker("tore.metro_encoder")
@torch.no_grad()
def check_metro_encoder(case: Case) -> Result:
    options = case.meta["config"]
    tokens = case.tensors["input/tokens"]
    operators, _ = standin(case, "hand")
    config = replace(metro_head(options, operators, "body"), joints=1)
    config = replace(config, mesh=replace(config.mesh, vertices=(tokens.shape[1] - 1, tokens.shape[1])))
    head = build_mesh_head(config)
    encoders = Wrapper(head=Wrapper(trans_encoder=head.trans_encoder))
    load_into(encoders, weights_of(case), MESH_HEAD_TABLE, case.case)
    encoders.eval()
    result: dict[str, Tensor] = {}
    for i, encoder in enumerate(head.trans_encoder):
        tokens, _ = encoder(tokens)
        result[f"mid/block{i}"] = tokens
    return {**result, "output/tokens": tokens}


@checker("tore.metro")
@torch.no_grad()
def check_metro(case: Case) -> Result:
    options, features = case.meta["config"], case_input(case.meta, case.tensors, "features")
    kind = "hand" if "input/template_joints" in case.tensors else "body"
    operators, file = standin(case, kind)
    config = metro_head(options, operators, kind)
    if kind == "hand":
        joints = case.tensors["input/template_joints"][0]
        coarse = case.tensors["input/template_vertices"][0][file["D0/col"].long()]
        template = rest_template(joints, coarse, joints[0])
        features = features[..., None, None]
    else:
        template = body_template(case, file, True)
        config = replace(config, cells=features.shape[-1] * features.shape[-2])
    head = build_mesh_head(config)
    load_into(Wrapper(head=head), weights_of(case), MESH_HEAD_TABLE, case.case)
    head.set_mesh(operators, template)
    output = head.eval()(features, True, case.tensors["input/meta_masks"] if options.get("masked") else None)
    levels = read_levels(output)
    coarsest = output.vertices[0]
    return {
        **levels,
        "mid/ref_points": template[None],
        "mid/encoder_out": torch.cat([output.joints, coarsest], dim=1),
    }


@checker("tore.metro_gtr")
@torch.no_grad()
def check_reduced_metro(case: Case) -> Result:
    options, features = case.meta["config"], case_input(case.meta, case.tensors, "features")
    operators, file = standin(case, "body")
    config = replace(metro_head(options, operators, "body"), cells=features.shape[-1] * features.shape[-2])
    head = build_mesh_head(config, None, metro_nsr(options))
    template = body_template(case, file, False)
    load_into(Wrapper(head=head), weights_of(case), MESH_HEAD_TABLE, case.case)
    head.set_mesh(operators, template)
    seen, hidden = watch(head), []
    head.regressor.register_forward_pre_hook(lambda module, inputs: hidden.append(inputs[0]))
    mask = case.tensors["input/meta_masks"] if options.get("masked") else None
    output = head.eval()(features, True, mask)
    return {
        **read_levels(output),
        "mid/ref_points": template[None],
        "mid/body_features": hidden[0],
        "mid/nsr_vertex_features": _first(seen["regressor.transformer"][2]),
    }


def metro_nsr(options: dict[str, Any]) -> NSRConfig:
    """The regressor behind METRO's last encoder; three layers unless a case says otherwise."""
    return NSRConfig(
        dim=options["hidden_feat_dim"][-1],
        mlp_dim=options["feedforward_dim_3"],
        layers=options.get("nsr_layers", 3),
        heads=options["transformer_nhead_3"],
    )
