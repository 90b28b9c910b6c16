from __future__ import annotations

import torch

from fasthmr.temporal.latent_lines import Lead, Settling


def randn(*shape: int, seed: int = 0) -> torch.Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed))


def test_nothing_is_added_until_fitted() -> None:
    latents, features = randn(2, 6, 4), randn(2, 18, 3, seed=1)
    assert torch.equal(Settling(4)(latents), latents)
    assert torch.equal(Lead(4, 3, 3)(latents, features), latents)


def test_settling_finds_a_linear_map() -> None:
    read = randn(50, 6, 4)
    before = torch.cat([read[:, :1], read[:, :-1]], dim=1)
    true = 0.7 * read + 0.2 * before + 0.1
    settle = Settling(4)
    settle.fit([(read[:30], true[:30]), (read[30:], true[30:])])
    torch.testing.assert_close(settle(read), true, atol=1e-2, rtol=0)


def fitted() -> Lead:
    lead = Lead(4, 3, 3)
    features = randn(40, 2, 1, 3, seed=3).expand(-1, -1, 9, -1).flatten(1, 2)
    latents = randn(40, 6, 4)
    turn = randn(3, 4, seed=4)
    lead.fit(latents, features, latents + features[:, 1::3] @ turn)
    return lead


def test_lead_reads_features_that_are_there() -> None:
    lead, latents, features = fitted(), randn(2, 6, 4, seed=5), randn(2, 18, 3, seed=6)
    all_of_them = lead(latents, features)
    assert not torch.allclose(all_of_them, latents)
    gone = features.clone()
    gone[0] = torch.nan
    gone[1, 7] = torch.nan
    found = lead(latents, gone)
    assert torch.equal(found[0], latents[0])
    assert found.isfinite().all() and not torch.allclose(found[1], all_of_them[1])


def test_lead_reads_no_hidden_frames() -> None:
    lead, latents, features = fitted(), randn(1, 6, 4, seed=5), randn(1, 18, 3, seed=6)
    mask = (torch.arange(18) < 7)[None]
    other = features.clone()
    other[:, 7:] += 1
    assert torch.equal(lead(latents, features, mask), lead(latents, other, mask))
    assert not torch.allclose(lead(latents, features), lead(latents, other))


def test_lead_of_a_constant_feature_is_constant() -> None:
    lead, features = fitted(), torch.ones(1, 18, 3)
    moved = lead(torch.zeros(1, 6, 4), features)
    torch.testing.assert_close(moved, moved[:, :1].expand_as(moved))
