"""Jupyter notebooks as chains of text, code and output, or as scripts (StarCoder2, section 5.4)."""

import json
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any, Literal, cast

from trivium.core.errors import DataError
from trivium.data.sentinel import Sentinels

MAX_BYTES = 64 << 20
"""Largest notebook that is parsed: JSON takes some ten times its size in memory."""


@dataclass(frozen=True, kw_only=True)
class Cell:
    """One cell: words, or code with what it printed."""

    kind: Literal["text", "code"]
    source: str
    output: str = ""


def cells(where: str, content: str) -> list[Cell]:
    """Read the cells of a notebook, format 3 or 4 (https://nbformat.readthedocs.io); empty ones are left out.

    Of an output only its plain text is kept: no HTML, no picture, no traceback beyond the error's own line.

    Args:
        where: the row, for errors.
        content: the text of the .ipynb file.

    Raises:
        DataError: it is no notebook.
    """
    if len(content) > MAX_BYTES:
        raise _bad(where, f"a notebook of {len(content):,} characters", f"at most {MAX_BYTES:,}")
    try:
        book = json.loads(content)
    except (ValueError, RecursionError) as error:
        raise _bad(where, f"broken JSON ({error})", "a notebook") from error
    if not isinstance(book, dict):
        raise _bad(where, f"a {type(book).__name__}", "an object with 'cells'")
    found = []
    for number, cell in enumerate(_raw_cells(where, cast(dict[str, Any], book))):
        here = f"{where}: cell {number}"
        match cell.get("cell_type"):
            case "markdown" | "heading" | "raw":
                found.append(Cell(kind="text", source=_text(here, cell, "source")))
            case "code":
                code = _text(here, cell, "source" if "source" in cell else "input")
                found.append(Cell(kind="code", source=code, output=_outputs(here, cell)))
            case other:
                raise _bad(here, f"a cell of type {other!r}", "markdown, heading, raw or code")
    return [cell for cell in found if cell.source.strip()]


def structured(sentinels: Sentinels, where: str, content: str) -> str:
    """Tell a notebook as `<jupyter_start><jupyter_text>...<jupyter_code>...<jupyter_output>...<|endoftext|>`.

    Text cells that follow one another become one; code without output gets `<empty_output>`.

    Raises:
        DataError: it is no notebook.
    """
    told, last = [sentinels["jupyter_start"]], ""
    for cell in cells(where, content):
        source = sentinels.escape(cell.source)
        if cell.kind == "text":
            told.append(f"\n\n{source}" if last == "text" else sentinels["jupyter_text"] + source)
        else:
            output = sentinels.escape(cell.output) if cell.output.strip() else sentinels["empty_output"]
            told.append(sentinels["jupyter_code"] + source + sentinels["jupyter_output"] + output)
        last = cell.kind
    return "".join(told) + sentinels["endoftext"]


def script(sentinels: Sentinels, where: str, content: str) -> str:
    """Tell a notebook as one program, `<jupyter_script>CODE<|endoftext|>`: text becomes comments, outputs go.

    Raises:
        DataError: it is no notebook.
    """
    blocks = []
    for cell in cells(where, content):
        lines = cell.source.split("\n")
        blocks.append("\n".join(f"# {line}".rstrip() for line in lines) if cell.kind == "text" else cell.source)
    return sentinels["jupyter_script"] + sentinels.escape("\n\n".join(blocks)) + sentinels["endoftext"]


def _raw_cells(where: str, book: Mapping[str, Any]) -> Iterator[Mapping[str, Any]]:
    sheets = book.get("worksheets") if "worksheets" in book else [book]
    for sheet in sheets if isinstance(sheets, list) else [None]:
        found = sheet.get("cells") if isinstance(sheet, Mapping) else None
        if not isinstance(found, list) or not all(isinstance(cell, Mapping) for cell in found):
            raise _bad(where, f"{type(found).__name__} under 'cells'", "a list of cells")
        yield from found


def _outputs(where: str, cell: Mapping[str, Any]) -> str:
    outputs = cell.get("outputs", [])
    if not isinstance(outputs, list) or not all(isinstance(output, Mapping) for output in outputs):
        raise _bad(where, f"{type(outputs).__name__} under 'outputs'", "a list of outputs")
    told = []
    for output in outputs:
        data = output.get("data", output)
        match output.get("output_type"):
            case "stream":
                told.append(_text(where, output, "text"))
            case "error" | "pyerr":
                told.append(f"{output.get('ename')}: {output.get('evalue')}")
            case _ if isinstance(data, Mapping):
                key = "text/plain" if "text/plain" in data else "text"
                told.append(_text(where, data, key) if key in data else "")
            case _:
                raise _bad(where, f"{type(data).__name__} under 'data'", "an object")
    return "\n".join(part.rstrip("\n") for part in told if part)


def _text(where: str, holder: Mapping[str, Any], key: str) -> str:
    """Return a text that may be written as a list of lines."""
    value = holder.get(key)
    lines = [value] if isinstance(value, str) else value
    if not isinstance(lines, list) or not all(isinstance(line, str) for line in lines):
        raise _bad(where, f"{type(value).__name__} under {key!r}", "text or a list of lines")
    return "".join(lines)


def _bad(where: str, found: str, expected: str) -> DataError:
    return DataError(where, found, expected, "Mend or remove that row.")
