import pytest

from trivium.core.errors import DataError
from trivium.data.sentinel import Sentinels
from trivium.data.source.discussion import issue, pull_request

PLAIN = Sentinels({})


def test_an_issue_as_in_the_paper():
    row = {
        "title": "It breaks",
        "events": [
            {"action": "opened", "author": "ann", "text": "Help"},
            {"action": "commented", "author": "bob", "text": "Try <pr> this"},
            {"action": "closed", "author": "ann", "text": "Works"},
        ],
    }
    assert issue(PLAIN, "row 0", row) == (
        "<issue_start>Title: It breaks\nusername_0: Help<issue_comment>username_1: Try <\\pr> this"
        "<issue_closed><issue_comment>username_0: Works<|endoftext|>"
    )


def test_an_issue_closed_without_a_word():
    events = [{"author": "a", "text": "x"}, {"action": "closed", "author": "b", "text": None}]
    assert issue(PLAIN, "", {"title": "t", "events": events}).endswith("username_0: x<issue_closed><|endoftext|>")


@pytest.mark.parametrize(
    ("row", "found"),
    [
        ({"title": "t", "events": []}, "found no events; expected at least the opening one"),
        ({"title": "t", "events": "x"}, "found str under 'events'; expected a list of objects"),
        ({"title": "t", "events": [3]}, "found list under 'events'"),
        ({"title": None, "events": [{"author": "a", "text": "x"}]}, "found None under 'title'; expected text"),
        ({"title": "t", "events": [{"author": "a", "text": float("nan")}]}, "found nan under 'text'"),
        ({"title": "t", "events": [{"text": "x"}]}, "found None under 'author'"),
    ],
)
def test_issues_that_are_none(row, found):
    with pytest.raises(DataError, match="^file: row 7: " + found):
        issue(PLAIN, "file: row 7", row)


PULL = {
    "repo_name": "me/it",
    "title": "Mend it",
    "author": "ann",
    "description": "It was broken.",
    "base": [{"path": "a.py", "content": "x = 1"}],
    "events": [
        {"type": "head", "files": [{"path": "a.py", "hunks": ["@@ -1 +1 @@", "@@ -9 +9 @@"]}]},
        {"type": "comment", "author": "bob", "text": "Why?", "id": 5},
        {"type": "review", "author": "bob", "text": "No", "id": 6, "state": "rejected"},
        {
            **{"type": "review_comment", "author": "ann", "text": "Here", "id": 7, "review_id": 6, "reply_to": None},
            **{"path": "a.py", "line": 3, "hunk": "@@ h"},
        },
        {"type": "edited", "author": "ann", "title": "Mend all", "text": "Now"},
        {"type": "closed", "author": "bob", "merged": True},
    ],
}


def test_a_pull_request_as_in_the_paper():
    assert pull_request(PLAIN, "", PULL) == (
        "<pr>Title: Mend it\nusername_0: It was broken.\n<pr_status>opened\n<repo_name>me/it\n\n"
        "<pr_base>\n<pr_file>a.py\n<pr_base_code>x = 1\n"
        "<pr_diff>\n<pr_file>a.py\n<pr_diff_hunk>@@ -1 +1 @@\n<pr_diff_hunk>@@ -9 +9 @@\n"
        "<pr_comment>username_1: Why?\n<pr_event_id>5\n"
        "<pr_review>username_1: No\n<pr_event_id>6\n<pr_review_state>rejected\n"
        "<pr_review_comment>\n<pr_event_id>7\n<pr_in_reply_to_review_id>6\n<pr_file>a.py\n"
        "<pr_diff_hunk_comment_line>3\n<pr_diff_hunk>@@ h\n<pr_comment>username_0: Here\n"
        "<pr>Title: Mend all\nusername_0: Now\n<pr_status>edited\n"
        "<pr>username_1\n<pr_status>closed\n<pr_is_merged>True\n<|endoftext|>"
    )


@pytest.mark.parametrize(
    ("event", "found"),
    [
        ({"type": "liked"}, "found an event of type 'liked'"),
        ({"type": "closed", "author": "a", "merged": "yes"}, "found 'yes' under 'merged'; expected true or false"),
        ({"type": "head", "files": [{"path": "a", "hunks": "x"}]}, "found str under 'hunks'"),
        ({"type": "head", "files": [{"path": "a", "hunks": [3]}]}, "found 3 under 'hunks'"),
        ({"type": "comment", "author": "a", "text": "x", "id": [1]}, r"found \[1\] under 'id'"),
    ],
)
def test_events_that_are_none(event, found):
    with pytest.raises(DataError, match=found):
        pull_request(PLAIN, "row", PULL | {"events": [event]})
