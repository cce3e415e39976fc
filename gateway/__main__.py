"""`python -m gateway` is `imagegate`."""

from gateway.cli import main

main()
