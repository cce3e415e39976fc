"""Batches through OpenAI's Node SDK; tests/flow/test_batches.py uses the Python SDK."""

from pathlib import Path
from typing import Final

import pytest

from tests.clients.programs import Packages, Program, install, run
from tests.support.harness import MakeGateway

pytestmark = pytest.mark.slow

NODE_VERSIONS: Final = ("4.104.0", "5.23.2", "6.49.0", "7.59.0")
NODE: Final = Program(
    "openai-node-7.59.0",
    Packages("openai-node", tuple(f"openai-{text}@npm:openai@{text}" for text in NODE_VERSIONS), node=20),
    "batches_node.mjs",
    {
        "create": "batch validating 24h 86400",
        "poll": "completed 2 1 1",
        "read": "a image/jpeg b 400",
        "cancel": "cancelled",
        "invalid": "invalid_json_line",
        "pages": "true",
    },
    images=0,
    arguments=("openai-7.59.0",),
)


def test_the_node_sdk_creates_polls_reads_and_cancels_batches(
    make_gateway: MakeGateway, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    gateway = make_gateway(storage={"url": (tmp_path / "storage").as_uri()})
    with capfd.disabled():  # an installation shows its progress
        installed = install(NODE.packages)
    folder = tmp_path / "program"
    folder.mkdir()
    assert NODE.outcomes == run(NODE, installed, gateway, folder)
