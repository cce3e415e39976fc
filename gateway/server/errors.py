"""Errors that end the program."""


class StartError(Exception):
    """The gateway cannot start. The message is one line: what is wrong, and what to do."""
