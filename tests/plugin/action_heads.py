"""Every action head in a small size, and what they all are asked: contexts, an awake head, a seeded loss."""

from importlib.util import find_spec

import pytest
import torch

from trivium.action.cvae import CvaeConfig
from trivium.action.diffusion import DiffusionConfig, DiffusionUnetConfig
from trivium.action.expert import ExpertConfig
from trivium.action.flow import FlowConfig
from trivium.action.model import ActionModel, Context
from trivium.action.regress import RegressConfig
from trivium.action.several import SeveralConfig

HORIZON, ACTION, STATE, WIDTH = 4, 2, 3, 8
TINY = {"horizon": HORIZON, "width": 32, "heads": 4, "depth": 2}
ALL = torch.ones(2, HORIZON, dtype=torch.bool)

needs_diffusers = pytest.mark.skipif(not find_spec("diffusers"), reason="the `diffusion` extra is not installed")

CONFIGS: dict[str, ExpertConfig | SeveralConfig] = {
    "flow": FlowConfig(**TINY, num_draws=3),
    "l1": RegressConfig(**TINY),
    "l2": RegressConfig(**TINY, error="l2"),
    "cvae": CvaeConfig(**TINY, latent_dim=4, kl_weight=0.1),
    "diffusion": DiffusionConfig(**TINY, num_draws=3),
    "unet": DiffusionUnetConfig(**TINY | {"width": 16}, num_draws=6),
    "several": SeveralConfig(heads=(FlowConfig(**TINY, num_draws=3), RegressConfig(**TINY))),
}
PARAMS = [
    pytest.param(config, id=name, marks=needs_diffusers if isinstance(config, DiffusionConfig) else ())
    for name, config in CONFIGS.items()
]
HEADS = pytest.mark.parametrize("config", PARAMS)


def awake(config: ExpertConfig, context_width: int = WIDTH) -> ActionModel:
    """Build a head whose zero-initialised layers are not zero, as after some training."""
    torch.manual_seed(0)
    head = build(config, context_width)
    for parameter in head.parameters():
        if not parameter.any():
            torch.nn.init.normal_(parameter, std=0.1)
    return head


def build(config: ExpertConfig, context_width: int = WIDTH) -> ActionModel:
    return config.build(ACTION, STATE, context_width)  # type: ignore[attr-defined]


def context(samples: int, tokens: int = 5, width: int = WIDTH) -> Context:
    return Context(
        state=torch.randn(samples, STATE),
        state_known=torch.ones(samples, dtype=torch.bool),
        tokens=torch.randn(samples, tokens, width),
        mask=torch.ones(samples, tokens, dtype=torch.bool),
    )


def blind(samples: int) -> Context:
    """Make what a prior sees: the state, no tokens."""
    return Context(state=torch.randn(samples, STATE), state_known=torch.ones(samples, dtype=torch.bool))


def loss(head: ActionModel, actions: torch.Tensor, valid: torch.Tensor, given: Context) -> torch.Tensor:
    torch.manual_seed(1)
    return head.loss(actions, valid, given)


def fit(head: ActionModel, actions: torch.Tensor, valid: torch.Tensor, given: Context, steps: int, lr: float) -> float:
    """Train on one batch; return the mean error of the last ten steps."""
    optimizer = torch.optim.AdamW(head.parameters(), lr=lr, weight_decay=0.0)
    last: list[float] = []
    for _ in range(steps):
        optimizer.zero_grad()
        total = head.loss(actions, valid, given).sum() / (valid.sum() * actions.shape[2])
        total.backward()
        optimizer.step()
        last.append(total.item())
    return sum(last[-10:]) / 10
