"""Codes of actions side by side on one set of demonstrations: tokens, errors, speed, and what is left unused."""

import time
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, TypeVar

import numpy as np
from jaxtyping import Float, Int
from rich.progress import track

from trivium.action.bins import BinsConfig
from trivium.action.choice import TokenizerConfig
from trivium.action.fast import FastConfig
from trivium.action.mulaw import MulawConfig
from trivium.action.tokenizer import ActionTokenizer
from trivium.action.vae import VaeConfig
from trivium.action.vqvae import VqVaeConfig, VqVaeTokenizer
from trivium.core.config import override
from trivium.core.errors import DataError
from trivium.core.log import console
from trivium.core.sample import Sample
from trivium.data.bucket import select
from trivium.data.column import ColumnStats
from trivium.data.detect import detect
from trivium.data.source.episode import EpisodeConfig, EpisodeSource
from trivium.data.stats import measure
from trivium.data.transform import Normalize
from trivium.nn.codebook import VqConfig
from trivium.nn.fsq import FsqConfig

TOKENIZERS: Mapping[str, TokenizerConfig] = {
    "FAST 512": FastConfig(),
    "FAST 1024": FastConfig(vocab_size=1024),
    "bins OpenVLA": BinsConfig(),
    "bins RT-1": BinsConfig(convention="rt1"),
    "mu-law Gato": MulawConfig(),
    "mu-law 1.5": MulawConfig(limit=1.5),
    "VQ-VAE": VqVaeConfig(quantizer=VqConfig(size=256)),
    "residual VQ": VqVaeConfig(quantizer=VqConfig(size=256, num_levels=4), num_vectors=6),
    "FSQ": VqVaeConfig(quantizer=FsqConfig(levels=(8, 5, 5, 5)), num_vectors=8),
}
"""What is compared, in the order of the table."""
LATENTS = 16
"""Numbers that the VAE makes of a chunk; of a chunk that has fewer itself, as many as that."""
VAL_SHARE = 0.2
"""Share of episodes that errors and speeds are measured on; the others are fitted on."""
MOST = 20_000
"""Chunks that are measured; of more an even spread is taken."""
NUM_RANDOM = 5_000
"""Sequences of random ids, each as long as the encoding of a real chunk."""

T = TypeVar("T")


@dataclass(frozen=True, kw_only=True)
class Coded:
    """What one code makes of chunks that it was not fitted on."""

    name: str
    rmse: list[float]
    """Root mean squared error by dimension, in the units of the set."""
    worst: list[float]
    """Largest error of a single number, by dimension."""
    rmse_share: float
    """Root mean squared error as a share of the range that the normalisation maps to -1..1, over moving dimensions."""
    fit_s: float
    encode_per_s: float
    decode_per_s: float


@dataclass(frozen=True, kw_only=True)
class Measured(Coded):
    """A tokenizer."""

    vocab_size: int
    tokens_per_chunk: float
    tokens_per_s: float
    """Tokens for a second of motion, one chunk behind the other."""
    perplexity: float
    """exp of the entropy of the ids: how many equally common ones they are worth. Where every place of a sequence has
    codes of its own (VQ-VAE), of the ids of a place, on average; so is `used_share`."""
    used_share: float
    """Share of the vocabulary that occurs at all."""
    repaired_share: float
    """Share of sequences of random ids that had to be padded or cut; each decodes within the robot's limits."""


@dataclass(frozen=True, kw_only=True)
class Continuous(Coded):
    """A VAE, whose code is no ids."""

    latent_dim: int
    """Numbers a chunk."""
    num_active: int
    """Those that say anything about the measured chunks."""
    numbers_per_s: float
    """Numbers for a second of motion."""


