"""What a request of a history needs."""

from dataclasses import dataclass


@dataclass(frozen=True)
class Need:
    """A request that waits."""

    id: str
    tenant: str
    weight: int
    images: int
    model: str
    priority: str
    avoided: tuple[str, ...]

    @property
    def flow(self) -> str:
        return f"{self.priority}:{self.tenant}"

    @property
    def kind(self) -> tuple[object, ...]:
        return self.priority, self.images, self.model, tuple(sorted(self.avoided))
