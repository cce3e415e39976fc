"""`python -m gateway` is `imagegate`."""

import signal
import sys


def main() -> None:
    """Ignores SIGHUP until the server handles it: it reads its configuration while it starts anyway."""
    if sys.platform == "win32":
        sys.exit("error: imagegate does not run on Windows: use WSL 2, a container, Linux or macOS")
    if sys.argv[1:2] == ["serve"]:
        signal.signal(signal.SIGHUP, signal.SIG_IGN)
    from gateway.cli import main as run  # noqa: PLC0415 - the signal may come meanwhile

    run()


if __name__ == "__main__":
    main()
