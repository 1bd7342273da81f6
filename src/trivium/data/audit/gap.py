"""Frames lost in the middle of an episode where the clock says nothing: what comes after does not follow what was.

The set is its own reference once more: from its episodes come the steps of 1, 2, 3 and 4 frames that a recorder which
lost 0, 1, 2 or 3 frames would have stored as one. Each kind of step has a model (ridge regression on random features,
fitted on other episodes) of all that follows given all that was, and every place of every episode is asked which of
them explains it best: the logarithm of the odds for frames lost against none. That alone takes the sudden slips of a
blocked arm for lost frames; so for rows extremely randomised trees (Geurts et al. 2006) weigh the odds together with
the motion around the place, having seen whole steps and cut ones of other episodes. A frame lost while nothing moves
leaves no trace.
"""

from collections.abc import Mapping

import numpy as np
from jaxtyping import Float

from trivium.data.audit.finding import Finding
from trivium.data.audit.lag import Channel, explanations
from trivium.data.audit.recording import Recording
from trivium.data.audit.step import MOST_LOST, SIDE_FRAMES, Streams, costs, pictures_lost, rows_odds, unit

NUM_SEEN = 8
"""Picture components of each view; the audit's come sorted, greatest last."""
LEAST_EPISODES = 40
"""Episodes that make a set its own reference here."""
LEAST_FRAMES = 16
"""Shorter episodes are not judged."""
ROW_NATS = 3.5
"""Odds, by the trees, that call rows lost. Of clean episodes of five recordings 0 to 2 in 100 exceed them, of faulty
ones nearly all (docs/log.md)."""
PICTURE_NATS = 10.0
"""Odds that call pictures lost, with the rest of the episode as second witness. They are high: most of what is lost
shows already as an episode out of step from there on (`lag`), and an object that slips looks like lost pictures."""


def find_gaps(
    seen: Recording, pictures: Mapping[str, Streams], found: list[Channel], doubtful: set[int]
) -> list[Finding]:
    """Find frames lost from all streams at once, and pictures lost while state and action went on.

    Args:
        seen: the set.
        pictures: components of the pictures of each view, by episode, the greatest last.
        found: its pairs of streams.
        doubtful: numbers of episodes with faults of other kinds: neither judged here nor learned from.
    """
    usable = [
        e
        for e, span in enumerate(seen.spans())
        if span.stop - span.start >= LEAST_FRAMES and int(seen.number[e]) not in doubtful
    ]
    state, action = unit(seen.state), unit(seen.action)
    if len(usable) < LEAST_EPISODES or not state.shape[1]:
        return []
    spans = [seen.spans()[e] for e in usable]
    states, actions = [state[span] for span in spans], [action[span] for span in spans]
    looks = [[parts[e][:, -NUM_SEEN:] for e in usable] for parts in pictures.values()]
    rows = rows_odds(states, actions, looks)
    seen_lost = rows
    if looks:
        (cost,) = costs(states, actions, looks, pictures_lost, cut=False)
        seen_lost = _with_rest([(c[:, :1] - c[:, 1:]).T for c in cost], seen, found, usable)
    findings = []
    for place, e in enumerate(usable):
        offers = [(rows[place], ROW_NATS, "state")] + [(seen_lost[place], PICTURE_NATS, "pictures")] * bool(looks)
        gain, least, stream = max(offers, key=lambda offer: float(offer[0].max()) - offer[1])
        if gain.max() > least:
            lost, at = np.unravel_index(int(gain.argmax()), gain.shape)
            what = f"frame{'s' * bool(lost)}" if stream == "state" else f"picture{'s' * bool(lost)} alone"
            text = f"about {lost + 1} {what} probably missing: what follows does not continue what was"
            confidence = float(1 / (1 + np.exp(-min(float(gain.max()) - least + 1, 50.0))))
            number = int(seen.number[e])
            findings.append(
                Finding("dropped", number, int(at) + SIDE_FRAMES + 1, float(lost + 1), confidence, text, stream)
            )
    return findings


def _with_rest(
    gains: list[np.ndarray], seen: Recording, found: list[Channel], usable: list[int]
) -> list[Float[np.ndarray, "_ _"]]:
    """Add what the rest of each episode says for pictures that stay early by as many frames."""
    early = {-x.late: x for x in explanations(seen, found) if x.stream == "pictures" and x.late < 0}
    joint = []
    for gain, e in zip(gains, usable, strict=True):
        both = gain.copy()
        for lost in range(1, MOST_LOST + 1):
            if lost in early:
                rest = early[lost].trace(found, e)[::-1].cumsum()[::-1]
                both[lost - 1] += rest[SIDE_FRAMES + 1 : SIDE_FRAMES + 1 + gain.shape[1]]
        joint.append(both)
    return joint
