"""Checkpoints of METRO, FastMETRO and TORE, for bodies and hands.

Published files leave out the mesh (adjacency and upsampling operators) and the body at rest; `set_mesh` of
the model takes them.
"""

from __future__ import annotations

from fasthmr.checkpoints.keymap import KeyTable

_BERT_UNUSED = "table or pooler of BERT that nothing calls"

_LAYER = r"head\.trans_encoder\.(\d+)\.layers\.(\d+)\."
_PUBLISHED_LAYER = r"trans_encoder.\1.bert.encoder.layer.\2."

HEAD_RENAMES: tuple[tuple[str, str], ...] = (
    (_LAYER + r"(query|key|value)\.", _PUBLISHED_LAYER + r"attention.self.\3."),
    (_LAYER + r"proj\.", _PUBLISHED_LAYER + "attention.output.dense."),
    (_LAYER + r"norm1\.", _PUBLISHED_LAYER + "attention.output.LayerNorm."),
    (_LAYER + r"fc1\.", _PUBLISHED_LAYER + "intermediate.dense."),
    (_LAYER + r"fc2\.", _PUBLISHED_LAYER + "output.dense."),
    (_LAYER + r"norm2\.", _PUBLISHED_LAYER + "output.LayerNorm."),
    (
        r"head\.trans_encoder\.(\d+)\.(position_embeddings|img_embedding)\.",
        r"trans_encoder.\1.bert.\2.",
    ),
    (r"head\.tokens\.mix\.", "conv_learn_tokens."),
    (r"head\.upsampling\.steps\.0\.", "upsampling."),
    (r"head\.upsampling\.steps\.1\.", "upsampling2."),
    (r"head\.upsamplers\.0\.", "coarse2intermediate_upsample."),
    (r"head\.parameters_of\.", "smpl_parameter_regressor."),
    (r"head\.regressor\.transformer\.", "transformer_3."),
    (r"head\.regressor\.", ""),
    (r"head\.reducer\.", ""),
    (r"head\.", ""),
)
"""From our keys to published ones, without the trunk."""

HEAD_IGNORED: tuple[tuple[str, str], ...] = (
    (r"trans_encoder\.\d+\.bert\.(embeddings|pooler)\.", _BERT_UNUSED),
)

MESH_HEAD_TABLE = KeyTable(layout="METRO, FastMETRO or TORE", renames=HEAD_RENAMES, ignored=HEAD_IGNORED)
"""Heads alone."""
