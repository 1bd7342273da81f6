"""Conversations as segments: who speaks, and where the pictures stand."""

from collections.abc import Iterator, Sequence
from typing import Any

from trivium.core.errors import DataError
from trivium.core.sample import Image, Role, Segment, Text, Video
from trivium.data.source.records import text_of

PLACE, FILM = "<image>", "<video>"
ROLES: dict[str, Role] = {"human": "question", "gpt": "answer", "system": "instruction"}
TODO = "Mend or delete that record."


def check_turns(turns: Any, num_images: int, where: str, place: str = PLACE) -> list[tuple[Role, str]]:
    """Return role and words of every turn of a LLaVA conversation.

    Args:
        turns: a list of {"from": "human" | "gpt" | "system", "value": words}.
        num_images: how often `place` must stand in human turns. Elsewhere it is seven characters like any others.
        where: what an error names.
        place: what marks a picture, or a video.

    Raises:
        DataError: not such a list, turns out of order, an empty turn, or as many places for pictures as there are not.
    """
    shape = 'a list of {"from": "human" or "gpt" or "system", "value": words}'
    if not isinstance(turns, list) or not turns:
        raise DataError(where, f"a conversation of type {type(turns).__name__}", shape, TODO)
    found: list[tuple[Role, str]] = []
    for number, turn in enumerate(turns):
        speaker = turn.get("from") if isinstance(turn, dict) else None
        words = text_of(turn.get("value")) if isinstance(turn, dict) else None
        if not isinstance(speaker, str) or speaker not in ROLES or words is None:
            raise DataError(f"{where}: turn {number}", f"{str(turn)[:60]!r}", f"an entry of {shape}", TODO)
        if not words.strip():
            raise DataError(f"{where}: turn {number}", f"an empty turn of {speaker!r}", "words", TODO)
        found.append((ROLES[speaker], words))
    talk = [role for role, _ in found]
    while talk and talk[0] == "instruction":
        del talk[0]
    if talk != (["question", "answer"] * len(talk))[: len(talk)] or "answer" not in talk:
        expected = "system turns first, then human and gpt by turns, human first"
        raise DataError(where, f"turns of {', '.join(str(turn['from']) for turn in turns[:8])}", expected, TODO)
    places = sum(words.count(place) for role, words in found if role == "question")
    if places != num_images:
        what = "video" if place == FILM else "picture"
        raise DataError(where, f"{places} {place} in human turns", f"{num_images}, one for every {what}", TODO)
    return found


def lay_turns(
    turns: Sequence[tuple[Role, str]], images: Sequence[Image | Video], place: str = PLACE
) -> tuple[Segment, ...]:
    """Return the segments in order, pictures where `place` stands, the blanks around it gone.

    A system prompt keeps a newline behind it, so that it does not run into the question.
    """
    waiting = iter(images)
    return tuple(segment for role, words in turns for segment in _segments(role, words, waiting, place))


def _segments(role: Role, words: str, images: Iterator[Image | Video], place: str) -> Iterator[Segment]:
    if role != "question":
        yield Text(text=words.strip() + ("\n" if role == "instruction" else ""), role=role)
        return
    for number, piece in enumerate(words.split(place)):
        if number:
            yield next(images)
        if piece.strip():
            yield Text(text=piece.strip(), role=role)
