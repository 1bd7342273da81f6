"""How likely a head is to answer with a chunk: log-probabilities for policy gradients, exact for what is computed."""

import math
from abc import abstractmethod
from collections.abc import Callable
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor
from torch.nn.attention import SDPBackend, sdpa_kernel

from trivium.action.model import ActionModel, Context, Drawn, kept
from trivium.core.errors import ConfigError, TrainingError

Velocity = Callable[[Tensor, float], Tensor]
"""Velocity of every chunk at a time, each from itself alone: shapes "m k a", float to "m k a"."""

TOLERANCE = 256
"""Roundings (3e-5 in float32), in normalised units, by which an inverted step may miss its chunk."""
MOST_STEPS = 30
"""Newton steps for one Euler step; a step that is one-to-one takes 2 to 5."""


class OneAnswer(ActionModel):
    """A head that knows one answer; with a temperature above 0 it explores around it.

    The temperature is the standard deviation, in normalised units, of independent normal noise on every number.
    """

    @abstractmethod
    def answer(self, context: Context) -> Float[Tensor, "m k a"]:
        """Return the chunks, with gradient."""

    @torch.no_grad()
    def sample(
        self, context: Context, generator: torch.Generator | None = None, temperature: float | None = None
    ) -> Float[Tensor, "m k a"]:
        """Return the chunks; something is drawn only where a temperature above 0 is given."""
        answer, spread = self.answer(context), check_temperature(temperature or 0.0)
        if not spread:
            return answer
        noise = torch.randn(answer.shape, generator=generator, device=answer.device)
        return answer + kept(spread * noise, context)

    @torch.no_grad()
    def draw(
        self, context: Context, generator: torch.Generator | None = None, temperature: float | None = None
    ) -> Drawn:
        """Draw chunks around the answer.

        Raises:
            ConfigError: no temperature above 0.
        """
        actions = self.sample(context, generator, temperature)
        return Drawn(actions, self.log_prob(actions, context, temperature), actions - self.answer(context))

    def log_prob(
        self,
        actions: Float[Tensor, "m k a"],
        context: Context,
        temperature: float | None = None,
        noise: Float[Tensor, "m k a"] | None = None,
    ) -> Float[Tensor, " m"]:
        """Return the log density of chunks around the answer; nothing is searched for, so `noise` is not needed.

        Raises:
            ConfigError: no temperature above 0.
        """
        spread = refuse_certainty(check_temperature(temperature or 0.0), self.error_name)
        return normal_log_prob(actions - self.answer(context), spread)


def normal_log_prob(x: Float[Tensor, "m k a"], spread: float) -> Float[Tensor, " m"]:
    """Return the log density of chunks under independent normals of mean 0, in nats.

    A dimension that a robot lacks is 0 in every chunk and adds the same to all of them.
    """
    x = x.flatten(1)
    return -0.5 * (x / spread).square().sum(1) - x.shape[1] * math.log(spread * math.sqrt(2 * math.pi))


def follow(
    velocity: Velocity, noise: Float[Tensor, "m k a"], num_steps: int, spread: float
) -> tuple[Float[Tensor, "m k a"], Float[Tensor, " m"]]:
    """Integrate noise of a spread from t = 1 to 0 in Euler steps; return the chunks and their log density.

    A step x' = x - v(x, t) / N multiplies volumes by |det(I - J / N)|, J the Jacobian of v, so the density is that of
    the noise less the sum of their logarithms. This is the density of what the policy does, not that of the
    continuous flow it approximates (https://arxiv.org/abs/1810.01367), and no estimate of the trace is needed: a chunk
    is small. ReinFlow (https://arxiv.org/abs/2505.22094) adds learned noise to every step to get densities in closed
    form, FPO (https://arxiv.org/abs/2507.21053) takes a bound from the flow loss; both train another policy than
    the one that is deployed. Where a step folds space (||J|| > N) two noises may meet in one chunk, and this is the
    share of the one that was drawn.
    """
    log_prob, x = normal_log_prob(noise, spread), noise
    for i in range(num_steps):
        speed, slope = slope_of(velocity, x, 1 - i / num_steps)
        log_prob = log_prob - volume(slope, num_steps)
        x = x - speed / num_steps
    return x, log_prob


def trace_back(
    velocity: Velocity,
    actions: Float[Tensor, "m k a"],
    num_steps: int,
    spread: float,
    near: Float[Tensor, "m k a"] | None = None,
) -> tuple[Float[Tensor, "m k a"], Float[Tensor, " m"]]:
    """Find the noise from which the Euler steps reach given chunks; return it and the chunks' log density.

    Every step is inverted by Newton's method; noise and density depend on the velocity's parameters as the implicit
    function theorem says, so that the gradient is exact for fixed chunks.
    `near` is noise that led to these chunks or, before the last updates, did: every search then begins on its path,
    which makes it short and, where several noises lead to one chunk, finds the same one again.

    Raises:
        TrainingError: a step cannot be inverted.
    """
    path = None if near is None else _path(velocity, near, num_steps)
    x, changed = actions, actions.new_zeros(len(actions))
    for i in reversed(range(num_steps)):
        time = 1 - i / num_steps
        found, slope = _invert(velocity, x if path is None else path[i], x, time, num_steps)
        error = found - velocity(found, time) / num_steps - x
        error = (error - error.detach()).flatten(1)  # zero, with the gradient of a Newton step
        x = found - torch.linalg.solve(_one_step(slope, num_steps), error).view_as(x)
        _, slope = slope_of(velocity, x, time)
        changed = changed + volume(slope, num_steps)
    return x, normal_log_prob(x, spread) - changed


