"""One family of errors; each says where, what was found, what was expected, and what to do next."""


class TriviumError(Exception):
    """Root of every error that a user can cause and mend.

    The message is built from four parts, so that none is forgotten:

    TriviumError
    |-- ConfigError       a recipe or an override is wrong
    |-- DataError         a file, an episode, a frame or a record is wrong
    |-- CheckpointError   a run folder or a checkpoint cannot be used or written
    |-- TrainingError     training cannot go on (non-finite too often, nothing to learn)
    |-- SetupError        a package, a library or a device is missing
    """

    def __init__(self, where: str, found: str, expected: str, todo: str) -> None:
        """Build the text.

        Args:
            where: dotted path, file, episode and frame, or rank.
            found: what is there.
            expected: what should be there.
            todo: what to type or change next.
        """
        self.where, self.found, self.expected, self.todo = where, found, expected, todo
        super().__init__(f"{where}: found {found}; expected {expected}. {todo}")

    def __reduce__(self) -> tuple[type, tuple[str, str, str, str]]:
        """Pickle by the four parts: a worker process hands its error to the parent."""
        return type(self), (self.where, self.found, self.expected, self.todo)


class ConfigError(TriviumError):
    """A recipe, a resolved config or an override is wrong; `where` is the dotted path."""


class DataError(TriviumError):
    """A source, an episode, a frame or a record is wrong; `where` names the file and the place in it."""


class CheckpointError(TriviumError):
    """A run folder or checkpoint cannot be read, written or trusted."""


class TrainingError(TriviumError):
    """Training cannot go on."""


class SetupError(TriviumError):
    """Something outside Python code is missing: a package, a system library, weights."""
