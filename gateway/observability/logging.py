"""Logs one line per event, as JSON or for a terminal. Bodies and secrets are never fields."""

import io
import json
import logging
import sys
from typing import Final, Literal, TextIO

import msgspec
import structlog

from gateway.observability.log_writer import LogWriter


def _serialize(event: object, **_: object) -> str:
    """Returns printable ASCII. Escapes terminal control characters, which msgspec does not."""
    text = msgspec.json.encode(event, enc_hook=repr)
    if text.isascii() and _DELETE not in text:
        return text.decode("ascii")
    return json.dumps(event, default=repr)


_JSON: Final = structlog.processors.JSONRenderer(serializer=_serialize)
_DELETE: Final = b"\x7f"
LogFormat = Literal["json", "console"]
LogLevel = Literal["debug", "info", "warning", "error"]


def configure_logging(log_format: LogFormat, level: LogLevel) -> None:
    """Sends the events of the gateway and of libraries to standard error, one line each."""
    stream = _standard_error()
    shared: list[structlog.typing.Processor] = [
        structlog.contextvars.merge_contextvars,
        structlog.stdlib.add_log_level,
        structlog.processors.TimeStamper(fmt="iso", utc=True),
    ]
    rendered: list[structlog.typing.Processor] = [structlog.processors.format_exc_info, _JSON]
    if log_format == "console":
        console = structlog.dev.ConsoleRenderer(colors=sys.stderr.isatty(), pad_event_to=0)
        rendered = [structlog.processors.format_exc_info, _readable, console]
    structlog.configure(
        processors=[*shared, *rendered],
        wrapper_class=structlog.make_filtering_bound_logger(level),
        logger_factory=structlog.WriteLoggerFactory(stream),
        cache_logger_on_first_use=False,
    )
    handler = logging.StreamHandler(stream)
    handler.setFormatter(
        structlog.stdlib.ProcessorFormatter(
            foreign_pre_chain=shared,
            processors=[structlog.stdlib.ProcessorFormatter.remove_processors_meta, *rendered],
        )
    )
    logging.basicConfig(handlers=[handler], level=level.upper(), force=True)
    for warned in ("uvicorn.error", "python_multipart"):  # of each malformed request, without its ID
        logging.getLogger(warned).setLevel(logging.ERROR)
    for talkative in ("httpx", "asyncio", "urllib3"):
        logging.getLogger(talkative).setLevel(logging.WARNING)


def count_dropped_lines() -> int:
    """Returns the number of log lines that this process dropped because standard error was blocked."""
    streams = [getattr(handler, "stream", None) for handler in logging.getLogger().handlers]
    return sum(stream.dropped for stream in streams if isinstance(stream, LogWriter))


def _standard_error() -> TextIO:
    try:
        return LogWriter(sys.stderr)  # type: ignore[return-value] # loggers only write and flush
    except io.UnsupportedOperation:  # it is redirected within this process
        return sys.stderr


def _readable(_: object, __: str, event: structlog.typing.EventDict) -> structlog.typing.EventDict:
    """For terminals: shortens calls and escapes control characters."""
    return {name: _printable(_calls(value) if name == "calls" else value) for name, value in event.items()}


def _calls(calls: list[dict[str, object]]) -> str:
    """Renders calls as "sim/main fp-1a2b3c4d 230ms", with the error code behind it; the newest last."""
    texts = (f"{c['upstream']}/{c['account']} {c['key']} {c['ms']}ms {c.get('error_code', '')}" for c in calls)
    return ", ".join(text.rstrip() for text in texts)


def _printable(value: object) -> object:
    """Escapes control characters in text. Line breaks stay, as a traceback has them."""
    if not isinstance(value, str):
        return value
    return "".join(c if c.isprintable() or c == "\n" else c.encode("unicode_escape").decode() for c in value)
