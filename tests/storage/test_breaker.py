"""After a failure the storage is left alone, and then one call tries it."""

import pytest

from gateway.domain.errors import ErrorCode, GatewayError
from gateway.observability.metrics import Metrics
from gateway.storage.calls import Operation, StorageBreaker, StorageCalls


class Clock:
    now_s = 1000.0

    def __call__(self) -> float:
        return self.now_s


def is_admitted(breaker: StorageBreaker) -> bool:
    try:
        breaker.admit()
    except GatewayError as error:
        return error.error_code is not ErrorCode.STORAGE_UNAVAILABLE
    return True


@pytest.mark.parametrize("trial_succeeds", [True, False])
def test_one_call_tries_a_storage_that_failed(*, trial_succeeds: bool) -> None:
    clock = Clock()
    breaker = StorageBreaker(clock, 3.0)
    assert [True, True] == [is_admitted(breaker) for _ in range(2)]
    breaker.note_failure()
    clock.now_s += 4.9
    assert (False, True) == (is_admitted(breaker), breaker.is_open)
    clock.now_s += 0.2
    assert [True, False, False] == [is_admitted(breaker) for _ in range(3)]
    if trial_succeeds:
        breaker.note_success()
        assert [True, True] == [is_admitted(breaker) for _ in range(2)]
    else:
        breaker.note_failure()
        clock.now_s += 4.9
        assert not is_admitted(breaker)


def test_a_trial_that_never_ends_is_followed_by_another() -> None:
    clock = Clock()
    breaker = StorageBreaker(clock, 3.0)
    breaker.note_failure()
    for _ in range(3):
        clock.now_s += 5.1
        assert [True, False] == [is_admitted(breaker) for _ in range(2)]


@pytest.mark.anyio
@pytest.mark.parametrize(
    ("failed", "refused"), [(Operation.PUT, "write"), (Operation.DELETE, "delete"), (Operation.GET, "read")]
)
async def test_each_kind_of_access_has_a_breaker_of_its_own(failed: Operation, refused: str) -> None:
    """A full disk is read and freed; what a read-only one holds is read."""
    calls = StorageCalls((OSError,), 3.0, Metrics(), Clock())
    with pytest.raises(GatewayError):
        async with calls.attempt(failed):
            raise PermissionError
    breakers = {"read": calls.reads, "write": calls.writes, "delete": calls.deletes}
    assert [refused] == [name for name, breaker in breakers.items() if breaker.is_open]