def slope_of(
    velocity: Velocity, x: Float[Tensor, "m k a"], time: float
) -> tuple[Float[Tensor, "m k a"], Float[Tensor, "m y x"]]:
    """Return the velocity and its Jacobian, of every chunk by itself, with gradient.

    One pull for each number of a chunk, all chunks of the batch at once: they do not hear of one another.
    """
    size = x[0].numel()
    pulls = torch.eye(size, dtype=x.dtype, device=x.device).view(size, 1, *x.shape[1:]).expand(size, *x.shape)
    with sdpa_kernel(SDPBackend.MATH):  # torch's fused kernels have no rule for many pulls at once
        pulled: Any = torch.func.vjp(lambda at: velocity(at, time), x)
        speed, pull = pulled
        (rows,) = torch.func.vmap(pull)(pulls)
    return speed, rows.flatten(2).transpose(0, 1)


def volume(slope: Float[Tensor, "m y x"], num_steps: int) -> Float[Tensor, " m"]:
    """Return log|det(I - J / N)|."""
    return torch.linalg.slogdet(_one_step(slope, num_steps)).logabsdet


def refuse_low_precision(parameter: Tensor) -> None:
    """Refuse a head in bfloat16: it is a function of steps there, which has no slope.

    Raises:
        ConfigError: the weights are not float32 or float64.
    """
    if parameter.dtype not in (torch.float32, torch.float64):
        raise ConfigError(
            "log-probabilities",
            f"an action head in {str(parameter.dtype).removeprefix('torch.')}",
            "float32: rounded answers have no density",
            "Call policy.model.action.float() before acting and learning; the trunk may stay as it is.",
        )


def refuse_certainty(temperature: float, head: str) -> float:
    """Return a temperature at which a head has a density.

    Raises:
        ConfigError: the temperature is 0.
    """
    if temperature == 0:
        raise ConfigError(
            f"log-probabilities of the {head} head",
            "temperature 0, at which the answer is certain",
            "above 0",
            "Give temperature=0.1 to 1 where log-probabilities are asked for.",
        )
    return temperature


def check_temperature(temperature: float) -> float:
    """Return a temperature.

    Raises:
        ConfigError: below 0, NaN or infinite.
    """
    if not 0 <= temperature < math.inf:
        raise ConfigError("temperature", str(temperature), "0 or more", "1 draws as was learned, 0 does not explore.")
    return float(temperature)


def _one_step(slope: Float[Tensor, "m y x"], num_steps: int) -> Float[Tensor, "m y x"]:
    return torch.eye(slope.shape[-1], dtype=slope.dtype, device=slope.device) - slope / num_steps


@torch.no_grad()
def _path(velocity: Velocity, noise: Float[Tensor, "m k a"], num_steps: int) -> list[Float[Tensor, "m k a"]]:
    """Return where each Euler step begins."""
    path = [noise]
    for i in range(num_steps - 1):
        path.append(path[-1] - velocity(path[-1], 1 - i / num_steps) / num_steps)
    return path


@torch.no_grad()
def _invert(
    velocity: Velocity, start: Float[Tensor, "m k a"], after: Float[Tensor, "m k a"], time: float, num_steps: int
) -> tuple[Float[Tensor, "m k a"], Float[Tensor, "m y x"]]:
    """Return x of x - v(x, time) / N = after, and the Jacobian of v there.

    Newton's method; a chunk whose error would grow goes back and takes half the step.
    """
    x = base = start
    enough = TOLERANCE * torch.finfo(after.dtype).eps * after[0].numel() ** 0.5
    least = torch.full((len(after),), math.inf, dtype=after.dtype, device=after.device)
    move = torch.zeros_like(after)
    for _ in range(MOST_STEPS):
        speed, slope = slope_of(velocity, x, time)
        error = (x - speed / num_steps - after).flatten(1)
        size = error.norm(dim=1)
        if bool((size < enough).all()):
            return x, slope
        better = size <= least
        newton = torch.linalg.solve_ex(_one_step(slope, num_steps), error).result.view_as(x)
        kept = better[:, None, None]
        base, move = torch.where(kept, x, base), torch.where(kept, newton, move / 2)
        least = torch.where(better, size, least)
        x = base - move
    bad = int(torch.where(least.isfinite(), least, math.inf).argmax())
    raise TrainingError(
        f"log-probability of chunk {bad}",
        f"no noise from which the flow reaches it at t = {time:g} (the nearest is {float(least[bad]):.2g} away)",
        "a chunk that this policy can make",
        "Give chunks as this policy drew them (normalised, not clipped) and the noise that came with them; after many "
        "updates, draw new ones.",
    )
