import pytest
import torch
from transformers.models.idefics.configuration_idefics import IdeficsConfig
from transformers.models.idefics.modeling_idefics import IdeficsGatedCrossAttentionLayer

from trivium.connect.gate import Gate, GateBlock, GateConfig, Readers
from trivium.core.errors import ConfigError
from trivium.train.optim import without_decay

WIDTH, LATENTS, HEADS = 32, 3, 4


@pytest.fixture
def readers() -> Readers:
    """Two rows of six tokens: tokens 2-4 of the first look at picture 0, 1-2 of the second at 1, 3-5 at 2."""
    index = torch.tensor([[2, 3, 4], [7, 8, 0], [9, 10, 11]])
    return Readers(index, torch.tensor([2, 3, 4, 7, 8, 9, 10, 11]), torch.tensor([0, 1, 2, 3, 4, 6, 7, 8]))


def opened(module: torch.nn.Module) -> torch.nn.Module:
    with torch.no_grad():
        for parameter in module.parameters():
            parameter += 0.2 * torch.randn_like(parameter)
    return module


def test_parity_with_idefics_where_a_picture_is_seen(readers: Readers):
    torch.manual_seed(0)
    sizes = {"hidden_size": WIDTH, "num_attention_heads": HEADS, "intermediate_size": 4 * WIDTH}
    config = IdeficsConfig(**sizes, vision_config={"embed_dim": WIDTH}, qk_layer_norms=False)
    config._attn_implementation = "eager"
    theirs = opened(IdeficsGatedCrossAttentionLayer(config, layer_idx=0)).eval()
    ours, state = GateBlock(WIDTH, HEADS, HEADS), theirs.state_dict()
    keys = torch.cat([state["cross_attn.k_proj.weight"], state["cross_attn.v_proj.weight"]])
    ours.load_state_dict(
        {
            "attention_norm.weight": state["input_layernorm.weight"],
            "mlp_norm.weight": state["post_attention_layernorm.weight"],
            "attention.query.weight": state["cross_attn.q_proj.weight"],
            "attention.key_value.weight": keys,
            "attention.out.weight": state["cross_attn.o_proj.weight"],
            "mlp.gate.weight": state["mlp.gate_proj.weight"],
            "mlp.rise.weight": state["mlp.up_proj.weight"],
            "mlp.fall.weight": state["mlp.down_proj.weight"],
            "attention_gate": state["alpha_cross_attn"],
            "mlp_gate": state["alpha_dense"],
        }
    )
    assert ours.attention_gate.abs() > 0.02
    assert ours.mlp_gate.abs() > 0.02
    hidden, latents = torch.randn(2, 6, WIDTH), torch.randn(3, LATENTS, WIDTH)
    owner = torch.tensor([[-1, -1, 0, 0, 0, -1], [-1, 1, 1, 2, 2, 2]])
    sees = owner[..., None] == torch.arange(3).repeat_interleave(LATENTS)
    mask = torch.zeros(sees.shape).masked_fill(~sees, torch.finfo(torch.float32).min)[:, None]
    with torch.no_grad():
        media = latents.flatten(0, 1).expand(2, -1, -1)
        expected = theirs(hidden, None, media, mask, sees.any(-1).float())
        found = ours(hidden, latents, readers)
    looks = owner >= 0
    assert (found - expected)[looks].abs().max() <= 1e-5
    assert (found - hidden)[looks].abs().max() > 0.1
    assert torch.equal(found[~looks], hidden[~looks]), "what sees no picture stays as it is, open gates or not"


def test_a_token_reads_its_own_picture_alone(readers: Readers):
    torch.manual_seed(0)
    block, hidden, latents = opened(GateBlock(WIDTH, HEADS, 2)), torch.randn(2, 6, WIDTH), torch.randn(3, 2, WIDTH)
    before = block(hidden, latents, readers)
    for picture, places in enumerate(([2, 3, 4], [7, 8], [9, 10, 11])):
        other = latents.clone()
        other[picture] = 50.0
        changed = (block(hidden, other, readers) != before).any(-1).flatten().nonzero().flatten()
        assert changed.tolist() == places


def test_closed_gates_are_the_identity_and_open_by_their_gradient(readers: Readers):
    torch.manual_seed(0)
    block = GateBlock(WIDTH, HEADS, 2)
    hidden = torch.randn(2, 6, WIDTH, requires_grad=True)
    found = block(hidden, torch.randn(3, 2, WIDTH), readers)
    assert torch.equal(found, hidden)
    (found * torch.randn_like(found)).sum().backward()
    assert block.attention_gate.grad.abs() > 1e-3
    assert block.mlp_gate.grad.abs() > 1e-3
    assert hidden.grad.all()
    assert {"attention_gate", "mlp_gate"} <= without_decay(block)


def test_blocks_stand_before_every_nth_layer():
    gate = GateConfig(latents=LATENTS, depth=1, heads=HEADS, groups=2, every=2).build(6, (2, 2), WIDTH, 5)
    assert isinstance(gate, Gate)
    assert gate.num_tokens == GateConfig().num_tokens((7, 9)) == 1
    patches, none = torch.randn(3, 4, 6), torch.zeros(0, dtype=torch.long)
    some = Readers(torch.tensor([[0], [1], [2]]), torch.arange(3), torch.arange(3))
    assert list(gate.inside(patches, some)) == [0, 2, 4]
    assert gate.inside(patches, Readers(none.view(0, 0), none, none)) == {}
    assert torch.equal(gate(patches), gate.image_token.expand(3, 1, -1))
    spared = without_decay(gate)
    assert {"image_token", "blocks.2.attention_gate", "perceiver.latent_tokens"} <= spared
    assert "blocks.2.attention.query.weight" not in spared


def test_overfits_one_batch(readers: Readers):
    torch.manual_seed(0)
    gate = GateConfig(latents=2, depth=1, heads=2, groups=1, every=1).build(6, (2, 2), WIDTH, 2)
    patches, hidden, wanted = torch.randn(3, 4, 6), torch.randn(2, 6, WIDTH), torch.randn(2, 6, WIDTH)
    looks = torch.zeros(12, dtype=torch.bool).index_fill(0, readers.tokens, True).view(2, 6)
    optimizer = torch.optim.AdamW(gate.parameters(), lr=1e-2, weight_decay=0.0)
    for _ in range(120):
        x = hidden
        for change in gate.inside(patches, readers).values():
            x = change(x)
        error = (x - wanted)[looks].square().mean()
        optimizer.zero_grad()
        error.backward()
        optimizer.step()
    assert error.item() < 0.02, "from 2"


def test_bad_settings_are_refused():
    with pytest.raises(ConfigError, match=r"connect\.every: found 4; expected 1\.\.3, the layers of the language"):
        GateConfig(heads=4, groups=2).build(6, (2, 2), WIDTH, 3)
    with pytest.raises(ConfigError, match=r"connect\.heads: found 6; expected a divisor of 32"):
        GateConfig(heads=6, groups=2).build(6, (2, 2), WIDTH, 4)
    with pytest.raises(ConfigError, match="every: found 0"):
        GateConfig(every=0)
