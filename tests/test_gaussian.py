"""A transition's log-prob and KL against scipy's densities in float64."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from scipy.stats import norm

from grpo_bench.sampling.gaussian import Likelihood, gaussian_kl, log_prob, transition_mean

SHAPE = (3, 4, 8, 8)
DIMENSIONS = 4 * 8 * 8
STD_B = np.array([0.0063, 0.3, 1.7])


def draws(seed: int) -> tuple[np.ndarray, np.ndarray]:
    """Means, and points drawn around them with `STD_B`, float64."""
    rng = np.random.default_rng(seed)
    mean = rng.standard_normal(SHAPE)
    return mean, mean + STD_B[:, None, None, None] * rng.standard_normal(SHAPE)


@pytest.mark.parametrize("reduction", ["mean", "sum"])
def test_log_prob_is_the_gaussian_density_reduced_over_dimensions(reduction: str) -> None:
    # given points in float64
    mean, point = draws(0)
    tensors = [torch.from_numpy(values) for values in (point, mean, STD_B)]
    # when
    ours_B = log_prob(*tensors, Likelihood(reduction=reduction))
    # then scipy agrees, constants included
    density = norm.logpdf(point, mean, STD_B[:, None, None, None]).reshape(3, -1)
    np.testing.assert_allclose(ours_B.numpy(), getattr(density, reduction)(1), rtol=1e-12)


def test_log_prob_in_single_precision_is_near_the_density() -> None:
    mean, point = draws(1)
    tensors = [torch.from_numpy(values.astype(np.float32)) for values in (point, mean, STD_B)]
    density = norm.logpdf(point, mean, STD_B[:, None, None, None]).reshape(3, -1).mean(1)
    # rounding of points near 1 against a std of .0063 leaves 1e-5; the wider ones are good to 1e-6
    np.testing.assert_allclose(log_prob(*tensors, Likelihood()).numpy(), density, rtol=0, atol=5e-5)


@pytest.mark.parametrize(("reduction", "divisor"), [("mean", DIMENSIONS), ("sum", 1)])
def test_the_raw_scale_is_minus_the_squared_error(reduction: str, divisor: int) -> None:
    mean, point = draws(2)
    tensors = [torch.from_numpy(values) for values in (point, mean, STD_B)]
    expected_B = -((point - mean) ** 2).reshape(3, -1).sum(1) / divisor
    likelihood = Likelihood(reduction=reduction, scale="raw")
    np.testing.assert_allclose(log_prob(*tensors, likelihood).numpy(), expected_B, rtol=1e-12)


def test_kl_is_the_mean_over_dimensions_of_the_closed_form() -> None:
    # KL(N(a, s) || N(b, s)) = log(s/s) + (s^2 + (a-b)^2) / (2 s^2) - 1/2 in each dimension
    rng = np.random.default_rng(3)
    one, other = rng.standard_normal(SHAPE), rng.standard_normal(SHAPE)
    variance = (STD_B**2)[:, None, None, None]
    expected_B = ((variance + (one - other) ** 2) / (2 * variance) - 0.5).reshape(3, -1).mean(1)
    ours_B = gaussian_kl(*(torch.from_numpy(values) for values in (one, other, STD_B)))
    np.testing.assert_allclose(ours_B.numpy(), expected_B, rtol=1e-12)


def test_kl_is_the_expected_difference_of_log_probs() -> None:
    # given 200,000 points of one Gaussian: the definition, by Monte Carlo
    rng = np.random.default_rng(4)
    std, shift, count = 0.5, 0.3, 200_000
    point = torch.from_numpy(std * rng.standard_normal((count, 1)))
    wide = torch.full((count,), std, dtype=torch.float64)
    own, other = (log_prob(point, torch.full_like(point, mean), wide, Likelihood()) for mean in (0.0, shift))
    kl = gaussian_kl(torch.zeros(1, 1), torch.full((1, 1), shift), torch.tensor([std]))
    error = float((own - other).std()) / count**0.5
    assert float((own - other).mean()) == pytest.approx(float(kl), abs=4 * error)


def test_the_mean_takes_each_rows_own_coefficients() -> None:
    x, v = torch.ones(2, 1, 2, 2), torch.full((2, 1, 2, 2), 10.0)
    mean = transition_mean(x, v, torch.tensor([1.0, 2.0]), torch.tensor([0.5, -0.25]))
    assert mean[:, 0, 0, 0].tolist() == [6.0, -0.5]
    assert mean.shape == x.shape
