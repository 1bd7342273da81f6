import json

import pytest

from trivium.core.errors import DataError
from trivium.data.sentinel import Sentinels
from trivium.data.source import notebook as module
from trivium.data.source.notebook import script, structured

PLAIN = Sentinels({})
BOOK = {
    "nbformat": 4,
    "cells": [
        {"cell_type": "markdown", "source": ["# Title\n", "\n", "words"]},
        {"cell_type": "raw", "source": "more"},
        {"cell_type": "code", "source": "print(1)\n2", "outputs": [
            {"output_type": "stream", "text": ["1\n"]},
            {"output_type": "execute_result", "data": {"text/plain": ["2"], "text/html": "<b>2</b>"}},
        ]},
        {"cell_type": "code", "source": "  ", "outputs": []},
        {"cell_type": "code", "source": "x = '<jupyter_code>'", "outputs": [{"output_type": "display_data", "data": {
            "image/png": "AAAA"}}]},
        {"cell_type": "code", "source": "1/0", "outputs": [
            {"output_type": "error", "ename": "ZeroDivisionError", "evalue": "division by zero", "traceback": ["..."]}
        ]},
    ],
}  # fmt: skip


def test_a_notebook_is_a_chain():
    assert structured(PLAIN, "", json.dumps(BOOK)) == (
        "<jupyter_start><jupyter_text># Title\n\nwords\n\nmore<jupyter_code>print(1)\n2<jupyter_output>1\n2"
        "<jupyter_code>x = '<\\jupyter_code>'<jupyter_output><empty_output>"
        "<jupyter_code>1/0<jupyter_output>ZeroDivisionError: division by zero<|endoftext|>"
    )


def test_a_notebook_is_a_script():
    assert script(PLAIN, "", json.dumps(BOOK)) == (
        "<jupyter_script># # Title\n#\n# words\n\n# more\n\nprint(1)\n2\n\nx = '<\\jupyter_code>'\n\n1/0<|endoftext|>"
    )


def test_format_3():
    cell = {"cell_type": "code", "input": ["x"], "outputs": [{"output_type": "pyout", "text": ["7"]}]}
    book = {"nbformat": 3, "worksheets": [{"cells": [{"cell_type": "heading", "source": "H"}, cell]}]}
    told = "<jupyter_start><jupyter_text>H<jupyter_code>x<jupyter_output>7<|endoftext|>"
    assert structured(PLAIN, "", json.dumps(book)) == told


@pytest.mark.parametrize(
    ("content", "found"),
    [
        ("{", "row 3: found broken JSON"),
        ("[" * 100_000, "row 3: found broken JSON"),
        ("[]", "row 3: found a list; expected an object with 'cells'"),
        ("{}", "row 3: found NoneType under 'cells'"),
        ('{"cells": [1]}', "row 3: found list under 'cells'"),
        ('{"worksheets": 4}', "row 3: found NoneType under 'cells'"),
        ('{"cells": [{"cell_type": "sql"}]}', "row 3: cell 0: found a cell of type 'sql'"),
        ('{"cells": [{"cell_type": "raw", "source": [1]}]}', "row 3: cell 0: found list under 'source'"),
        ('{"cells": [{"cell_type": "code", "source": "", "outputs": 1}]}', "cell 0: found int under 'outputs'"),
        (
            '{"cells": [{"cell_type": "code", "source": "x", "outputs": [{"output_type": "x", "data": 1}]}]}',
            "cell 0: found int under 'data'",
        ),
    ],
)
def test_notebooks_that_are_none(content, found):
    with pytest.raises(DataError, match=found):
        structured(PLAIN, "row 3", content)


def test_a_notebook_too_large(monkeypatch):
    monkeypatch.setattr(module, "MAX_BYTES", 10)
    with pytest.raises(DataError, match="found a notebook of 11 characters; expected at most 10"):
        structured(PLAIN, "row 3", "x" * 11)