@dataclass(frozen=True)
class Comparison:
    """Everything that the command prints and writes, but for policies."""

    path: str
    robot: str
    fps: float
    horizon: int
    dimensions: list[str]
    constant: list[str]
    """Dimensions that never move; they decode to their constant, without error."""
    num_fitted: int
    num_measured: int
    tokenizers: list[Measured]
    continuous: list[Continuous]

    def to_json(self) -> dict[str, Any]:
        """Return a JSON value."""
        return asdict(self)


@dataclass(frozen=True, eq=False)
class Chunks:
    """Normalised chunks of one side of the split, and the commands they were made from."""

    normal: Float[np.ndarray, "m k a"]
    physical: Float[np.ndarray, "m k a"]


@dataclass(frozen=True, eq=False)
class Bench:
    """What every code is measured with."""

    fitted: Float[np.ndarray, "m k a"]
    chunks: Chunks
    physical: Callable[[np.ndarray], np.ndarray]
    """From normalised actions back to commands."""
    column: ColumnStats
    fps: float


def compare(path: Path, settings: list[str], horizon: int) -> Comparison:
    """Fit every tokenizer and the VAE on most episodes of a set and measure it on the others.

    Raises:
        DataError: no set of robot episodes, fewer than two episodes, or none as long as the horizon.
        ConfigError: a setting is wrong, or the horizon is too long for a tokenizer.
    """
    source = open_set(path, settings, horizon)
    sides = {side: select(source, side, VAL_SHARE) for side in ("train", "val")}
    stats = measure([(source, sides["train"])])
    normal, column = Normalize(stats), stats[source.embodiment]["action"]
    fitted, measured = (_chunks(source, side, sides[side], normal) for side in sides)
    measured = _spread(measured)
    way_back = Sample(id="comparison", segments=(), source=source.name, license="", embodiment=source.embodiment)

    def physical(actions: Float[np.ndarray, "m k a"]) -> Float[np.ndarray, "m k a"]:
        return normal.inverse(actions.reshape(-1, actions.shape[2]), way_back).reshape(actions.shape)

    bench = Bench(fitted.normal, measured, physical, column, source.fps)
    every = track(TOKENIZERS.items(), "fitting tokenizers", console=console, transient=True)
    rows = [_measure(name, config, bench) for name, config in every]
    return Comparison(
        path=str(path),
        robot=source.embodiment,
        fps=source.fps,
        horizon=source.config.horizon,
        dimensions=list(column.names),
        constant=list(column.constant()),
        num_fitted=len(fitted.normal),
        num_measured=len(measured.normal),
        tokenizers=rows,
        continuous=[_measure_vae(bench)],
    )


def open_set(path: Path, settings: list[str], horizon: int) -> EpisodeSource:
    """Open a set of robot episodes by its path.

    Raises:
        DataError: there is none, or it holds something else.
        ConfigError: a setting is wrong.
    """
    config = detect(path)
    if not isinstance(config, EpisodeConfig):
        raise DataError(
            str(path), f"a set of kind {config.kind!r}", "robot episodes, with actions", "`trivium data ls` lists sets."
        )
    return override(config, [f"horizon={horizon}", *settings]).build()


def _chunks(source: EpisodeSource, side: str, samples: Int[np.ndarray, " n"], normal: Normalize) -> Chunks:
    """Return the chunks of whole length of one side.

    Raises:
        DataError: no episode is as long as the horizon.
    """
    valid = source.motion(samples).valid
    whole = samples[valid.all(1)]
    if not len(whole):
        longest = int(valid.sum(1).max())
        raise DataError(
            f"set {source.config.path}: {'fitted' if side == 'train' else 'measured'} episodes",
            f"none longer than {longest} step{'s' if longest != 1 else ''}",
            f"at least one of {source.config.horizon}, the horizon",
            f"Type --horizon {longest} or less." if longest > 1 else "Episodes of one step have no motion to compare.",
        )
    motion = source.motion(whole)
    return Chunks(normal.motion(motion).action, motion.action)


def _spread(chunks: Chunks) -> Chunks:
    chosen = np.unique(np.linspace(0, len(chunks.normal) - 1, MOST).astype(int))
    return Chunks(chunks.normal[chosen], chunks.physical[chosen])


