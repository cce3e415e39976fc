"""What `imagegate check` reports of models that retire."""

from collections.abc import Iterator
from datetime import date, timedelta
from typing import Final

from gateway.domain.catalog import Catalog

_NOTICE: Final = timedelta(days=60)
"""Time before the retirement of a model from which it is reported."""


def retiring(catalog: Catalog, today: date) -> Iterator[tuple[str, str]]:
    """Yields each model with a target that has retired or soon will, and the warning."""
    for model in {model.id: model for _, model in catalog.names()}.values():
        for target in model.targets:
            if target.retires_on is None or target.retires_on > today + _NOTICE:
                continue
            days = (target.retires_on - today).days
            left = f"{days} day{'s' * (days > 1)}"
            when = f"retires on {target.retires_on}, in {left}" if days > 0 else f"retired on {target.retires_on}"
            text = f"'{target.model}' of upstream '{target.upstream}' {when}; use another model in [[models.targets]]"
            yield model.id, text
