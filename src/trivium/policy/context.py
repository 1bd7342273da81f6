"""What the action head may look at: the trunk's thoughts about a sample, and its patches where asked for."""

from typing import Literal

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor, nn

from trivium.action.model import given
from trivium.core.batch import Batch, Kind
from trivium.core.config import Config
from trivium.core.errors import ConfigError
from trivium.policy.visible import Visible, prompt, ranks


class HiddenContextConfig(Config):
    """The action head sees the language model's last hidden states of the prompt: no action tokens, no answers."""

    kind: Literal["hidden"] = "hidden"

    def build(self, vision_width: int, num_patches: int, width: int) -> "HiddenContext":
        """Build; the sizes do not matter here."""
        return HiddenContext()


class PatchContextConfig(Config):
    """The action head sees, beside the hidden states, the encoder's patches at full resolution.

    The connector folds patches together; where things are to the centimetre is lost there and kept here.
    """

    kind: Literal["patches"] = "patches"
    num_views: int = 1
    """The most pictures a robot sample may have; each has its own place embedding. More in the data is refused."""

    def build(self, vision_width: int, num_patches: int, width: int) -> "PatchContext":
        """Build for an encoder of this width and number of patches, next to hidden states of `width`.

        Raises:
            ConfigError: no views at all.
        """
        if self.num_views < 1:
            raise ConfigError("context.num_views", str(self.num_views), "1 or more", "Use kind 'hidden' for none.")
        return PatchContext(vision_width, num_patches, width, self.num_views)


Tokens = tuple[Float[Tensor, "m x d"], Bool[Tensor, "m x"]]
"""Context tokens of every sample, and which of them exist and may be seen."""


class HiddenContext(nn.Module):
    """Gathers hidden states; it has no weights."""

    def forward(
        self,
        batch: Batch,
        visible: Visible,
        documents: Int[Tensor, " m"],
        hidden: Float[Tensor, "b t d"],
        patches: Float[Tensor, "n p e"] | None,
    ) -> Tokens:
        """Return the context of the given documents.

        Only the prompt is in it: the flow must not read the action from its rival's tokens. What dropout took is out.
        """
        wanted = prompt(batch) & (given(batch.kinds, "kinds") != Kind.ACTION)
        owners = visible.documents.masked_fill(~wanted, -1)
        index, mask = group(owners.flatten(), documents, len(batch.ids))
        return take(hidden.flatten(0, 1), index, mask), mask


class PatchContext(HiddenContext):
    """Gathers hidden states and, before them, the projected patches of the sample's pictures."""

    def __init__(self, vision_width: int, num_patches: int, width: int, num_views: int) -> None:
        """Build the projection and the places."""
        super().__init__()
        self.num_views = num_views
        self.norm = nn.LayerNorm(vision_width)
        self.rise = nn.Linear(vision_width, width)
        self.place = nn.Parameter(0.02 * torch.randn(num_views, num_patches, width))

    def forward(
        self,
        batch: Batch,
        visible: Visible,
        documents: Int[Tensor, " m"],
        hidden: Float[Tensor, "b t d"],
        patches: Float[Tensor, "n p e"] | None,
    ) -> Tokens:
        """Return the context of the given documents, patches first.

        Raises:
            ConfigError: a sample has more pictures than there are places for.
        """
        tokens, mask = super().forward(batch, visible, documents, hidden, patches)
        if patches is None or batch.images_document is None:
            return tokens, mask
        # Places are dealt before anything is left out: they belong to the camera, whichever others can be seen.
        index, there = group(batch.images_document, documents, len(batch.ids))
        if index.shape[1] > self.num_views:
            raise ConfigError(
                "context.num_views",
                f"{index.shape[1]} pictures in one of the samples of this batch",
                f"at most {self.num_views}",
                "Raise context.num_views or select fewer views in the data transform.",
            )
        shown = there & visible.images[index]
        mine = take(patches.flatten(1), index, shown).unflatten(2, patches.shape[1:])
        detail = self.rise(self.norm(mine.to(self.rise.weight.dtype))) + self.place[: index.shape[1]]
        shown = shown.repeat_interleave(patches.shape[1], 1)
        return torch.cat([detail.flatten(1, 2).to(tokens.dtype), tokens], 1), torch.cat([shown, mask], 1)


def group(
    owners: Int[Tensor, " n"], documents: Int[Tensor, " m"], num_documents: int
) -> tuple[Int[Tensor, "m x"], Bool[Tensor, "m x"]]:
    """Find, for each document, the indices of what it owns, in order, and where that list has ended.

    Pure index arithmetic: a loop over tokens would cost more than a layer of the language model.
    """
    slots = torch.full((num_documents + 1,), -1, dtype=torch.long, device=owners.device)
    slots[documents] = torch.arange(len(documents), device=owners.device)
    slot = slots[torch.where(owners >= 0, owners, num_documents)]
    rank, found = ranks(slot, len(documents)), (slot >= 0).nonzero().squeeze(1)
    longest = int(rank.max()) + 1 if len(found) else 0
    index = torch.zeros(len(documents), longest, dtype=torch.long, device=owners.device)
    index[slot[found], rank[found]] = found
    mask = torch.zeros(len(documents), longest, dtype=torch.bool, device=owners.device)
    mask[slot[found], rank[found]] = True
    return index, mask


def take(rows: Float[Tensor, "n d"], index: Int[Tensor, "m x"], mask: Bool[Tensor, "m x"]) -> Float[Tensor, "m x d"]:
    """Look rows up; where the list has ended there are zeros, not somebody else's row."""
    found = rows.index_select(0, index.flatten()).view(*index.shape, rows.shape[1])
    return torch.where(mask[..., None], found, 0.0)
