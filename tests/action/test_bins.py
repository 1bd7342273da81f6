import numpy as np
import pytest

from trivium.action.bins import BinsConfig, BinsTokenizer, Convention
from trivium.action.mulaw import MulawConfig, MulawTokenizer
from trivium.action.tokenizer import Reach
from trivium.core.errors import ConfigError, DataError

EVERY = np.linspace(-1, 1, 100_001)
BOTH: tuple[Convention, ...] = ("openvla", "rt1")


def bins(convention: Convention, num_bins: int = 256) -> BinsTokenizer:
    return BinsConfig(convention=convention, num_bins=num_bins).fit([np.array([[-1.0], [1.0]])])


def there_and_back(tokenizer: BinsTokenizer | MulawTokenizer, numbers: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Return ids and decoded values of numbers, two a chunk."""
    pairs = np.resize(numbers, (-(-len(numbers) // 2), 2, 1))
    ids = tokenizer.encode_all(pairs)
    decoded = tokenizer.decode_all(ids)
    return np.ravel(ids)[: len(numbers)], decoded.ravel()[: len(numbers)]


def test_openvla_errs_by_1_in_255_at_most_and_keeps_zero() -> None:
    tokenizer = bins("openvla")
    ids, back = there_and_back(tokenizer, EVERY)
    # The formula of its repository: digitize over 256 edges gives 1..256, ids 1..256 have 255 centres.
    edges = np.linspace(-1, 1, 256)
    theirs = np.digitize(EVERY, edges)
    assert np.array_equal(ids, theirs - 1)
    centres = (edges[:-1] + edges[1:]) / 2
    np.testing.assert_allclose(back, centres[np.clip(theirs - 1, 0, 254)], atol=1e-7)
    assert np.abs(back - EVERY).max() == pytest.approx(1 / 255, abs=1e-6)
    assert (ids.min(), ids.max(), tokenizer.vocab_size) == (0, 255, 256)
    assert there_and_back(tokenizer, np.zeros(2))[1].tolist() == [0.0, 0.0]
    assert len(set(tokenizer.decode_all([[i, i] for i in range(256)])[:, 0, 0].tolist())) == 255


def test_rt1_rounds_down() -> None:
    ids, back = there_and_back(bins("rt1"), EVERY)
    assert np.array_equal(ids, ((EVERY + 1) / 2 * 255).astype(int))
    assert np.abs(back - EVERY).max() == pytest.approx(2 / 255, abs=1e-4)
    assert (back - EVERY).mean() == pytest.approx(-0.00392, abs=1e-4)
    assert there_and_back(bins("rt1"), np.zeros(2))[1] == pytest.approx(-0.00392, abs=1e-5)
    assert (ids.min(), ids.max()) == (0, 255)


@pytest.mark.parametrize("convention", BOTH)
def test_out_of_range_numbers_are_clipped_and_ids_are_monotone(convention: Convention) -> None:
    ids, back = there_and_back(bins(convention), np.array([-9.0, -1.2, 1.2, 9.0]))
    assert ids.tolist() == [0, 0, 255, 255]
    assert np.abs(back).max() <= 1
    assert (np.diff(there_and_back(bins(convention), EVERY)[0]) >= 0).all()


def test_gato_ids() -> None:
    # methods: -256 -> 32000, -1 -> 32279, ..., 256 -> 33023, with the offset 32000 of Gato's text vocabulary.
    table = {-256: 0, -1: 279, -0.1: 391, 0: 512, 0.01: 546, 0.1: 632, 1: 744, 10: 860, 256: 1023}
    numbers = np.array(list(table), np.float64)
    gato = MulawConfig().fit([numbers[:, None]])
    assert gato.encode(numbers[:, None]) == list(table.values())
    assert gato.vocab_size == 1024
    assert gato.encode(np.full((9, 1), 1e9)) == [1023] * 9
    assert gato.limit == 256


@pytest.mark.parametrize("limit", [256.0, 1.5])
def test_the_error_of_mulaw_is_half_a_bin_under_its_law(limit: float) -> None:
    numbers = np.geomspace(1e-4, limit, 5000)
    numbers = np.sort(np.concatenate([-numbers, [0.0, 0.0], numbers]))
    gato = MulawConfig(limit=limit).fit([np.array([[-limit], [limit]])])
    ids, back = there_and_back(gato, numbers)

    def law(x: np.ndarray) -> np.ndarray:
        return np.sign(x) * np.log(100 * np.abs(x) + 1) / np.log(100 * limit + 1)

    assert np.abs(law(back.astype(np.float64)) - law(numbers)).max() <= 1 / 1024 + 1e-6
    assert (np.diff(ids) >= 0).all()


def test_a_smaller_limit_is_finer() -> None:
    chunks = np.random.default_rng(0).uniform(-1, 1, (500, 4, 2))
    errors = [np.abs(t.decode_all(t.encode_all(chunks)) - chunks).mean() for t in map(fit, (256.0, 1.5), [chunks] * 2)]
    assert errors[1] < 0.6 * errors[0]


def fit(limit: float, chunks: np.ndarray) -> MulawTokenizer:
    return MulawConfig(limit=limit).fit(chunks)


TWO = (BinsConfig(), BinsConfig(convention="rt1"), MulawConfig())


@pytest.mark.parametrize("config", TWO, ids=lambda config: f"{config.kind}-{getattr(config, 'convention', '')}")
def test_every_sequence_decodes_within_reach_and_mends_are_counted(config: BinsConfig | MulawConfig) -> None:
    rng = np.random.default_rng(0)
    chunks = rng.uniform(-0.7, [0.5, 0.2, 0.9], (200, 5, 3))
    tokenizer = config.fit(chunks)
    low, high = chunks.min((0, 1)), chunks.max((0, 1))
    sequences = [rng.integers(0, tokenizer.vocab_size, length).tolist() for length in rng.integers(0, 40, 20_000)]
    back = tokenizer.decode_all(sequences)
    assert back.shape == (20_000, 5, 3)
    assert ((back >= low - 1e-6) & (back <= high + 1e-6)).all()
    assert tokenizer.num_repaired == sum(len(ids) != 15 for ids in sequences)
    tokens = tokenizer.encode(chunks[0])
    assert np.array_equal(tokenizer.decode([*tokens, 3, 5]), tokenizer.decode(tokens)), "surplus ids are cut"
    assert not tokenizer.decode(tokens[:6])[2:].any(), "missing numbers are zero"


@pytest.mark.parametrize("config", TWO, ids=lambda config: f"{config.kind}-{getattr(config, 'convention', '')}")
def test_bad_chunks_are_refused(config: BinsConfig | MulawConfig) -> None:
    tokenizer = config.fit(np.zeros((3, 5, 3)))
    bad = np.zeros((4, 5, 3))
    bad[2, 4, 1] = np.nan
    with pytest.raises(DataError, match=r"action chunk 2: found nan at step 4, dimension 1; expected finite numbers"):
        tokenizer.encode_all(bad)
    with pytest.raises(DataError, match=r"action chunk: found shape \(5, 2\); expected \(5, 3\), steps x dimensions"):
        tokenizer.encode(np.zeros((5, 2)))
    with pytest.raises(DataError, match=r"action token: found 70000; expected 0\.\."):
        tokenizer.decode([1, 70000])
    with pytest.raises(DataError, match=r"action token: found -1; expected 0\.\."):
        tokenizer.decode([-1])
    with pytest.raises(DataError, match="no chunks; expected at least one"):
        config.fit([])
    with pytest.raises(DataError, match=r"action chunk 1: found shape \(4, 3\)"):
        config.fit([np.zeros((5, 3)), np.zeros((4, 3))])
    with pytest.raises(
        DataError, match=r"action chunk 0: found shape \(0, 3\); expected steps x dimensions, 1 to 4096"
    ):
        config.fit([np.zeros((0, 3))])


def test_a_dimension_that_never_moved_stays_where_it_was() -> None:
    chunks = np.random.default_rng(0).uniform(-1, 1, (50, 4, 2))
    chunks[..., 1] = 0.0
    for config in TWO:
        tokenizer = config.fit(chunks)
        wild = tokenizer.decode_all(np.random.default_rng(1).integers(0, tokenizer.vocab_size, (100, 8)))
        assert not wild[..., 1].any()
        assert wild[..., 0].any()


def test_settings_out_of_range_are_refused() -> None:
    with pytest.raises(ConfigError, match="num_bins"):
        BinsConfig(num_bins=1)
    with pytest.raises(ConfigError, match="limit"):
        MulawConfig(limit=0.0)


def test_reach_knows_limits_and_shape() -> None:
    reach = Reach.of(np.array([[[-0.5, 3.0]], [[0.25, -0.1]]]), 1.5)
    assert (reach.horizon, reach.action_dim, reach.limit, reach.size) == (1, 2, 1.5, 2)
    assert reach.low.tolist() == [-0.5, -0.1]
    assert reach.high.tolist() == [0.25, 1.5]
