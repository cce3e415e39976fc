"""Parses samples of the Prometheus text format."""

import httpx
from prometheus_client.parser import text_string_to_metric_families


def samples(url: str) -> list[tuple[str, dict[str, str], float]]:
    text = httpx.get(f"{url}/metrics").text
    return [
        (sample.name, dict(sample.labels), sample.value)
        for family in text_string_to_metric_families(text)
        for sample in family.samples
    ]


def labels(url: str, name: str) -> set[str]:
    return {found[name] for _, found, _ in samples(url) if name in found}
