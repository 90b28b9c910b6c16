from __future__ import annotations

import torch

from fasthmr.heads.dense_keypoints import DenseKeypointsHeadConfig


def test_points_and_their_uncertainty():
    torch.manual_seed(0)
    config = DenseKeypointsHeadConfig(
        context_dim=10, dim=16, depth=2, heads=2, head_dim=4, mlp_dim=12, points=7
    )
    head = config.build().eval()
    features = torch.randn(3, 10, 4, 3, generator=torch.Generator().manual_seed(1))
    with torch.no_grad():
        output = head(features)
        alone = head(features[1:2])
        head.dec_kp.bias[2::3] += 1
        surer = head(features)
    assert output.xy.shape == (3, 7, 2) and output.log_sigma.shape == (3, 7)
    assert torch.allclose(alone.xy[0], output.xy[1], atol=1e-5)
    assert torch.equal(surer.xy, output.xy)
    assert torch.allclose(surer.log_sigma, output.log_sigma + 1)


def test_published_size():
    with torch.device("meta"):
        head = DenseKeypointsHeadConfig(context_dim=1280).build()
    assert head.dec_kp.out_features == 414
