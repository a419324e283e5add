"""A pair's influence on the parameters, on gradients whose answers are known."""

from __future__ import annotations

import numpy as np
import pytest
import torch

import influence

WEIGHT = np.array([0.0, 0.5, 1.0, 2.5, 1.5, 0.5, 1.0, 1.0])
GRADIENTS = torch.randn(8, 30, generator=torch.Generator().manual_seed(3))


def shares(weight: np.ndarray, adam: bool, limit: float, size: int = 4) -> np.ndarray:
    return influence.shares(GRADIENTS, weight, size, adam, limit, seed=0)[0]


def test_sgd_moves_the_parameters_by_each_pair_s_weight() -> None:
    expected = WEIGHT * GRADIENTS.norm(dim=1).numpy() / 4
    assert shares(WEIGHT, adam=False, limit=0.0) == pytest.approx(expected, rel=1e-5)
    found = influence.influence_of(GRADIENTS, WEIGHT, 4, False, 0.0)
    assert found["influence"] == pytest.approx(WEIGHT, abs=1e-3)
    assert found["correlation"][0] == pytest.approx(1) and found["clipped_share"] == 0


@pytest.mark.parametrize(("adam", "limit"), [(True, 0.0), (False, 1e-3), (True, 1e-3)])
def test_adam_and_clipping_undo_a_common_factor(adam: bool, limit: float) -> None:
    assert shares(3 * WEIGHT, adam, limit) == pytest.approx(shares(WEIGHT, adam, limit), rel=1e-4)


def test_clipping_undoes_what_a_batch_of_one_pair_weighs() -> None:
    even = shares(np.ones(8), adam=False, limit=1e-3, size=1)
    clipped = shares(WEIGHT, adam=False, limit=1e-3, size=1)
    assert clipped[1:] == pytest.approx(even[1:], rel=1e-4) and clipped[0] == 0
