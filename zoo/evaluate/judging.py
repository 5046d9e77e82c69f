"""Quality of samples by a small classifier that knows what they should show.

The Frechet distance of samples from held-out data is that of normal distributions fitted to the
classifier's features (Heusel et al. 2017, equation 6): |m - m'|^2 + tr(C + C' - 2 (C C')^1/2).
"""

from __future__ import annotations

from typing import Protocol

import numpy as np
import torch
from torch import Tensor

from zoo.evaluate.subject import Floats


class Judge(Protocol):
    """A classifier with features before its last layer."""

    def features(self, samples: Tensor) -> Tensor:
        """Shape [n, features]."""

    def __call__(self, samples: Tensor) -> Tensor:
        """Logits, shape [n, classes]."""


def judge_scores(
    judge: Judge, samples: Tensor, held_out: Tensor, wanted: Tensor | None = None
) -> dict[str, float]:
    """Score samples; ``wanted`` are the classes that a conditional model was asked for.

    Returns
    -------
    dict
        "accuracy" (if ``wanted``): share of samples judged to be of their class. "confidence":
        mean probability of the likeliest class. "classes": how many classes the samples spread
        over, the exponential of the entropy of the verdicts. "Frechet distance" from held-out data.
    """
    with torch.inference_mode():
        probabilities = judge(samples).softmax(dim=1)
        features = [judge.features(part).double().numpy() for part in (samples, held_out)]
    verdicts = probabilities.argmax(dim=1)
    shares = torch.bincount(verdicts, minlength=probabilities.shape[1]) / len(verdicts)
    found = {} if wanted is None else {"accuracy": float((verdicts == wanted).float().mean())}
    return found | {
        "confidence": float(probabilities.amax(dim=1).mean()),
        "classes": float(torch.exp(-torch.xlogy(shares, shares).sum())),
        "Frechet distance": frechet_distance(*features),
    }


def agreement(judge: Judge, samples: Tensor, reference: Tensor) -> float:
    """Share of samples that the judge takes for the same as the reference's of the same seed."""
    with torch.inference_mode():
        same = judge(samples).argmax(dim=1) == judge(reference).argmax(dim=1)
    return float(same.float().mean())


def frechet_distance(a: Floats, b: Floats) -> float:
    """Between normal distributions fitted to features [n, k] and [m, k]."""
    # One item alone has no spread.
    covariances = [np.atleast_2d(np.cov(x, rowvar=False, bias=len(x) < 2)) for x in (a, b)]
    values, vectors = np.linalg.eigh(covariances[0])
    root = vectors * np.sqrt(values.clip(0)) @ vectors.T
    # C C' and C^1/2 C' C^1/2 have the same eigenvalues; the second is symmetric.
    common = np.sqrt(np.linalg.eigvalsh(root @ covariances[1] @ root).clip(0)).sum()
    moved = np.square(a.mean(axis=0) - b.mean(axis=0)).sum()
    return float(max(moved + sum(np.trace(c) for c in covariances) - 2 * common, 0.0))
