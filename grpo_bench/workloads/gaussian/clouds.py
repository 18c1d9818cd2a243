"""The prompts' Gaussians: mean, covariance and the target their reward asks for, drawn from the prompt's text alone.

x ~ N(mean, S) with S = basis diag(spectrum) basis^T, twelve numbers, full and anisotropic; any text is a prompt.
"""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from functools import lru_cache

import numpy as np
import numpy.typing as npt

Floats = npt.NDArray[np.float64]

SHAPE = (3, 2, 2)
"""Channels, height and width of a latent."""
NUMBERS = 12
"""Its numbers, D."""
SPECTRUM: Floats = np.geomspace(0.1, 2.0, NUMBERS)
"""Variances along the principal axes, before each is scaled by a factor between 0.7 and 1.3."""
OFFSET: Floats = np.tile([1.0, -1.0], NUMBERS // 2)
"""From a prompt's mean to its target, for every prompt: what a policy that prompts share can learn."""
OWN_OFFSET = 0.3
"""Half-width of the target's further offset, which each prompt has of its own."""


@dataclass(frozen=True, eq=False)
class Cloud:
    """One prompt's Gaussian and target, float64: mean, spectrum, target (D,); basis (D, D), its columns the axes."""

    mean: Floats
    spectrum: Floats
    basis: Floats
    target: Floats

    @property
    def covariance(self) -> Floats:
        """S (D, D)."""
        return np.asarray((self.basis * self.spectrum) @ self.basis.T, dtype=np.float64)


@lru_cache(maxsize=4096)
def cloud(prompt: str) -> Cloud:
    """The Gaussian and target of a prompt, from a Philox stream that its text names."""
    stream = _stream(f"cloud\0{prompt}")
    mean = stream.uniform(-1.5, 1.5, NUMBERS)
    spectrum = SPECTRUM * stream.uniform(0.7, 1.3, NUMBERS)
    basis = _rotation(stream)
    target = mean + OFFSET + stream.uniform(-OWN_OFFSET, OWN_OFFSET, NUMBERS)
    for values in (mean, spectrum, basis, target):
        values.flags.writeable = False
    return Cloud(mean, spectrum, basis, target)


def _stream(name: str) -> np.random.Generator:
    digest = hashlib.blake2b(name.encode(), digest_size=16).digest()
    return np.random.Generator(np.random.Philox(key=int.from_bytes(digest, "little")))


def _rotation(stream: np.random.Generator) -> Floats:
    """A uniformly random orthogonal matrix: QR of a normal one, with the signs that make it unique."""
    q_DD, r_DD = np.linalg.qr(stream.standard_normal((NUMBERS, NUMBERS)))
    return np.asarray(q_DD * np.sign(np.diag(r_DD)), dtype=np.float64)


def _quality() -> Floats:
    basis_DD = _rotation(_stream("quality"))
    quality_DD = np.asarray((basis_DD * np.linspace(0.5, 1.5, NUMBERS)) @ basis_DD.T, dtype=np.float64)
    quality_DD.flags.writeable = False
    return quality_DD


QUALITY: Floats = _quality()
"""The reward's matrix Q (D, D), positive definite with eigenvalues from 0.5 to 1.5, the same for every prompt."""
