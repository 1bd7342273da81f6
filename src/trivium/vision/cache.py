"""What a frozen encoder made of a picture, kept in memory: one that comes again is looked up."""

import hashlib
import time
from collections.abc import Iterator
from contextlib import contextmanager

import torch
from jaxtyping import Float, UInt8
from torch import Tensor

from trivium.core.errors import ConfigError
from trivium.vision.encoder import Encoder


class FeatureCache:
    """Patches by a hash of the picture's bytes, up to a number of bytes; what comes later is encoded each time.

    Nothing is pushed out: a stage walks through its pictures epoch by epoch, and under such a walk a cache that forgets
    the oldest forgets just what comes next. Pictures of one call that are not known are encoded together, so that the
    batch of a picture may be another one than without a cache; on most processors that changes no bit of it, on some
    the last.
    """

    def __init__(self, encoder: Encoder, gigabytes: float) -> None:
        """Hold the encoder and the room."""
        self._encoder, self._room = encoder, int(gigabytes * 1e9)
        self._kept: dict[bytes, Tensor] = {}
        self.num_bytes = self.asked = self.hits = 0
        self._encoded, self._encode_s, self._look_s = 0, 0.0, 0.0

    @contextmanager
    def attached(self, where: str) -> Iterator["FeatureCache"]:
        """Answer for the encoder while a block runs.

        Raises:
            ConfigError: the encoder learns, so that what it made of a picture would be old at once.
        """
        if any(parameter.requires_grad for parameter in self._encoder.parameters()):
            raise ConfigError(where, "an encoder that learns", "one that is frozen", f"Set {where}=0.")
        assert not any(module.training for module in self._encoder.modules()), "a frozen encoder is in eval mode"
        self._encoder.forward = self.encode  # hides the method of the class for this one encoder
        try:
            yield self
        finally:
            del self._encoder.forward

    def encode(self, images: UInt8[Tensor, "n 3 h w"]) -> Float[Tensor, "n p d"]:
        """Return the patches of pictures; those of an evaluation are not kept."""
        whole = type(self._encoder).forward
        if not torch.is_grad_enabled():
            return whole(self._encoder, images)
        begin = time.perf_counter()
        keys = [hashlib.blake2b(picture.tobytes(), digest_size=16).digest() for picture in images.cpu().numpy()]
        first = {key: place for place, key in reversed(list(enumerate(keys)))}
        missing = {key: place for key, place in first.items() if key not in self._kept}
        self.asked, self.hits = self.asked + len(keys), self.hits + len(keys) - len(missing)
        self._look_s += time.perf_counter() - begin
        made: dict[bytes, Tensor] = {}
        if missing:
            begin = time.perf_counter()
            fresh = whole(self._encoder, images[list(missing.values())])
            made = dict(zip(missing, fresh.unbind(), strict=True))
            self._keep(made)
            self._encoded, self._encode_s = self._encoded + len(made), self._encode_s + time.perf_counter() - begin
        return torch.stack([made[key] if key in made else self._kept[key].to(images.device) for key in keys])

    @property
    def gain(self) -> str:
        """Say what the cache was good for."""
        saved = self.hits * self._encode_s / max(self._encoded, 1) - self._look_s
        return (
            f"{self.hits:,} of {self.asked:,} pictures from the cache ({self.hits / max(self.asked, 1):.0%}), "
            f"{self.num_bytes / 1e9:.2g} GB, about {saved:.1f} s of encoding saved"
        )

    def _keep(self, made: dict[bytes, Tensor]) -> None:
        for key, patches in made.items():
            if self.num_bytes + patches.nbytes <= self._room:
                self._kept[key] = patches.detach().to("cpu", copy=True)
                self.num_bytes += patches.nbytes
