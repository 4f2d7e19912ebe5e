"""SimPool: the image pooled by the attention that its average pays to each position."""

from __future__ import annotations

from torch import Tensor, nn

from search_spaces.pooling.windows import tokens

LEAST = 1e-6


class SimPool(nn.Module):
    """Attention pooling with one head and without a value projection, for convolutional networks and transformers.

    The query is a projection of the average token, the keys are projections of the normalised tokens, and the values are the
    normalised tokens v themselves: (sum_n a_n v_n^gamma)^(1/gamma), after the smallest value of the image is taken from v.

    Args:
        channels: of the images or tokens.
        gamma: the exponent; 2 is published for convolutional networks, 1.25 for transformers. None: the weighted sum of v.

    Raises:
        ValueError: `gamma` is not positive.

    Reference: Psomas et al., "Keep It SimPool: Who Said Supervised Transformers Suffer from Attention Deficit?", ICCV 2023,
    arXiv:2309.06891.
    Differs: the smallest value is that of each image; the released code takes it over the batch, so that images change each other.
    """

    def __init__(self, channels: int, *, gamma: float | None = 2.0) -> None:
        super().__init__()
        if gamma is not None and gamma <= 0:
            raise ValueError(f"`gamma` of SimPool must be positive, got {gamma}; 2 is usual, None sums without a power")
        self.gamma = gamma
        self.norm = nn.LayerNorm(channels, eps=LEAST)
        self.query = nn.Linear(channels, channels, bias=False)
        self.key = nn.Linear(channels, channels, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        """Images (B, C, H, W) or tokens (B, N, C) -> (B, C)."""
        x = tokens(x)
        values = self.norm(x)
        weights = self._weights(x, values).unsqueeze(1)
        if self.gamma is None:
            return (weights @ values).squeeze(1)
        values = values - values.amin((1, 2), keepdim=True) + LEAST
        return (weights @ values.pow(self.gamma)).squeeze(1).pow(1 / self.gamma)

    def attention(self, x: Tensor) -> Tensor:
        """The weight of each position: images (B, C, H, W) or tokens (B, N, C) -> (B, H W) or (B, N), each row adding up to 1."""
        x = tokens(x)
        return self._weights(x, self.norm(x))

    def _weights(self, x: Tensor, normalised: Tensor) -> Tensor:
        query = self.query(x.mean(1)).unsqueeze(2)
        return (self.key(normalised) @ query).squeeze(2).div(x.shape[2] ** 0.5).softmax(1)

    def extra_repr(self) -> str:
        return f"gamma={self.gamma}"
