from __future__ import annotations

import itertools
from dataclasses import replace

import pytest
import torch

from fasthmr.errors import UsageError
from fasthmr.heads.metro import MASKED, MetroHeadConfig
from fasthmr.layers.mesh_levels import MeshLevelsConfig, MeshOperators

TINY = MetroHeadConfig(
    context_dim=10, cells=4, joints=3, mesh=MeshLevelsConfig(vertices=(5, 9, 17)), widths=(8, 6),
    hidden=(12, 8, 8), layers=1, heads=2, mlp_dim=12, positions=16, camera_hidden=7, unused_words=4,
)  # fmt: skip


def ready(config: MetroHeadConfig = TINY):
    torch.manual_seed(3)
    head = config.build().eval()
    for weight in head.parameters():
        torch.nn.init.normal_(weight, std=0.3)
    levels = config.mesh.vertices
    up = tuple(torch.rand(b, a) for a, b in itertools.pairwise(levels))
    near = torch.ones(levels[0], levels[0], dtype=torch.bool)
    head.set_mesh(MeshOperators(adjacency=near, up=up), torch.randn(config.joints + levels[0], 3))
    return head


@pytest.mark.parametrize("cells", [4, None])
def test_cells_multiplied_first_equal_tokens(cells):
    head, features = ready(replace(TINY, cells=cells)), torch.randn(2, 10, 2, 2)
    first = head.trans_encoder[0]
    tokens = head.tokens.tokens(features)
    with torch.no_grad():
        for linear in (first.img_embedding, first.residual):
            assert torch.allclose(head.tokens(features, linear)[0], linear(tokens), atol=1e-5)


def test_composed_upsampling_equals_both_steps():
    head, features = ready(), torch.randn(2, 10, 2, 2)
    with torch.no_grad():
        every, last = head(features, True), head(features)
    assert [v.shape[1] for v in every.vertices] == [5, 9, 17]
    assert [v.shape[1] for v in last.vertices] == [5, 17]
    assert torch.allclose(every.vertices[-1], last.vertices[-1], atol=1e-5)
    assert every.joints.shape == (2, 3, 3) and every.camera.shape == (2, 3)


def test_hidden_tokens():
    head, features = ready(), torch.randn(2, 10, 2, 2)
    mask = head.draw_mask(64, torch.Generator().manual_seed(0))
    share = 1 - mask.mean()
    assert 0 < share < TINY.masked_share and set(mask.unique().tolist()) == {0.0, 1.0}
    seen: list[torch.Tensor] = []
    head.trans_encoder[0].register_forward_pre_hook(lambda module, inputs: seen.append(inputs[0]))
    hidden = torch.ones(2, 8, 1)
    hidden[0, 2] = 0
    head(features, mask=hidden)
    assert (seen[0][0, 2] == MASKED).all() and (seen[0][1, 2] != MASKED).any()


def test_gradients_reach_all_parameters():
    head = ready().train()
    output = head(torch.randn(2, 10, 2, 2))
    (
        output.camera.sum() + output.joints.square().sum() + sum(v.square().sum() for v in output.vertices)
    ).backward()
    assert all(p.grad is not None for p in head.parameters())
    assert len(output.vertices) == 3


def test_what_does_not_fit():
    with pytest.raises(ValueError, match="8 tokens, but positions for 4"):
        replace(TINY, positions=4).build()
    with pytest.raises(ValueError, match="one more than"):
        replace(TINY, hidden=(8,))
    head = TINY.build().eval()
    with pytest.raises(UsageError, match="starts from its body at rest"):
        head(torch.randn(1, 10, 2, 2))
    with pytest.raises(UsageError, match="template has 2 points, the model 8 tokens"):
        head.tokens.place(torch.zeros(2, 3))
