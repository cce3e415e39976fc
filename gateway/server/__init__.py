"""The server process: sockets, HTTP limits, TLS, workers, reload and shutdown."""
