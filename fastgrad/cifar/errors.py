"""The one exception whose message is meant for the person at the terminal."""


class UsageError(ValueError):
    """An option, a file or a run folder is not usable; the message says what was expected."""
