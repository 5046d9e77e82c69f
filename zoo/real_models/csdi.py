"""The conditional score network of ``csdi-physionet`` (Tashiro et al. 2021, "CSDI").

Imputes gaps in 35 measurements over 48 hours: predicts the noise in the hidden values from the
values that are known. Four residual layers, each with attention over time, attention over
measurements and a gate; 50 steps with quadratic betas from 1e-4 to 0.5.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn

FEATURES = 35
HOURS = 48
TIMESTEPS = 50
WIDTH = 64
TIME_WIDTH = 128
FEATURE_WIDTH = 16
DIFFUSION_WIDTH = 128
LAYERS = 4
HEADS = 8


def alphas_cumprod() -> Tensor:
    """Part of the signal that is left after each step, shape [TIMESTEPS]."""
    betas = torch.linspace(1e-4**0.5, 0.5**0.5, TIMESTEPS, dtype=torch.float64) ** 2
    return (1 - betas).cumprod(0).float()


def attention_layer() -> nn.TransformerEncoder:
    """One post-norm transformer layer of WIDTH."""
    layer = nn.TransformerEncoderLayer(
        WIDTH, HEADS, dim_feedforward=WIDTH, dropout=0, activation="gelu"
    )
    return nn.TransformerEncoder(layer, num_layers=1, enable_nested_tensor=False)


class DiffusionEmbedding(nn.Module):
    """Of the step: sines and cosines of 64 frequencies from 1 to 10,000, and two layers."""

    def __init__(self) -> None:
        super().__init__()
        self.projection1 = nn.Linear(DIFFUSION_WIDTH, DIFFUSION_WIDTH)
        self.projection2 = nn.Linear(DIFFUSION_WIDTH, DIFFUSION_WIDTH)

    def forward(self, timesteps: Tensor) -> Tensor:
        half = DIFFUSION_WIDTH // 2
        angles = timesteps[:, None] * 10.0 ** (torch.arange(half) / (half - 1) * 4.0)
        waves = torch.cat([angles.sin(), angles.cos()], dim=1)
        silu = nn.functional.silu
        return silu(self.projection2(silu(self.projection1(waves))))


class ResidualLayer(nn.Module):
    """Attention over time and over measurements, the side information, and a gate."""

    def __init__(self) -> None:
        super().__init__()
        side = TIME_WIDTH + FEATURE_WIDTH + 1
        self.diffusion_projection = nn.Linear(DIFFUSION_WIDTH, WIDTH)
        self.cond_projection = nn.Conv1d(side, 2 * WIDTH, 1)
        self.mid_projection = nn.Conv1d(WIDTH, 2 * WIDTH, 1)
        self.output_projection = nn.Conv1d(WIDTH, 2 * WIDTH, 1)
        self.time_layer = attention_layer()
        self.feature_layer = attention_layer()

    def forward(self, x: Tensor, side: Tensor, step: Tensor) -> tuple[Tensor, Tensor]:
        """``x`` [n, WIDTH, K, L]; gives the next ``x`` and what is added to the output."""
        n, _, k, length = x.shape
        y = x + self.diffusion_projection(step)[:, :, None, None]
        # The transformer takes [positions, batch, WIDTH].
        y = y.permute(3, 0, 2, 1).reshape(length, n * k, WIDTH)
        y = self.time_layer(y).view(length, n, k, WIDTH)
        y = y.permute(2, 1, 0, 3).reshape(k, n * length, WIDTH)
        y = self.feature_layer(y).view(k, n, length, WIDTH).permute(1, 3, 0, 2)
        y = self.mid_projection(y.flatten(2)) + self.cond_projection(side.flatten(2))
        gate, value = y.chunk(2, dim=1)
        y = self.output_projection(gate.sigmoid() * value.tanh()).view(n, 2 * WIDTH, k, length)
        residual, skip = y.chunk(2, dim=1)
        return (x + residual) / math.sqrt(2), skip


class ScoreNetwork(nn.Module):
    """From the two input planes and the side information to the noise."""

    def __init__(self) -> None:
        super().__init__()
        self.diffusion_embedding = DiffusionEmbedding()
        self.input_projection = nn.Conv1d(2, WIDTH, 1)
        self.output_projection1 = nn.Conv1d(WIDTH, WIDTH, 1)
        self.output_projection2 = nn.Conv1d(WIDTH, 1, 1)
        self.residual_layers = nn.ModuleList(ResidualLayer() for _ in range(LAYERS))

    def forward(self, planes: Tensor, side: Tensor, timesteps: Tensor) -> Tensor:
        n, _, k, length = planes.shape
        step = self.diffusion_embedding(timesteps)
        x = self.input_projection(planes.flatten(2)).relu().view(n, WIDTH, k, length)
        total = torch.zeros_like(x)
        for layer in self.residual_layers:
            x, skip = layer(x, side, step)
            total = total + skip
        x = self.output_projection1((total / math.sqrt(LAYERS)).flatten(2)).relu()
        out: Tensor = self.output_projection2(x)
        return out.view(n, k, length)


class Csdi(nn.Module):
    """Predicts the noise in the hidden values of series [n, K, L]."""

    def __init__(self) -> None:
        super().__init__()
        self.embed_layer = nn.Embedding(FEATURES, FEATURE_WIDTH)
        self.diffmodel = ScoreNetwork()

    def forward(self, noisy: Tensor, known: Tensor, mask: Tensor, timesteps: Tensor) -> Tensor:
        """Shape [n, K, L]; ``mask`` is 1 where ``known`` holds a value, 0 where noise hides it."""
        planes = torch.stack([known * mask, noisy * (1 - mask)], dim=1)
        return self.diffmodel(planes, self._side(mask), timesteps)

    def _side(self, mask: Tensor) -> Tensor:
        """Hour, measurement and mask, shape [n, TIME_WIDTH + FEATURE_WIDTH + 1, K, L]."""
        n, k, length = mask.shape
        rates = 10000.0 ** (-torch.arange(0, TIME_WIDTH, 2) / TIME_WIDTH)
        angles = torch.arange(length)[:, None] * rates
        hours = torch.stack([angles.sin(), angles.cos()], dim=2).flatten(1)  # [L, TIME_WIDTH]
        hours = hours.T[None, :, None, :].expand(n, -1, k, -1)
        features = self.embed_layer.weight.T[None, :, :, None].expand(n, -1, -1, length)
        return torch.cat([hours, features, mask[:, None]], dim=1)
