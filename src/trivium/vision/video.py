"""From images to space-time: clips through an image encoder."""

import torch
from jaxtyping import Float, UInt8
from torch import Tensor, nn

from trivium.core.errors import ConfigError
from trivium.vision.encoder import Encoder, PatchEncoder, cut, normalise


class SpaceTime(nn.Module):
    """What an image encoder lacks to see clips: when a patch was, and what moved in it.

    With `tubelet` 1 every frame is encoded by itself and only told its time. With more, a patch spans that many frames
    and all patches of a clip attend to one another, as in VideoMAE (https://arxiv.org/abs/2203.12602).

    A patch of several frames is the mean of its frames under the image encoder's own projection (a kernel inflated
    over time, https://arxiv.org/abs/1705.07750) plus a projection of what differs from that mean. Together they are
    any `tubelet` x p x p kernel. The second part and the times start at zero: a still clip gives what its picture
    gives, and what the first part learns remains in the image encoder.
    """

    def __init__(self, encoder: Encoder, frames: int, tubelet: int) -> None:
        """Build for clips of `frames` pictures.

        Raises:
            ConfigError: an encoder that is not cut in patches, or frames that tubelets do not divide.
        """
        super().__init__()
        if frames % tubelet:
            raise ConfigError(
                "objective.tubelet", str(tubelet), f"a divisor of frames ({frames})", "Change frames or tubelet."
            )
        if not isinstance(encoder, PatchEncoder):
            raise ConfigError(
                "objective.frames",
                f"{frames} beside the encoder {type(encoder).__name__}, which sees pictures only",
                "1",
                "Set frames=1 and tubelet=1, or choose a ViT for model.vision (not a ResNet, not DINOv3).",
            )
        self.tubelet, self.steps, self.patch_size = tubelet, frames // tubelet, encoder.patch_size
        self.time_token = nn.Parameter(torch.zeros(self.steps, 1, encoder.width))
        self.motion = nn.Linear(3 * tubelet * self.patch_size**2, encoder.width, bias=False) if tubelet > 1 else None
        if self.motion is not None:
            nn.init.zeros_(self.motion.weight)

    def embed(self, encoder: PatchEncoder, images: UInt8[Tensor, "n 3 h w"]) -> Float[Tensor, "m p d"]:
        """Embed the patches of every moment; `images` are all frames of a clip, then all of the next."""
        tokens = encoder.embed(images).unflatten(0, (-1, self.tubelet)).mean(1)
        if self.motion is not None:
            pixels = normalise(images).unflatten(0, (-1, self.tubelet))
            moved = (pixels - pixels.mean(1, keepdim=True)).flatten(0, 1).to(self.motion.weight.dtype)
            patches = cut(moved, self.patch_size).flatten(2).unflatten(0, (-1, self.tubelet))
            tokens = tokens + self.motion(patches.transpose(1, 2).flatten(2))
        return (tokens.unflatten(0, (-1, self.steps)) + self.time_token).flatten(0, 1)

    def encode(self, encoder: PatchEncoder, tokens: Float[Tensor, "m q d"]) -> Float[Tensor, "m q d"]:
        """Run the encoder's layers, over every frame by itself or over whole clips."""
        if self.tubelet == 1:
            return encoder.encode(tokens)
        clips = encoder.encode(tokens.unflatten(0, (-1, self.steps)).flatten(1, 2))
        return clips.unflatten(1, (self.steps, -1)).flatten(0, 1)