def _measure(name: str, config: TokenizerConfig, bench: Bench) -> Measured:
    fit_s, tokenizer = _timed(lambda: config.fit(bench.fitted))
    coded, ids = _code(name, fit_s, tokenizer.encode_all, tokenizer.decode_all, bench)
    perplexity, used_share = _use(tokenizer, ids)
    tokens = float(np.mean([len(one) for one in ids]))
    return Measured(
        **coded,
        vocab_size=tokenizer.vocab_size,
        tokens_per_chunk=tokens,
        tokens_per_s=tokens * bench.fps / tokenizer.horizon,
        perplexity=perplexity,
        used_share=used_share,
        repaired_share=_repaired(tokenizer, [len(one) for one in ids]),
    )


def _use(tokenizer: ActionTokenizer, ids: list[list[int]]) -> tuple[float, float]:
    """Return perplexity and used share; where every place has codes of its own, those of a place, on average."""
    groups = np.array(ids).T if isinstance(tokenizer, VqVaeTokenizer) else [np.concatenate(ids)]
    entropies: list[float] = []
    used: list[float] = []
    for group in groups:
        count = np.bincount(group, minlength=tokenizer.vocab_size)
        chance = count[count > 0] / count.sum()
        entropies.append(-float((chance * np.log(chance)).sum()))
        used.append(float((count > 0).mean()))
    return float(np.exp(np.mean(entropies))), float(np.mean(used))


def _measure_vae(bench: Bench) -> Continuous:
    size = bench.fitted.shape[1] * bench.fitted.shape[2]
    config = VaeConfig(latent_dim=min(LATENTS, size))
    fit_s, vae = _timed(lambda: config.fit(bench.fitted))
    coded, _ = _code("VAE", fit_s, vae.encode, vae.decode, bench)
    return Continuous(
        **coded,
        latent_dim=config.latent_dim,
        num_active=vae.active_units(bench.chunks.normal),
        numbers_per_s=config.latent_dim * bench.fps / vae.horizon,
    )


def _code(
    name: str, fit_s: float, encode: Callable[[Any], T], decode: Callable[[T], np.ndarray], bench: Bench
) -> tuple[dict[str, Any], T]:
    """Return the fields of `Coded`, and what chunks were encoded to."""
    chunks = bench.chunks
    decode(encode(chunks.normal[:64]))  # the first call pays for what later ones find
    encode_s, codes = _timed(lambda: encode(chunks.normal))
    decode_s, decoded = _timed(lambda: decode(codes))
    error = np.abs(bench.physical(decoded).astype(np.float64) - chunks.physical)
    low, high = bench.column.range()
    moving = bench.column.moving()
    share = (error[..., moving] / (high - low)[moving]) if moving.any() else np.zeros(1)
    fields = {
        "name": name,
        "rmse": np.sqrt((error**2).mean((0, 1))).tolist(),
        "worst": error.max((0, 1)).tolist(),
        "rmse_share": float(np.sqrt((share**2).mean())),
        "fit_s": fit_s,
        "encode_per_s": len(decoded) / encode_s,
        "decode_per_s": len(decoded) / decode_s,
    }
    return fields, codes


def _repaired(tokenizer: ActionTokenizer, lengths: list[int]) -> float:
    """Return the share of sequences of random ids, as long as real ones, that stood for too few or too many numbers."""
    rng, before = np.random.default_rng(0), tokenizer.num_repaired
    chosen = rng.choice(lengths, NUM_RANDOM)
    tokenizer.decode_all([rng.integers(0, tokenizer.vocab_size, length).tolist() for length in chosen])
    return (tokenizer.num_repaired - before) / NUM_RANDOM


def _timed(work: Callable[[], T]) -> tuple[float, T]:
    begin = time.perf_counter()
    out = work()
    return max(time.perf_counter() - begin, 1e-9), out
