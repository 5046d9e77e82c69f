"""The pixel U-Net of ``ddpm-mnist`` and ``ddpm-fashion``: widths 10, 20 and 40 at 28, 14 and 7.

Three convolution blocks a level, each normalized over channels and pixels together, so an image
has to be 28 x 28. Noise prediction (Ho et al. 2020), 1,000 linear betas from 1e-4 to 0.02.
"""

from __future__ import annotations

import itertools

import torch
from torch import Tensor, nn

TIMESTEPS = 1000
TIME_WIDTH = 100
SIDE = 28


class Block(nn.Module):
    """Layer norm over [channels, side, side], then two 3 x 3 convolutions with SiLU.

    The last block of the network has the weights of its norm but does not use them.
    """

    def __init__(self, channels: int, out: int, side: int) -> None:
        super().__init__()
        self.normalize = True
        self.ln = nn.LayerNorm((channels, side, side))
        self.conv1 = nn.Conv2d(channels, out, 3, padding=1)
        self.conv2 = nn.Conv2d(out, out, 3, padding=1)

    def forward(self, x: Tensor) -> Tensor:
        x = nn.functional.silu(self.conv1(self.ln(x) if self.normalize else x))
        return nn.functional.silu(self.conv2(x))


def blocks(side: int, *widths: int) -> nn.Sequential:
    """One block for each step from a width to the next."""
    pairs = itertools.pairwise(widths)
    return nn.Sequential(*(Block(a, b, side) for a, b in pairs))


def time_layers(width: int) -> nn.Sequential:
    """From the time table to an offset of ``width`` channels."""
    return nn.Sequential(nn.Linear(TIME_WIDTH, width), nn.SiLU(), nn.Linear(width, width))


class Network(nn.Module):
    """The U-Net; attribute names are those of the stored tensors."""

    def __init__(self) -> None:
        super().__init__()
        self.time_embed = nn.Embedding(TIMESTEPS, TIME_WIDTH)
        self.te1, self.b1 = time_layers(1), blocks(28, 1, 10, 10, 10)
        self.down1 = nn.Conv2d(10, 10, 4, 2, 1)
        self.te2, self.b2 = time_layers(10), blocks(14, 10, 20, 20, 20)
        self.down2 = nn.Conv2d(20, 20, 4, 2, 1)
        self.te3, self.b3 = time_layers(20), blocks(7, 20, 40, 40, 40)
        self.down3 = nn.Sequential(nn.Conv2d(40, 40, 2, 1), nn.SiLU(), nn.Conv2d(40, 40, 4, 2, 1))
        self.te_mid, self.b_mid = time_layers(40), blocks(3, 40, 20, 20, 40)
        self.up1 = nn.Sequential(
            nn.ConvTranspose2d(40, 40, 4, 2, 1), nn.SiLU(), nn.ConvTranspose2d(40, 40, 2, 1)
        )
        self.te4, self.b4 = time_layers(80), blocks(7, 80, 40, 20, 20)
        self.up2 = nn.ConvTranspose2d(20, 20, 4, 2, 1)
        self.te5, self.b5 = time_layers(40), blocks(14, 40, 20, 10, 10)
        self.up3 = nn.ConvTranspose2d(10, 10, 4, 2, 1)
        self.te_out, self.b_out = time_layers(20), blocks(28, 20, 10, 10, 10)
        self.b_out[-1].normalize = False
        self.conv_out = nn.Conv2d(10, 1, 3, 1, 1)

    def forward(self, x: Tensor, timesteps: Tensor) -> Tensor:
        time = self.time_embed(timesteps)

        def at(layers: nn.Module) -> Tensor:
            offset: Tensor = layers(time)
            return offset[:, :, None, None]

        high = self.b1(x + at(self.te1))
        middle = self.b2(self.down1(high) + at(self.te2))
        low = self.b3(self.down2(middle) + at(self.te3))
        x = self.b_mid(self.down3(low) + at(self.te_mid))
        x = self.b4(torch.cat([low, self.up1(x)], dim=1) + at(self.te4))
        x = self.b5(torch.cat([middle, self.up2(x)], dim=1) + at(self.te5))
        x = self.b_out(torch.cat([high, self.up3(x)], dim=1) + at(self.te_out))
        out: Tensor = self.conv_out(x)
        return out


class PixelDdpm(nn.Module):
    """Predicts the noise in images [n, 1, 28, 28] at timesteps [n]."""

    def __init__(self) -> None:
        super().__init__()
        self.network = Network()

    def forward(self, x: Tensor, timesteps: Tensor) -> Tensor:
        out: Tensor = self.network(x, timesteps)
        return out
