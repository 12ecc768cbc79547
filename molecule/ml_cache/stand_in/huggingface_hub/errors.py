"""The one error that the role tells from the others."""


class LocalEntryNotFoundError(FileNotFoundError, ValueError):
    """Not in the cache."""
