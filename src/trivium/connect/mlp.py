"""InternVL's connector: fold neighbouring patches together, then a small perceptron."""

from typing import Literal

from jaxtyping import Float
from torch import Tensor, nn

from trivium.connect.connector import Connector, ConnectorConfig
from trivium.core.errors import ConfigError


class MlpConnectorConfig(ConnectorConfig):
    """Pixel shuffle and a two-layer perceptron."""

    kind: Literal["mlp"] = "mlp"
    shuffle: int = 2
    """Side of the square of patches folded into one token; it must divide the encoder's grid. 1 keeps every patch;
    each step up quarters the tokens the language model pays for."""

    def fresh(self, width_in: int, grid: tuple[int, int], width_out: int, num_layers: int) -> "MlpConnector":
        """Build between an encoder and a language model; the number of its layers does not matter here.

        Raises:
            ConfigError: the grid is not a multiple of `shuffle`.
        """
        self.num_tokens(grid)
        return MlpConnector(width_in, grid, width_out, self.shuffle)

    def num_tokens(self, grid: tuple[int, int]) -> int:
        """Return what one picture becomes.

        Raises:
            ConfigError: the grid is not a multiple of `shuffle`.
        """
        if self.shuffle < 1 or grid[0] % self.shuffle or grid[1] % self.shuffle:
            raise ConfigError(
                "connect.shuffle",
                f"{self.shuffle} with a grid of {grid[0]} x {grid[1]} patches",
                "a whole number that divides both sides of the grid",
                "Change connect.shuffle or vision.image_size.",
            )
        return (grid[0] // self.shuffle) * (grid[1] // self.shuffle)


class MlpConnector(Connector):
    """LayerNorm, Linear, GELU, Linear on folded patches. Paper: https://arxiv.org/abs/2404.16821 (InternVL 1.5)."""

    published = {
        **{"mlp1.0": "norm", "mlp1.1": "rise", "mlp1.3": "fall"},  # InternVL's own
        "multi_modal_projector.layer_norm": "norm",  # and as transformers converts it
        "multi_modal_projector.linear_1": "rise",
        "multi_modal_projector.linear_2": "fall",
    }

    def __init__(self, width_in: int, grid: tuple[int, int], width_out: int, shuffle: int) -> None:
        """Build; `num_tokens` is what one picture becomes."""
        super().__init__()
        self.grid, self.shuffle = grid, shuffle
        self.token_grid = (grid[0] // shuffle, grid[1] // shuffle)
        self.num_tokens = self.token_grid[0] * self.token_grid[1]
        folded = width_in * shuffle**2
        self.norm = nn.LayerNorm(folded)
        self.rise = nn.Linear(folded, width_out)
        self.act = nn.GELU()
        self.fall = nn.Linear(width_out, width_out)

    def forward(self, patches: Float[Tensor, "n p d"]) -> Float[Tensor, "n q e"]:
        """Turn the patches of each picture into `num_tokens` embeddings, row-major."""
        folded = fold(patches.unflatten(1, self.grid), self.shuffle).flatten(1, 2)
        return self.fall(self.act(self.rise(self.norm(folded))))


def fold(patches: Float[Tensor, "n h w d"], side: int) -> Float[Tensor, "n h2 w2 e"]:
    """Fold squares of `side` x `side` patches into channels, ordered (row, column, channel): InternVL's ps_version v2.

    `F.pixel_unshuffle` gives each token the same numbers in another channel order; checkpoints fit only this one.
    """
    cells = patches.unflatten(2, (-1, side)).unflatten(1, (-1, side))
    return cells.permute(0, 1, 3, 2, 4, 5).flatten(3)
