"""Google's own SDK at the simulator: what the gateway is tested with is what Google's client accepts."""

from pathlib import Path
from typing import Final

import pytest

from tests.clients.programs import Packages, Program, install, run
from tests.support.harness import Gateway, Simulator

pytestmark = pytest.mark.slow

GOOGLE: Final = Program(
    "google-genai-3.6.1",
    Packages("google-genai-3.6.1", ("google-genai==3.6.1",)),
    "google_genai.py",
    {
        "generate": "jpeg 1264x848",
        "older version": "jpeg 1024x1024",
        "edit": "jpeg 1024x1024",
        "models": "True",
        "refused prompt": "PROHIBITED_CONTENT",
        "refused image": "IMAGE_SAFETY",
        "no image": "NO_IMAGE",
        "wrong key": "ClientError 400 INVALID_ARGUMENT",
        "no billing": "ClientError 403 PERMISSION_DENIED",
        "rate limited": "ClientError 429 RESOURCE_EXHAUSTED",
        "overloaded": "ServerError 503 UNAVAILABLE",
    },
    images=3,
)


def test_the_sdk_is_content_with_the_simulator(
    simulator: Simulator, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    with capfd.disabled():  # an installation shows its progress
        installed = install(GOOGLE.packages)
    assert GOOGLE.outcomes == run(GOOGLE, installed, _Simulated(simulator.url, "main-1"), tmp_path)
    assert GOOGLE.images == simulator.images_billed()


class _Simulated(Gateway):
    """The simulator as the server of a program."""

    @property
    def base_url(self) -> str:
        return self.url
