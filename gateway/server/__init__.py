"""The server process: sockets, HTTP limits, TLS, workers, reload and shutdown."""


class StartError(Exception):
    """The gateway cannot start. The message is one line: what is wrong, and what to do."""
