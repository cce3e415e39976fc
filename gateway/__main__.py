"""`python -m gateway` is `imagegate`."""

import signal
import sys

from gateway import __version__


def main() -> None:
    """Handles signals until the server does. It ignores SIGHUP: it reads its configuration while it starts anyway.

    As process 1 of a container it would not be ended by a signal without a handler.
    """
    if sys.platform == "win32":
        sys.exit("error: imagegate does not run on Windows: use WSL 2, a container, Linux or macOS")
    if sys.argv[1:] == ["--version"]:  # without the imports of the commands
        sys.stdout.write(f"{__version__}\n")
        return
    if sys.argv[1:2] == ["serve"]:
        signal.signal(signal.SIGHUP, signal.SIG_IGN)
        signal.signal(signal.SIGTERM, _end)
    from gateway.cli import main as run  # noqa: PLC0415 - the signal may come meanwhile

    run()


def _end(_: int, __: object) -> None:
    raise SystemExit(0)


if __name__ == "__main__":
    main()
