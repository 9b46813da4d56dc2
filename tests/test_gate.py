"""The gate between softmax and counts, fitted to targets drawn from a known mixture."""

import numpy as np
from scipy.optimize import approx_fprime

from eqids.fit.gate import GateTargets, fit_gate, gate_loss


def drawn(num: int, gate: np.ndarray, seed: int = 0) -> GateTargets:
    """Targets of 50 items, drawn with P = (1 - λ) P_softmax + λ P_counts."""
    rng = np.random.default_rng(seed)
    features = np.stack(
        [np.ones(num), rng.uniform(0, 4, num), rng.uniform(0, 8, num)], axis=1
    )
    share = 1 / (1 + np.exp(-features @ gate))
    softmax, counts = (rng.dirichlet(np.full(50, a), num) for a in (0.3, 0.05))
    counts[:, ::3] = 0  # targets that counts do not predict
    counts /= counts.sum(axis=1, keepdims=True)
    prob = (1 - share)[:, None] * softmax + share[:, None] * counts
    target = (prob.cumsum(axis=1) > rng.random(num)[:, None]).argmax(axis=1)
    row = np.arange(num)
    with np.errstate(divide="ignore"):
        logs = (np.log(x[row, target]) for x in (softmax, counts))
        return GateTargets(*logs, features)


def test_a_known_gate_is_recovered() -> None:
    for gate in ([-1.0, 0.5, 0.1], [0.5, 0.0, -0.4]):
        targets = drawn(20_000, np.array(gate))
        found = fit_gate(targets)
        shares = [1 / (1 + np.exp(-targets.features @ g)) for g in (found, gate)]
        assert np.abs(shares[0] - shares[1]).mean() < 0.03
        np.testing.assert_array_equal(found, fit_gate(targets))
        assert gate_loss(found, targets)[0] <= gate_loss(np.array(gate), targets)[0]


def test_the_gradient_is_that_of_differences() -> None:
    targets, gate = drawn(200, np.array([-0.5, 0.2, 0.1])), np.array([0.3, -0.2, 0.1])
    numeric = approx_fprime(gate, lambda g: gate_loss(g, targets)[0], 1e-6)
    np.testing.assert_allclose(gate_loss(gate, targets)[1], numeric, rtol=1e-3)


def test_without_targets_the_odds_are_even() -> None:
    none = GateTargets(np.zeros(0), np.zeros(0), np.zeros((0, 3)))
    assert fit_gate(none).tolist() == [0, 0, 0]
