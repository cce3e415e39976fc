"""`python -m gateway` is `imagegate`."""

import signal
import sys


def main() -> None:
    """A server is not ended by a wish for its configuration that comes while it starts: it reads it then anyway."""
    if sys.argv[1:2] == ["serve"]:
        signal.signal(signal.SIGHUP, signal.SIG_IGN)
    from gateway.cli import main as run  # noqa: PLC0415 - a second's work, in which the signal may come

    run()


if __name__ == "__main__":
    main()
