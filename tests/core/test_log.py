"""What a person reads stays as it was said: no markup eaten, no path broken by the width of a terminal."""

from trivium.core.log import note, warn


def test_lines_are_whole_and_literal(capsys):
    path = "/runs/" + "x" * 200
    note(f"[bold]stages[0] in {path}")
    warn(f"[red]{path}")
    assert capsys.readouterr().out == f"[bold]stages[0] in {path}\nwarning: [red]{path}\n"
