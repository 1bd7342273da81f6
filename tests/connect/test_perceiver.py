import pytest
import torch
from torch import Tensor
from transformers.models.idefics2.configuration_idefics2 import Idefics2PerceiverConfig
from transformers.models.idefics2.modeling_idefics2 import Idefics2PerceiverResampler

from trivium.connect.perceiver import Perceiver, PerceiverConfig
from trivium.core.errors import ConfigError
from trivium.train.optim import without_decay

WIDTH, LATENTS, DEPTH, HEADS, GROUPS = 32, 5, 2, 4, 2


@pytest.fixture
def perceiver() -> Perceiver:
    torch.manual_seed(0)
    return shaken(PerceiverConfig(latents=LATENTS, depth=DEPTH, heads=HEADS, groups=GROUPS).build(6, (3, 4), WIDTH, 1))


def shaken(module: torch.nn.Module) -> torch.nn.Module:
    """Move gains away from 1, which would hide a norm in the wrong place."""
    with torch.no_grad():
        for parameter in module.parameters():
            parameter += 0.1 * torch.randn_like(parameter)
    return module


def from_idefics2(state: dict[str, Tensor]) -> dict[str, Tensor]:
    """Rename the weights of Idefics2's resampler."""
    words = {
        "latents": "latent_tokens",
        "layers": "blocks",
        "input_latents_norm": "latent_norm",
        "input_context_norm": "context_norm",
        "post_attention_layernorm": "mlp_norm",
        "self_attn": "attention",
        "q_proj": "query",
        "o_proj": "out",
        "gate_proj": "gate",
        "up_proj": "rise",
        "down_proj": "fall",
    }
    found = {}
    for name, value in state.items():
        if "v_proj" in name:
            continue
        if "k_proj" in name:
            value = torch.cat([value, state[name.replace("k_proj", "v_proj")]])
            name = name.replace("k_proj", "key_value")
        found[".".join(words.get(word, word) for word in name.split("."))] = value
    return found


@pytest.mark.parametrize("groups", [1, 2, 4])
def test_parity_with_idefics2(groups: int):
    torch.manual_seed(1)
    sizes = {"hidden_size": WIDTH, "resampler_n_latents": LATENTS, "resampler_depth": DEPTH}
    heads = {"resampler_n_heads": HEADS, "resampler_head_dim": WIDTH // HEADS, "num_key_value_heads": groups}
    theirs = shaken(Idefics2PerceiverResampler(Idefics2PerceiverConfig(**sizes, **heads))).eval()
    torch.nn.init.normal_(theirs.latents)  # theirs start alike
    ours = Perceiver(WIDTH, WIDTH, LATENTS, DEPTH, HEADS, groups)
    renamed = from_idefics2(theirs.state_dict())
    assert renamed.keys() == ours.state_dict().keys() - {"rise.weight", "rise.bias"}
    straight = {"rise.weight": torch.eye(WIDTH), "rise.bias": torch.zeros(WIDTH)}
    ours.load_state_dict({**renamed, **straight})
    context = torch.randn(3, 7, WIDTH)
    mask = torch.ones(3, 7, dtype=torch.bool)
    mask[1, 4:] = False
    with torch.no_grad():
        expected, found = theirs(context, mask.long()), ours(context, mask)
    assert expected.std() > 0.5
    assert (found - expected).abs().max() <= 1e-5


def test_the_order_of_patches_does_not_matter(perceiver: Perceiver):
    patches = torch.randn(2, 12, 6)
    found, shuffled = perceiver(patches), perceiver(patches[:, torch.randperm(12)])
    assert (found - shuffled).abs().max() <= 1e-6
    assert (found[0] - found[1]).abs().max() > 0.1
    assert (found[0, 0] - found[0, 1]).abs().max() > 0.1, "latents that ask the same"


def test_masked_patches_have_no_influence(perceiver: Perceiver):
    patches, mask = torch.randn(2, 12, 6), torch.ones(2, 12, dtype=torch.bool)
    mask[0, 3:] = False
    mask[1] = False  # a picture that is not there at all: latents see one another
    before = perceiver(patches, mask)
    other = torch.where(mask[..., None], patches, 100 * torch.randn_like(patches))
    assert torch.equal(perceiver(other, mask), before)
    assert before.isfinite().all()
    torch.testing.assert_close(before[:1], perceiver(patches[:1, :3]), atol=1e-5, rtol=1e-5)
    patches[0, 2] += 1
    assert not torch.equal(perceiver(patches, mask)[0], before[0])


def test_counted_without_weights_and_alike_from_a_seed(perceiver: Perceiver):
    config = PerceiverConfig(latents=LATENTS, depth=DEPTH, heads=HEADS, groups=GROUPS)
    assert config.num_tokens((16, 16)) == config.num_tokens((3, 5)) == perceiver.num_tokens == LATENTS
    assert perceiver(torch.randn(2, 20, 6)).shape == (2, LATENTS, WIDTH)
    twins = []
    for _ in range(2):
        torch.manual_seed(3)
        twins.append(config.build(6, (3, 4), WIDTH, 1).state_dict())
    assert all(torch.equal(value, twins[1][name]) for name, value in twins[0].items())
    spared = without_decay(perceiver)
    assert {"latent_tokens", "norm.weight", "blocks.0.mlp_norm.weight"} <= spared
    assert "blocks.0.attention.query.weight" not in spared


def test_overfits_one_batch():
    torch.manual_seed(0)
    perceiver = PerceiverConfig(latents=2, depth=1, heads=2, groups=1).build(6, (3, 4), 16, 1)
    patches, wanted = torch.randn(4, 12, 6), torch.randn(4, 2, 16)
    optimizer = torch.optim.AdamW(perceiver.parameters(), lr=1e-2, weight_decay=0.0)
    for _ in range(150):
        error = (perceiver(patches) - wanted).square().mean()
        optimizer.zero_grad()
        error.backward()
        optimizer.step()
    assert error.item() < 0.05, "from 2"


@pytest.mark.parametrize("name", ["latents", "depth", "heads", "groups"])
def test_none_of_anything_is_refused(name: str):
    with pytest.raises(ConfigError, match=rf"{name}: found 0.*greater than or equal to 1"):
        PerceiverConfig(**{name: 0})


def test_heads_that_do_not_divide_are_refused():
    with pytest.raises(ConfigError, match=r"connect\.heads: found 5; expected a divisor of 32, the width of the lang"):
        PerceiverConfig(heads=5).build(6, (3, 4), WIDTH, 1)
    with pytest.raises(ConfigError, match=r"connect\.groups: found 3; expected a divisor of 8.*Take one of 1, 2, 4, 8"):
        PerceiverConfig(heads=8, groups=3).build(6, (3, 4), WIDTH, 1)
