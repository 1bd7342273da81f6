"""Intervals for success rates."""

from statistics import NormalDist


def wilson(successes: int, episodes: int, level: float = 0.95) -> tuple[float, float]:
    """Return the Wilson score interval of a success rate (Wilson 1927), which stays inside [0, 1].

    Unlike the textbook interval it is not a point at 0 or all successes: 0 of 20 still gives up to 16 %.

    Args:
        successes: episodes that succeeded.
        episodes: all episodes, at least 1.
        level: how often the interval is to hold the true rate.
    """
    assert 0 <= successes <= episodes, f"{successes} successes in {episodes} episodes"
    assert episodes > 0, "no episodes, no rate"
    z = NormalDist().inv_cdf(0.5 + level / 2)
    rate = successes / episodes
    scale = 1 + z * z / episodes
    center = (rate + z * z / (2 * episodes)) / scale
    half = z / scale * ((rate * (1 - rate) + z * z / (4 * episodes)) / episodes) ** 0.5
    return max(0.0, center - half), min(1.0, center + half)
