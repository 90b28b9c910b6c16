from __future__ import annotations

import numpy as np
import torch

from fasthmr.layers.ridge import fit_ridge


def test_agrees_with_least_squares_and_shrinks() -> None:
    rng = np.random.default_rng(0)
    given, wanted = rng.normal(size=(40, 3)) + 1, rng.normal(size=(40, 2))
    solved = np.linalg.lstsq(np.c_[given, np.ones(40)], wanted, rcond=None)[0]
    rows, outputs = (torch.from_numpy(part).float() for part in (given, wanted))
    linear = torch.nn.Linear(3, 2)
    fit_ridge(linear, [(rows[:15], outputs[:15]), (rows[15:].view(5, 5, 3), outputs[15:].view(5, 5, 2))], 0.0)
    np.testing.assert_allclose(linear.weight.detach().numpy().T, solved[:3], atol=1e-5)
    np.testing.assert_allclose(linear.bias.detach().numpy(), solved[3], atol=1e-5)
    before = linear.weight.detach().norm()
    fit_ridge(linear, [(rows, outputs)], 1.0)
    assert linear.weight.detach().norm() < before
