"""Intervals for success rates and for what changed between two of them."""

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


def change(both: int, lost: int, won: int, neither: int, level: float = 0.95) -> tuple[float, float, float]:
    """Return by how much a success rate changed over the same episodes, with Newcombe's interval for pairs.

    Method 10 of Newcombe 1998 (Statistics in Medicine 17:2635): the Wilson intervals of both rates, joined by how
    much the episodes agree. It stays inside [-1, 1], and no change in 10 of 10 successes is still no certainty.

    Args:
        both: episodes that succeeded both times.
        lost: that succeeded the first time alone.
        won: that succeeded the second time alone.
        neither: that failed both times.
        level: how often the interval is to hold the true change.
    """
    episodes = both + lost + won + neither
    first, second = (both + lost) / episodes, (both + won) / episodes
    (low1, high1), (low2, high2) = (wilson(both + part, episodes, level) for part in (lost, won))
    margins = (both + lost) * (won + neither) * (both + won) * (lost + neither)
    cross = both * neither - lost * won
    if cross > 0:
        cross = max(cross - episodes / 2, 0.0)
    agreement = cross / margins**0.5 if margins else 0.0

    def half(one: float, other: float) -> float:
        return max(one * one - 2 * agreement * one * other + other * other, 0.0) ** 0.5

    value = second - first
    return value, value - half(second - low2, high1 - first), value + half(high2 - second, first - low1)
