"""Conformance checks of OpenAI's images API against any base URL, this gateway's or another's.

It imports nothing else of this gateway: reference/openai-images.md states the expectations. Needs the extra
`conformance`.
"""

from gateway.testing.conformance.checks import Check, Finding, Level, Outcome
from gateway.testing.conformance.runner import Plan, Report, UnusableError, conform

__all__ = ["Check", "Finding", "Level", "Outcome", "Plan", "Report", "UnusableError", "conform"]
