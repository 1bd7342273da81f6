"""What a simulator or a robot asks of whatever drives it."""

from collections.abc import Sequence
from typing import Protocol, runtime_checkable

import numpy as np
from jaxtyping import Float

from trivium.core.sample import Sample


@runtime_checkable
class Policy(Protocol):
    """Turns observations into chunks of commands."""

    def act(self, observations: Sequence[Sample]) -> Float[np.ndarray, "m k a"]:
        """Return one chunk of commands an observation, in physical units."""
        ...
