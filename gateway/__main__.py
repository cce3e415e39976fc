"""`python -m gateway` is `imagegate`."""

import signal
import sys

from gateway import __version__


def main() -> None:
    """Ignores SIGHUP until the server handles it: it reads its configuration while it starts anyway."""
    if sys.argv[1:] == ["--version"]:  # without the imports of the commands
        sys.stdout.write(f"{__version__}\n")
        return
    if sys.argv[1:2] == ["serve"]:
        signal.signal(signal.SIGHUP, signal.SIG_IGN)
    from gateway.cli import main as run  # noqa: PLC0415 - the signal may come meanwhile

    run()


if __name__ == "__main__":
    main()
