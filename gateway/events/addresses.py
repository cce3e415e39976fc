"""Addresses that events may be sent to: the rules against requests to this network on a stranger's behalf."""

import re
from dataclasses import dataclass
from typing import Final

from gateway.generation.transport.addresses import is_public_name

_URL: Final = re.compile(
    r"(?P<scheme>https?)://(?P<host>[A-Za-z0-9._-]{1,253}|\[[0-9A-Fa-f:.]{2,45}\])(:(?P<port>[0-9]{1,5}))?"
    r"(/[!$-;=?-\[\]_a-z~]*)?",
    re.ASCII,
)
"""Stricter than any client of HTTP, so that none reads another host in it: no user, backslash, fragment or blank."""
_MAIL: Final = re.compile(r"mailto:[A-Za-z0-9._+'-]{1,64}@[A-Za-z0-9-]{1,63}(\.[A-Za-z0-9-]{1,63}){0,8}", re.ASCII)
MAIL: Final = "mailto:"
URL_MAX_CHARS: Final = 2000
_DEFAULT_PORTS: Final = {"https": 443, "http": 80}


@dataclass(frozen=True, slots=True)
class AddressRules:
    """`trusted_origins` may be private, plain http and on any port: the configuration names them."""

    ports: frozenset[int] = frozenset((443, 8443))
    trusted_origins: frozenset[str] = frozenset()

    def check(self, url: str) -> bool:
        """Returns whether the origin is trusted; the caller sends to public addresses only if it is not.

        Raises: ValueError with the reason and the remedy, without the URL, which may be secret.
        """
        if url.startswith(MAIL):
            if not _MAIL.fullmatch(url):
                raise ValueError("expected one address, as mailto:team@example.com")
            return True
        found = _URL.fullmatch(url) if len(url) <= URL_MAX_CHARS else None
        if found is None:
            raise ValueError(
                f"expected an https:// URL of at most {URL_MAX_CHARS} printable ASCII characters, without user, "
                "password or fragment"
            )
        if origin_of(url) in self.trusted_origins:
            return True
        scheme, host = found["scheme"], found["host"]
        if scheme != "https":
            raise ValueError("plain http is refused; use https, or add the origin to [alerts] trusted_origins")
        if int(found["port"] or _DEFAULT_PORTS[scheme]) not in self.ports:
            known = ", ".join(map(str, sorted(self.ports)))
            raise ValueError(f"the port is not one of {known}; see [alerts] allowed_ports")
        if not is_public_name(host.strip("[]")):
            raise ValueError("the address is not public; if it must be used, add it to [alerts] trusted_origins")
        return False


def origin_of(url: str) -> str:
    """Returns scheme, host and port, without a default port; empty if the URL is invalid."""
    found = _URL.fullmatch(url)
    if found is None:
        return ""
    scheme, port = found["scheme"], int(found["port"] or 0)
    suffix = f":{port}" if port and port != _DEFAULT_PORTS[scheme] else ""
    return f"{scheme}://{found['host'].lower()}{suffix}"
