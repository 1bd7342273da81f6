import pytest
import torch
from action_heads import ACTION, ALL, CONFIGS, HORIZON, STATE, TINY, awake, context

from trivium.action.flow import FlowConfig
from trivium.action.model import head_losses
from trivium.action.regress import RegressConfig
from trivium.action.several import Several, SeveralConfig
from trivium.core.errors import ConfigError


def test_each_head_has_its_own_loss_and_the_first_acts() -> None:
    head = awake(CONFIGS["several"])
    assert isinstance(head, Several)
    given, actions = context(2), torch.randn(2, HORIZON, ACTION)
    torch.manual_seed(0)
    losses = head_losses(head, actions, ALL, given, scale=3.0)
    assert list(losses) == ["flow", "regress"]
    torch.manual_seed(0)
    assert torch.equal(losses["flow"].sum, head.heads["flow"].loss(actions, ALL, given).sum())
    assert torch.equal(losses["regress"].sum, head.heads["regress"].loss(actions, ALL, given).sum())
    assert {loss.group for loss in losses.values()} == {"flow", "regress"}
    assert {loss.scale for loss in losses.values()} == {3.0}
    drawn = head.sample(given, torch.Generator().manual_seed(0))
    assert torch.equal(drawn, head.acting.sample(given, torch.Generator().manual_seed(0)))
    assert head.acting is head.heads["flow"]


def test_a_weight_has_one_name() -> None:
    head = CONFIGS["several"].build(ACTION, STATE, 8)
    names = [name for name, _ in head.named_parameters(remove_duplicate=False)]
    assert len(names) == len(set(names))
    assert {name.split(".")[1] for name in names} == {"flow", "regress"}


def test_what_does_not_fit_together_is_refused() -> None:
    flow = FlowConfig(**TINY)
    with pytest.raises(ConfigError, match=r"action.heads.1: found a second flow head; expected one of each"):
        SeveralConfig(heads=(flow, flow)).build(ACTION, STATE, 8)
    with pytest.raises(ConfigError, match=r"action.heads.1.horizon: found 9; expected 4, as in the first head"):
        SeveralConfig(heads=(flow, RegressConfig(**TINY | {"horizon": 9}))).build(ACTION, STATE, 8)
    with pytest.raises(ConfigError, match=r"action.heads.1.width: found 30; expected a multiple of 8"):
        SeveralConfig(heads=(flow, RegressConfig(**TINY | {"width": 30}))).build(ACTION, STATE, 8)
    with pytest.raises(ConfigError, match="heads"):
        SeveralConfig(heads=(flow,))
