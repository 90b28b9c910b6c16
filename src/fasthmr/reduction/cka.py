"""Centred kernel alignment: how alike two layers describe the same examples (arXiv 1905.00414).

A diagnostic for layer merging (FastHMR, arXiv 2510.10868, fig. 2); the search never uses it. Features are
(examples, channels); an example is one token of one picture, or the mean token of a picture. Everything is
computed in double precision.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from jaxtyping import Float
from torch import Tensor

Features = Float[Tensor, "_ _"]
"""(examples, channels); layers may differ in channels."""


def hsic(grams: Float[Tensor, "layers examples examples"]) -> Float[Tensor, "layers layers"]:
    """Biased HSIC of all pairs: tr(K H L H) / (n - 1)²."""
    centred = grams - grams.mean(1, keepdim=True)
    centred = centred - centred.mean(2, keepdim=True)
    flat = centred.flatten(1)
    return flat @ flat.T / (grams.shape[1] - 1) ** 2


def hsic_unbiased(grams: Float[Tensor, "layers examples examples"]) -> Float[Tensor, "layers layers"]:
    """HSIC of all pairs without bias (Song et al., JMLR 2012, eq. 5; arXiv 2010.15327, eq. 3).

    Raises:
        ValueError: There are fewer than 4 examples.
    """
    n = grams.shape[1]
    if n < 4:
        raise ValueError(f"the unbiased HSIC needs at least 4 examples, got {n}")
    hollow = grams - torch.diag_embed(grams.diagonal(dim1=1, dim2=2))
    flat, rows = hollow.flatten(1), hollow.sum(2)
    totals = rows.sum(1)
    products = flat @ flat.T + torch.outer(totals, totals) / ((n - 1) * (n - 2)) - 2 / (n - 2) * rows @ rows.T
    return products / (n * (n - 3))


def cka_map(layers: Sequence[Features], *, unbiased: bool = False) -> Float[Tensor, "layers layers"]:
    """Linear CKA of all pairs of layers, from all examples at once.

    Raises:
        ValueError: There are too few examples, or the layers saw different numbers of them.
    """
    grams = _grams(layers)
    if grams.shape[1] < 2:
        raise ValueError("CKA needs at least 2 examples")
    return _alignment(hsic_unbiased(grams) if unbiased else hsic(grams))


class MinibatchCKA:
    """Linear CKA of all pairs from equal batches, which need not be in memory together (arXiv 2010.15327).

    The unbiased HSIC is averaged over batches; alignment comes last. A batch of another size than the first
    (the incomplete one at the end) is dropped.
    """

    def __init__(self) -> None:
        self._total: Float[Tensor, "layers layers"] | None = None
        self._examples = 0

    def update(self, layers: Sequence[Features]) -> None:
        """Add one batch.

        Raises:
            ValueError: It has fewer than 4 examples, or the layers saw different numbers of them.
        """
        grams = _grams(layers)
        if self._total is None:
            self._examples, self._total = grams.shape[1], hsic_unbiased(grams)
        elif grams.shape[1] == self._examples:
            self._total = self._total + hsic_unbiased(grams)

    def compute(self) -> Float[Tensor, "layers layers"]:
        """The map of all batches so far.

        Raises:
            ValueError: There was none.
        """
        if self._total is None:
            raise ValueError("no batch was added")
        return _alignment(self._total)


def cka_minibatch(layers: Sequence[Features], batch: int) -> Float[Tensor, "layers layers"]:
    """`MinibatchCKA` over consecutive batches of examples; the last incomplete one is dropped."""
    cka = MinibatchCKA()
    for start in range(0, len(layers[0]) - batch + 1, batch):
        cka.update([layer[start : start + batch] for layer in layers])
    return cka.compute()


def _grams(layers: Sequence[Features]) -> Float[Tensor, "layers examples examples"]:
    counts = {len(layer) for layer in layers}
    if len(counts) != 1:
        raise ValueError(f"all layers must have seen the same examples, got {sorted(counts)} of them")
    return torch.stack([layer.double() @ layer.double().T for layer in layers])


def _alignment(products: Float[Tensor, "layers layers"]) -> Float[Tensor, "layers layers"]:
    scale = products.diagonal().sqrt()
    return products / torch.outer(scale, scale)
