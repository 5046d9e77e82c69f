"""A plain GPTQ to measure against: Frantar et al. 2023 (arXiv 2210.17323), algorithm 1.

Act-order with static groups, a float scale and offset per group from a search weighted by the
diagonal of H, one pass. Everything in float64 with numpy; nothing of the engine is used.
"""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

Matrix = npt.NDArray[np.float32]
Doubles = npt.NDArray[np.float64]

#: Mean of the diagonal of H that is added to it.
DAMPING = 0.01
#: Parts of the range of a group that the search tries.
SHRINKS = np.linspace(1.0, 0.4, 25)
BLOCK = 128


def group_parameters(weights: Doubles, importance: Doubles, bits: int) -> tuple[Doubles, Doubles]:
    """Scale and offset of each row of `weights` [rows, group]: least weighted squared error."""
    top = (1 << bits) - 1
    low, high = weights.min(axis=1), weights.max(axis=1)
    best = np.full(len(weights), np.inf)
    scale, offset = np.ones(len(weights)), np.zeros(len(weights))
    for shrink_low in SHRINKS[::3]:
        for shrink_high in SHRINKS[::3]:
            a, b = low * shrink_low, high * shrink_high
            step = np.maximum((b - a) / top, 1e-12)
            codes = np.clip(np.rint((weights - a[:, None]) / step[:, None]), 0, top)
            # Least squares for these codes.
            step, a = _refit(weights, codes, importance, step, a)
            codes = np.clip(np.rint((weights - a[:, None]) / step[:, None]), 0, top)
            error = (weights - step[:, None] * codes - a[:, None]) ** 2 @ importance
            better = error < best
            best[better] = error[better]
            scale[better], offset[better] = step[better], a[better]
    return scale, offset


def _refit(
    weights: Doubles, codes: Doubles, importance: Doubles, step: Doubles, offset: Doubles
) -> tuple[Doubles, Doubles]:
    total = importance.sum()
    mean_code = codes @ importance / total
    mean_weight = weights @ importance / total
    spread = codes**2 @ importance / total - mean_code**2
    together = (codes * weights) @ importance / total - mean_code * mean_weight
    fits = (spread > 1e-9) & (together > 0)
    new = np.where(fits, together / np.where(fits, spread, 1.0), step)
    return new, np.where(fits, mean_weight - new * mean_code, offset)


def gptq(weights: Matrix, gram: Matrix, bits: int, group: int) -> tuple[Matrix, float]:
    """Restored weights [rows, columns] and their bits, two fp16 parameters a group counted."""
    rows, columns = weights.shape
    w, h = weights.astype(np.float64), gram.astype(np.float64)
    dead = np.diag(h) <= 0
    h[dead, dead] = 1.0
    w[:, dead] = 0.0
    importance = np.diag(h).copy()
    parameters = []
    for first in range(0, columns, group):
        part = slice(first, first + group)
        scale, offset = group_parameters(w[:, part], importance[part], bits)
        parameters.append(tuple(p.astype(np.float16).astype(np.float64) for p in (scale, offset)))
    order = np.argsort(-importance, kind="stable")
    h = h[np.ix_(order, order)] + DAMPING * importance.mean() * np.eye(columns)
    upper = np.linalg.cholesky(np.linalg.inv(h)).T
    w = w[:, order]
    restored = np.empty_like(w)
    top = (1 << bits) - 1
    for first in range(0, columns, BLOCK):
        last = min(first + BLOCK, columns)
        errors = np.empty((rows, last - first))
        for i in range(first, last):
            scale, offset = parameters[order[i] // group]
            scale = np.where(scale == 0, 1.0, scale)
            codes = np.clip(np.rint((w[:, i] - offset) / scale), 0, top)
            restored[:, i] = codes * scale + offset
            error = (w[:, i] - restored[:, i]) / upper[i, i]
            w[:, i:last] -= np.outer(error, upper[i, i:last])
            errors[:, i - first] = error
        w[:, last:] -= errors @ upper[first:last, last:]
    result = np.empty(weights.shape, np.float32)
    result[:, order] = restored
    groups = -(-columns // group)
    return result, bits + 32 * groups / columns
