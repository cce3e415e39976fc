"""Every route of the admin API."""

from typing import Final

ROUTES: Final = [
    ("GET", "/tenants"),
    ("POST", "/tenants"),
    ("GET", "/tenants/acme"),
    ("PATCH", "/tenants/acme"),
    ("DELETE", "/tenants/acme"),
    ("POST", "/tenants/acme/purge"),
    ("GET", "/tenants/acme/keys"),
    ("POST", "/tenants/acme/keys"),
    ("GET", "/tenants/acme/batches"),
    ("GET", "/tenants/acme/batches/abc"),
    ("POST", "/tenants/acme/batches/abc/cancel"),
    ("GET", "/keys/abc"),
    ("PATCH", "/keys/abc"),
    ("DELETE", "/keys/abc"),
    ("POST", "/keys/abc/rotate"),
    ("GET", "/pool"),
    ("POST", "/pool"),
    ("GET", "/pool/sim/main"),
    ("PATCH", "/pool/sim/main"),
    ("GET", "/pool/sim/main/main-1"),
    ("PATCH", "/pool/sim/main/main-1"),
    ("DELETE", "/pool/sim/main/main-1"),
    ("POST", "/pool/sim/main/main-1/probe"),
    ("GET", "/audit"),
    ("GET", "/usage"),
    ("GET", "/usage/records"),
    ("GET", "/usage/verify"),
]
