"""The simulator's formats, held to the SDKs of the providers themselves."""

from collections.abc import Iterator
from pathlib import Path
from typing import Final

import pytest

from tests.clients.programs import Packages, Program, install, run
from tests.support.harness import Gateway, Simulator, simulating

pytestmark = pytest.mark.slow

ARK: Final = Program(
    "volcengine-5.0.54",
    Packages("volcengine", ("volcengine-python-sdk[ark]==5.0.54",)),
    "ark_images.py",
    {
        "link": "jpeg 1024x1024",
        "in base64": "jpeg 1024x1024",
        "edit": "jpeg 1024x1024",
        "withheld": "OutputImageSensitiveContentDetected 0",
        "refused prompt": "ArkBadRequestError InputTextSensitiveContentDetected",
        "busy": "ArkRateLimitError RateLimitExceeded.EndpointRPMExceeded",
    },
    images=3,
)
LUMA: Final = Program(
    "luma-0.5.0",
    Packages("luma", ("luma-agents==0.5.0", "lumaai==1.21.0")),
    "luma_images.py",
    {
        "image": "jpeg 2048x1152",
        "edit": "png 2048x2048",
        "moderated": "content_moderated",
        "busy": "RateLimitError",
        "without balance": "APIStatusError",
        "wrong key": "AuthenticationError",
        "unknown task": "NotFoundError",
        "files": "0 files",
        "photon image": "png 1792x1344",
        "photon moderated": "Failed content moderation",
        "balance": "1000 cents",
    },
    images=3,
)
ZAI: Final = Program(
    "zai-0.2.3",
    Packages("zai", ("zai-sdk==0.2.3",)),
    "zai_images.py",
    {
        "link": "jpeg 1344x768",
        "no watermark": "jpeg 1280x1280",
        "refused prompt": "APIRequestFailedError",
        "busy": "APIReachLimitError",
    },
    images=2,
)
FAL: Final = Program(
    "fal-1.0.3",
    Packages("fal", ("fal-client==1.0.3",)),
    "fal_images.py",
    {
        "links": "jpeg 1024x768, jpeg 1024x768",
        "withheld": "[True]",
        "refused prompt": "422 content_policy_violation",
        "no balance": "FalClientHTTPError",
    },
    images=2,
)
REPLICATE: Final = Program(
    "replicate-1.0.7",
    Packages("replicate", ("replicate==1.0.7",)),
    "replicate_images.py",
    {
        "links": "jpeg 1024x1024, jpeg 1024x1024",
        "one link": "webp 1365x1024",
        "refused prompt": "ModelError",
        "no balance": "402 Insufficient credit",
        "account": "acme",
    },
    images=3,
)


@pytest.fixture
def twin() -> Iterator[Simulator]:
    with simulating() as running:
        yield running


@pytest.mark.parametrize("program", [ARK, FAL, LUMA, REPLICATE, ZAI], ids=lambda program: program.name)
def test_a_provider_sdk_is_content_with_the_simulator(
    program: Program, twin: Simulator, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    with capfd.disabled():  # an installation shows its progress
        installed = install(program.packages)
    assert program.outcomes == run(program, installed, Gateway(twin.url, "sdk-1"), tmp_path)
    assert program.images == twin.images_billed()
