from __future__ import annotations

import numpy as np
import pytest
from fill import case_input, fill, fill_tensor, filled_weights, kind_of

VECTORS = {  # test vectors of the rule, seed 5 and gain 0.8
    "conv.weight": ((2, 3, 1, 1), "weight", [0.31849429594690054, 0.5503966057920074, 0.05731136244001292]),
    "bn.running_var": ((4,), "var", [1.066347917986187, 0.9055311997441087, 1.4856701749698842]),
    "bn.running_mean": ((4,), "mean", [0.15596402465555334, -0.16642242823673847, 0.07076046910075466]),
    "bn.weight": ((4,), "scale", [1.106332043180689, 0.7860897962069391, 1.1054418439015266]),
    "bn.bias": ((4,), "bias", [0.05260599927042096, 0.05327059697553885, 0.05606447413623068]),
    "layer_norm.weight": ((2, 3), "scale", [0.9840159121037433, 0.8376008389215823, 1.1857245872885371]),
    "cam_token_embed.weight": ((1, 4), "embed", [0.9172137715285973, 0.8408151806478064]),
    "bert.img_embedding.weight": ((2, 5), "weight", [0.15576378034123461, -0.22401298834505173]),
    "self_attn.in_proj_weight": ((3, 2), "weight", [0.5089929297046297, 0.7335266328139788]),
}


@pytest.mark.parametrize("key", VECTORS)
def test_vectors(key):
    shape, kind, first = VECTORS[key]
    assert kind_of(key, shape) == kind
    values = fill(key, shape, seed=5, gain=0.8)
    assert values.shape == shape
    np.testing.assert_allclose(values.ravel()[: len(first)], first, rtol=0, atol=1e-15)


def test_counters_are_zero():
    tensor = fill_tensor("bn.num_batches_tracked", (), seed=5)
    assert tensor.shape == () and tensor.item() == 0 and not tensor.is_floating_point()


def test_inputs_are_scaled_by_name():
    meta = {"seed": 7, "inputs": {"images": {"shape": [1, 3, 8, 8]}}}
    images = case_input(meta, {}, "images")
    assert 1.5 < images.abs().max() < 2
    assert case_input(meta, {"input/images": images[:, :1]}, "images").shape == (1, 1, 8, 8)


def test_a_listing_of_another_rule_is_noticed():
    listed = {"shape": [4], "kind": "bias", "first": [0.5]}
    with pytest.raises(ValueError, match=r"bn\.bias"):
        filled_weights({"seed": 5, "gain": 0.8, "state_dict": {"bn.bias": listed}})
