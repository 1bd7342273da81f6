"""From findings to corrections: what can be moved is moved, the rest is left out, with the reason."""

from trivium.data.audit.finding import Audit, Finding
from trivium.data.audit.recording import Recording
from trivium.data.source.corrections import Correction


def corrections(seen: Recording, audited: Audit) -> dict[int, Correction]:
    """Return by episode what makes its faults go away; episodes that are well are not named."""
    action, pictures = _whole_set(seen, audited)
    fixed: dict[int, Correction] = {}
    for number in (int(n) for n in seen.number):
        faults = [finding for finding in audited.faults if finding.episode == number]
        lags = [finding for finding in faults if finding.kind == "lag"]
        others = [finding for finding in faults if finding.kind != "lag" or finding.stream in seen.looks]
        if others:
            fixed[number] = Correction(leave_out="; ".join(f"{it.kind}: {it.text}" for it in others))
            continue
        moved = action + _late(lags, "action"), pictures + _late(lags, "pictures")
        if any(moved):
            fixed[number] = Correction(action=moved[0], pictures=moved[1])
    return fixed


def _whole_set(seen: Recording, audited: Audit) -> tuple[int, int]:
    whole = {it.stream: int(it.measure) for it in audited.faults if it.kind == "lag" and it.episode is None}
    views = {whole.get(view, 0) for view in seen.looks}
    # Views that disagree cannot be moved together, and every episode of such a set would have to go.
    return whole.get("action", 0), views.pop() if len(views) == 1 else 0


def _late(lags: list[Finding], stream: str) -> int:
    """Return by how many frames actions or pictures are late; a late state is everything else early."""
    return sum(int(it.measure) * (1 if it.stream == stream else -1 if it.stream == "state" else 0) for it in lags)
