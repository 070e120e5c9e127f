"""The one exception that is meant for a person: a line that says what is wrong and what to do."""


class PasError(Exception):
    """A mistake in what was asked for, not in the program. The command line prints it and exits with 2."""
