"""Files through OpenAI's own SDKs: each sends its form in its own order and framing."""

from collections.abc import Mapping
from pathlib import Path
from typing import Final

import pytest

from tests.clients.programs import Packages, Program, install, run
from tests.support.harness import MakeGateway

pytestmark = pytest.mark.slow

OUTCOMES: Final[Mapping[str, str]] = {
    "create": f"batchinput.jsonl 99 batch {30 * 86_400}",
    "wait": "processed",
    "pages": "true",
    "content": "true",
    "other purpose": "BadRequestError invalid_value",
    "delete": "true",
    "deleted": "NotFoundError not_found",
}
PYTHON: Final = Program(
    "openai-python-3.57.0",
    Packages("openai-python-3.57.0", ("openai==3.57.0",)),
    "files_python.py",
    {**OUTCOMES, "create from memory": "upload 3600", "stream": "true"},
    images=0,
)
NODE_VERSIONS: Final = ("4.104.0", "5.23.2", "6.49.0", "7.59.0")
NODE: Final = Program(
    "openai-node-7.59.0",
    Packages("openai-node", tuple(f"openai-{text}@npm:openai@{text}" for text in NODE_VERSIONS), node=20),
    "files_node.mjs",
    {**OUTCOMES, "create from memory": "memory.jsonl 3600"},
    images=0,
    arguments=("openai-7.59.0",),
)


@pytest.mark.parametrize("program", [PYTHON, NODE], ids=lambda program: program.name)
def test_an_sdk_uploads_lists_reads_and_deletes_files(
    program: Program, make_gateway: MakeGateway, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    gateway = make_gateway(storage={"url": (tmp_path / "storage").as_uri()})
    with capfd.disabled():  # an installation shows its progress
        installed = install(program.packages)
    folder = tmp_path / "program"
    folder.mkdir()
    assert program.outcomes == run(program, installed, gateway, folder)
