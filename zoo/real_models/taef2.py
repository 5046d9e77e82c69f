"""The small autoencoder ``taef2-vae``: images [n, 3, h, w] in 0 .. 1 to latents [n, 32, h/8, w/8].

Blocks of three 3 x 3 convolutions beside the identity, three times at half the size; near the
latents a block first adds a look at the whole image (1 x 1 convolutions around a group norm).
"""

from __future__ import annotations

from torch import Tensor, nn

WIDTH = 64
LATENTS = 32
#: Size of an image over that of its latents.
REDUCTION = 8


class Block(nn.Module):
    """Three convolutions beside the identity."""

    def __init__(self, *, pooled: bool = False) -> None:
        super().__init__()
        self.pool = None
        if pooled:
            self.pool = nn.Sequential(
                nn.Conv2d(WIDTH, 4 * WIDTH, 1, bias=False),
                nn.GroupNorm(4, 4 * WIDTH),
                nn.ReLU(),
                nn.Conv2d(4 * WIDTH, WIDTH, 1, bias=False),
            )
        self.conv = nn.Sequential(
            nn.Conv2d(WIDTH, WIDTH, 3, padding=1),
            nn.ReLU(),
            nn.Conv2d(WIDTH, WIDTH, 3, padding=1),
            nn.ReLU(),
            nn.Conv2d(WIDTH, WIDTH, 3, padding=1),
        )

    def forward(self, x: Tensor) -> Tensor:
        if self.pool is not None:
            x = x + self.pool(x)
        out: Tensor = (self.conv(x) + x).relu()
        return out


class Clamp(nn.Module):
    """Keeps latents within -3 .. 3, smoothly."""

    def forward(self, x: Tensor) -> Tensor:
        return (x / 3).tanh() * 3


def three_blocks(*, pooled: bool = False) -> list[nn.Module]:
    """What stands between two changes of size."""
    return [Block(pooled=pooled) for _ in range(3)]


def make_encoder() -> nn.Sequential:
    """Images to latents."""

    def halve() -> nn.Module:
        return nn.Conv2d(WIDTH, WIDTH, 3, stride=2, padding=1, bias=False)

    return nn.Sequential(
        nn.Conv2d(3, WIDTH, 3, padding=1),
        Block(),
        *(halve(), *three_blocks()),
        *(halve(), *three_blocks()),
        *(halve(), *three_blocks(pooled=True)),
        nn.Conv2d(WIDTH, LATENTS, 3, padding=1),
    )


def make_decoder() -> nn.Sequential:
    """Latents to images."""

    def double() -> list[nn.Module]:
        conv = nn.Conv2d(WIDTH, WIDTH, 3, padding=1, bias=False)
        return [nn.Upsample(scale_factor=2), conv]

    return nn.Sequential(
        Clamp(),
        nn.Conv2d(LATENTS, WIDTH, 3, padding=1),
        nn.ReLU(),
        *(*three_blocks(pooled=True), *double()),
        *(*three_blocks(), *double()),
        *(*three_blocks(), *double()),
        Block(),
        nn.Conv2d(WIDTH, 3, 3, padding=1),
    )
