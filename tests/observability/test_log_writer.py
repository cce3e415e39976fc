"""Log lines while their reader stalls."""

import os
from pathlib import Path

from gateway.observability.log_writer import LogWriter
from tests.support.harness import wait_until


def test_a_reader_that_stalls_stops_no_writer_and_gets_its_lines_later() -> None:
    read_fd, write_fd = os.pipe()
    with os.fdopen(write_fd, "w") as file, os.fdopen(read_fd, "rb") as reader:
        writer, lines = LogWriter(file), [f"{number:05} {'x' * 200}\n" for number in range(20_000)]
        for line in lines:
            writer.write(line)  # a blocking one would never return
        assert 10_000 < writer.dropped < 20_000
        kept = len(lines) - writer.dropped
        received = [reader.readline().decode() for _ in range(kept)]
        assert sorted(set(received)) == received, "in order, each once"
        assert set(received) <= set(lines)
        dropped = writer.dropped
        writer.write("again\n")
        assert b"again\n" == reader.readline()
        assert dropped == writer.dropped


def test_long_lines_and_short_ones_keep_their_order(tmp_path: Path) -> None:
    path = tmp_path / "log"
    with path.open("w") as file:
        writer = LogWriter(file)
        lines = [f"{number} {'y' * (number % 3 * 5000)}\n" for number in range(300)]
        for line in lines:
            writer.write(line)
        writer.close()
    assert "".join(lines) == path.read_text()
    assert 0 == writer.dropped


def test_a_reader_that_left_is_no_error() -> None:
    read_fd, write_fd = os.pipe()
    os.close(read_fd)
    with os.fdopen(write_fd, "w") as file:
        writer = LogWriter(file)
        writer.write("nobody reads this\n")
        wait_until(lambda: writer.dropped == 1, "the line is counted as dropped")
