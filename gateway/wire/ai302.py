"""302.AI, api.302.ai: MiniMax's API behind another host, with errors of its own (reference/minimax.md section 5)."""

from collections.abc import Mapping
from types import MappingProxyType
from typing import Final

from gateway.domain.faults import Fault, GatewayError
from gateway.domain.images import DEFAULT_RATIO, Capability, Delivery, ImageJob, ImageReply, Shape
from gateway.wire.envelope import Envelope, Reply, open_envelope
from gateway.wire.minimax import encode_call, raise_newer_error, raise_refusal, read_base_resp
from gateway.wire.probes import ProbeResult, read_models
from gateway.wire.texts import refusal, word_error

ERR_CODES: Final[Mapping[int, Fault]] = MappingProxyType(
    {
        # The texts of 302.AI's own user interface.
        -10001: Fault.KEY_INVALID,
        -10002: Fault.KEY_INVALID,
        -10003: Fault.UPSTREAM_ERROR,
        -10004: Fault.BALANCE_EMPTY,
        -10005: Fault.KEY_INVALID,
        -10006: Fault.KEY_LIMIT_REACHED,
        -10007: Fault.KEY_DAY_SPENT,
        -10008: Fault.UPSTREAM_NO_CHANNEL,
        -10009: Fault.UPSTREAM_UNSUPPORTED,
        -10010: Fault.UPSTREAM_UNSUPPORTED,
        -10011: Fault.UPSTREAM_REJECTED,
        -10012: Fault.KEY_HOUR_SPENT,
        -10013: Fault.KEY_MODEL_DENIED,
        -10014: Fault.EGRESS_DENIED,
        -10015: Fault.UPSTREAM_REJECTED,
        -10016: Fault.UPSTREAM_REJECTED,
        -10017: Fault.UPSTREAM_REJECTED,
        -10018: Fault.KEY_MONTH_SPENT,
        -1024: Fault.UPSTREAM_TIMEOUT,
        # Local to its applications.
        -99: Fault.UPSTREAM_ERROR,
        -100: Fault.UPSTREAM_ERROR,
        -101: Fault.UPSTREAM_ERROR,
    }
)
"""`error.err_code` to fault (reference/minimax.md 5.3)."""

CODE_WORDS: Final[Mapping[str, Fault]] = MappingProxyType(
    {
        "InvalidParameter": Fault.UPSTREAM_REJECTED,
        "MissingParameter": Fault.UPSTREAM_REJECTED,
        "Unauthorized": Fault.BARE_UNAUTHORIZED,
        "RateLimitExceeded": Fault.BARE_RATE_LIMITED,
        "InsufficientBalance": Fault.BARE_PAYMENT_REQUIRED,
        "InternalError": Fault.UPSTREAM_ERROR,
    }
)
"""`code` of the schema on its newer pages (reference/minimax.md 5.3, shape 2): words that other gateways write too."""


class Ai302:
    """The `302ai` dialect."""

    path: Final = "/minimaxi/v1/image_generation"
    probe_path: Final = "/v1/models"
    """The only free page that is known to take every key; that of the balance wants a key with management rights
    (reference/minimax.md 5.2, 5.4)."""
    result_hosts: Final = ("file.302ai.cn", "file.302.ai")
    """Where it re-hosts results (reference/minimax.md 5.1)."""

    def capability(self, model: str) -> Capability:  # noqa: ARG002 - the same for every model
        """Only what its page documents; `n`, `seed`, pixels, base64 and references are not known to pass through."""
        return Capability(
            max_images_per_call=1, takes_pixels=False, answers_base64=False, fields=frozenset({"prompt_optimizer"})
        )

    def build_call(self, job: ImageJob, count: int, model: str, shape: Shape, delivery: Delivery) -> tuple[bytes, ...]:
        """The five fields that the page marks required; then what the operator has declared to pass through.

        Declared pixels stand in the place of `aspect_ratio`, which would win over them.
        """
        body: dict[str, object] = {"model": model, "prompt": job.prompt}
        if shape.pixels:
            body |= {"width": shape.pixels.width, "height": shape.pixels.height}
        else:
            body["aspect_ratio"] = shape.aspect_ratio or DEFAULT_RATIO
        body |= {"response_format": delivery.value, "prompt_optimizer": False}
        if count > 1:
            body["n"] = count
        return encode_call(body, job)

    def read_reply(self, reply: Reply, delivery: Delivery) -> ImageReply:
        """Raises: GatewayError with the fault of whatever the answer says went wrong."""
        envelope = open_envelope(reply)
        _raise_own_error(reply, envelope)
        raise_newer_error(reply, envelope)
        _raise_word(reply, envelope)
        return read_base_resp(reply, envelope, delivery)

    def read_probe(self, reply: Reply) -> ProbeResult:
        """A list of models says that the key is known, and nothing of the balance."""
        try:
            envelope = open_envelope(reply)
            _raise_own_error(reply, envelope)
            raise_newer_error(reply, envelope)
            _raise_word(reply, envelope)
            raise_refusal(reply, envelope)
        except GatewayError as error:
            return ProbeResult(error.fault, error.detail)
        return read_models(envelope)


def _raise_own_error(reply: Reply, envelope: Envelope) -> None:
    for holder in (envelope.inner("error"), envelope.inner("data").inner("error")):
        err_code = holder.integer("err_code")
        if err_code:
            fault = ERR_CODES.get(err_code, Fault.UPSTREAM_ERROR)
            raise refusal(fault, f"{err_code} {holder.text('message')}", holder.text("message"), reply)


def _raise_word(reply: Reply, envelope: Envelope) -> None:
    """MiniMax's own code, if there is one, says more."""
    word, text = envelope.text("code"), envelope.text("message")
    if word in CODE_WORDS and not envelope.inner("base_resp").integer("status_code"):
        raise word_error(CODE_WORDS[word], f"{word} {text}", text, reply)
