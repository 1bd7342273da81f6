"""Issues and pull requests as StarCoder2 tells them: authors become numbers, events stand in their order."""

from collections.abc import Mapping, Sequence
from typing import Any

from trivium.core.errors import DataError
from trivium.data.sentinel import Sentinels


class Telling:
    """One row on its way to text: checks what it takes from it, escapes it, and numbers the authors."""

    def __init__(self, sentinels: Sentinels, where: str) -> None:
        self._sentinels, self._where = sentinels, where
        self._authors: dict[str, int] = {}
        self._text: list[str] = []

    def say(self, name: str, text: str = "") -> None:
        """Add a sentinel and the words after it."""
        self._text.append(self._sentinels[name] + text)

    def text(self) -> str:
        """Return everything said, and the end."""
        return "".join(self._text) + self._sentinels["endoftext"]

    def take(self, row: Mapping[str, Any], key: str) -> str:
        """Return the text under a key.

        Raises:
            DataError: there is none.
        """
        value = row.get(key)
        if not isinstance(value, str):
            raise self.bad(f"{value!r} under {key!r}", "text")
        return self._sentinels.escape(value)

    def number(self, row: Mapping[str, Any], key: str) -> str:
        """Return a number or a short name under a key, "" where there is none."""
        value = row.get(key)
        if value is not None and not isinstance(value, int | str):
            raise self.bad(f"{value!r} under {key!r}", "a number or a name")
        return "" if value is None else self._sentinels.escape(str(value))

    def author(self, row: Mapping[str, Any]) -> str:
        """Return `username_k`: who it was stays untold, that it was the same person is kept."""
        return f"username_{self._authors.setdefault(self.take(row, 'author'), len(self._authors))}"

    def items(self, row: Mapping[str, Any], key: str) -> Sequence[Mapping[str, Any]]:
        """Return the list of objects under a key."""
        value = row.get(key)
        if not isinstance(value, list) or not all(isinstance(item, Mapping) for item in value):
            raise self.bad(f"{type(value).__name__} under {key!r}", "a list of objects")
        return value

    def bad(self, found: str, expected: str) -> DataError:
        """Return an error that names the row."""
        return DataError(self._where, found, expected, "Correct `columns`, or mend or remove that row.")


def issue(sentinels: Sentinels, where: str, row: Mapping[str, Any]) -> str:
    r"""Tell an issue (section 5.3), or a question with answers.

    `<issue_start>Title: TITLE\nusername_0: TEXT<issue_comment>username_1: TEXT<issue_closed>...<|endoftext|>`.

    Args:
        sentinels: the words.
        where: the row, for errors.
        row: `title`, and `events`: each with `author`, `text` (or None) and `action`; the action "closed" closes the
            issue, its text is a comment after that; any other action is a comment.

    Raises:
        DataError: a column is missing or of the wrong type.
    """
    telling = Telling(sentinels, where)
    events = telling.items(row, "events")
    if not events:
        raise telling.bad("no events", "at least the opening one")
    telling.say("issue_start", f"Title: {telling.take(row, 'title')}\n{_remark(telling, events[0])}")
    for event in events[1:]:
        closes = event.get("action") == "closed"
        if closes:
            telling.say("issue_closed")
        if not closes or event.get("text"):
            telling.say("issue_comment", _remark(telling, event))
    return telling.text()


def pull_request(sentinels: Sentinels, where: str, row: Mapping[str, Any]) -> str:
    """Tell a pull request (section 5.2), with the base files and hunks that the row holds.

    Which files, context lines and hunks to show is decided by what wrote the rows; here nothing is drawn.

    Args:
        sentinels: the words.
        where: the row, for errors.
        row: `repo_name`, `title`, `author`, `description`, `base` (`path`, `content` each) and `events`. The `type`
            of an event says what else it has: "head" `files` (`path`, `hunks`); "comment" `author`, `text`, `id`;
            "review" also `state`; "review_comment" also `path`, `line`, `hunk` and the optional `review_id` and
            `reply_to`; "opened", "reopened" and "edited" `author`, `title`, `text`; "closed" `author`, `merged`.

    Raises:
        DataError: a column is missing or of the wrong type, or an event is of no known type.
    """
    telling = Telling(sentinels, where)
    say, take = telling.say, telling.take
    say("pr", f"Title: {take(row, 'title')}\n{telling.author(row)}: {take(row, 'description')}\n")
    say("pr_status", "opened\n")
    say("repo_name", f"{take(row, 'repo_name')}\n\n")
    say("pr_base", "\n")
    for file in telling.items(row, "base"):
        say("pr_file", f"{take(file, 'path')}\n")
        say("pr_base_code", f"{take(file, 'content')}\n")
    say("pr_diff", "\n")
    for event in telling.items(row, "events"):
        _event(telling, event)
    return telling.text()


def _event(telling: Telling, event: Mapping[str, Any]) -> None:
    say, take = telling.say, telling.take
    match event.get("type"):
        case "head":
            for file in telling.items(event, "files"):
                say("pr_file", f"{take(file, 'path')}\n")
                hunks = file.get("hunks")
                if not isinstance(hunks, list):
                    raise telling.bad(f"{type(hunks).__name__} under 'hunks'", "a list of texts")
                for hunk in hunks:
                    say("pr_diff_hunk", f"{take({'hunks': hunk}, 'hunks')}\n")
        case "comment":
            say("pr_comment", f"{_remark(telling, event)}\n")
            say("pr_event_id", f"{telling.number(event, 'id')}\n")
        case "review":
            say("pr_review", f"{_remark(telling, event)}\n")
            say("pr_event_id", f"{telling.number(event, 'id')}\n")
            say("pr_review_state", f"{take(event, 'state')}\n")
        case "review_comment":
            _review_comment(telling, event)
        case "opened" | "reopened" | "edited" as status:
            say("pr", f"Title: {take(event, 'title')}\n{_remark(telling, event)}\n")
            say("pr_status", f"{status}\n")
        case "closed":
            if not isinstance(event.get("merged"), bool):
                raise telling.bad(f"{event.get('merged')!r} under 'merged'", "true or false")
            say("pr", f"{telling.author(event)}\n")
            say("pr_status", "closed\n")
            say("pr_is_merged", f"{event['merged']}\n")
        case other:
            raise telling.bad(f"an event of type {other!r}", "a type that pull requests have")


def _review_comment(telling: Telling, event: Mapping[str, Any]) -> None:
    telling.say("pr_review_comment", "\n")
    telling.say("pr_event_id", f"{telling.number(event, 'id')}\n")
    for name, key in (("pr_in_reply_to_review_id", "review_id"), ("pr_in_reply_to_comment_id", "reply_to")):
        if found := telling.number(event, key):
            telling.say(name, f"{found}\n")
    telling.say("pr_file", f"{telling.take(event, 'path')}\n")
    telling.say("pr_diff_hunk_comment_line", f"{telling.number(event, 'line')}\n")
    telling.say("pr_diff_hunk", f"{telling.take(event, 'hunk')}\n")
    telling.say("pr_comment", f"{_remark(telling, event)}\n")


def _remark(telling: Telling, event: Mapping[str, Any]) -> str:
    return f"{telling.author(event)}: {telling.take(event, 'text')}"
