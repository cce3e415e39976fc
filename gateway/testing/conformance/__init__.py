"""OpenAI's images contract as a list of checks against any base URL, ours or another gateway's.

Knows nothing of this gateway: what it expects stands in reference/openai-images.md. Needs the extra `conformance`.
"""

from gateway.testing.conformance.checks import Check, Finding, Level, Outcome
from gateway.testing.conformance.runner import Plan, Report, UnusableError, conform

__all__ = ["Check", "Finding", "Level", "Outcome", "Plan", "Report", "UnusableError", "conform"]
