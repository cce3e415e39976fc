"""`[console]`: the web page for operators and teams."""

from typing import Annotated

from msgspec import Meta

from gateway.config.upstreams import Table


class Console(Table, frozen=True, kw_only=True):
    """The console, on the port of the admin API."""

    enabled: bool = True
    organisation: Annotated[str, Meta(max_length=100)] = ""
    session_idle_minutes: Annotated[int, Meta(ge=1, le=1440)] = 30
    session_hours: Annotated[int, Meta(ge=1, le=168)] = 12
    admin_key_sign_in: bool = True
