"""The command line: one word a verb, one required argument, errors in one paragraph."""

from trivium.cli.main import app as app
