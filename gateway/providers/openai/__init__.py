"""OpenAI's images API, and the providers that speak it with differences that are data (reference/providers.md 16.1)."""

from collections.abc import Mapping
from dataclasses import replace

from gateway.domain.accounts import Secret
from gateway.domain.catalog import Capability
from gateway.domain.errors import ErrorCode, GatewayError, Outcome
from gateway.domain.images import CallPlan, ImageJob, ImageReply, ResponseFormat
from gateway.providers.minimax_key_check import read_quota
from gateway.providers.openai.errors import raise_error
from gateway.providers.openai.models import ANY_SIZE
from gateway.providers.openai.profiles import Probe, Profile, ResponseFormatForm
from gateway.providers.openai.replies import read_images
from gateway.providers.openai.requests import authenticate, build_request
from gateway.providers.protocol import KeyCheck, ModelFacts, ProviderRequest
from gateway.providers.replies import UntrustedObject, UpstreamResponse, parse_any, parse_object
from gateway.providers.stray_images import has_stray_images

_OVERRIDES = frozenset({"max_images_per_call", "base64_response", "seed", "exact_sizes"})
"""The operator's `capabilities` that have a meaning here."""


class OpenAI:
    """One provider of a profile."""

    def __init__(self, profile: Profile) -> None:
        self.profile = profile

    @property
    def base_url(self) -> str:
        return self.profile.base_url

    @property
    def result_hosts(self) -> tuple[str, ...]:
        return self.profile.result_hosts

    @property
    def paths(self) -> tuple[str, ...]:
        """Without their queries."""
        profile = self.profile
        paths = (profile.path, profile.edit_path, *profile.model_paths.values(), profile.probe_path)
        return tuple(path.partition("?")[0] for path in paths)

    @property
    def models(self) -> Mapping[str, ModelFacts]:
        return self.profile.facts

    def capability(self, model: str, overrides: Mapping[str, int]) -> Capability:
        """Returns the capability of a model. Raises: ValueError, LookupError."""
        profile = self.profile
        for name in sorted(overrides.keys() - _OVERRIDES):
            raise ValueError(f"{name}: provider '{profile.name}' does not have it; remove it")
        if model.endswith("_vector"):
            raise LookupError(f"'{model}' makes SVG, which the gateway does not deliver; use another model")
        if overrides.get("seed") and not profile.seed_field:
            raise ValueError(f"seed: provider '{profile.name}' does not have it; remove it")
        if overrides.get("base64_response") and profile.response_format is ResponseFormatForm.OMITTED:
            raise ValueError(f"base64_response: provider '{profile.name}' has one form of images only; remove it")
        base = profile.facts.get(model, profile.default).capability
        fields = base.fields
        if "seed" in overrides:
            fields = fields | {"seed"} if overrides["seed"] else fields - {"seed"}
        return replace(
            base,
            sizes=(ANY_SIZE,) if overrides.get("exact_sizes") else base.sizes,
            max_images_per_call=overrides.get("max_images_per_call", base.max_images_per_call),
            supports_base64=bool(overrides.get("base64_response", base.supports_base64)),
            fields=fields,
        )

    def build_call(self, job: ImageJob, plan: CallPlan, secret: Secret) -> ProviderRequest:
        return build_request(self.profile, job, plan, secret)

    def read_reply(self, reply: UpstreamResponse, delivery: ResponseFormat) -> ImageReply:
        """Reads the images of a response.

        Raises: GatewayError with the response's error code, or INVALID_RESPONSE if images contradict it, or if a
        success has none: they may have been billed.
        """
        envelope = UntrustedObject({})
        try:
            envelope = parse_any(reply)
            return read_images(self.profile, reply, envelope, delivery)
        except GatewayError as error:
            is_success = error.error_code is ErrorCode.EMPTY_RESPONSE
            if error.row.outcome is Outcome.UNKNOWN or not has_stray_images(reply, envelope, is_success=is_success):
                raise
            raise GatewayError(ErrorCode.INVALID_RESPONSE, f"images where none belong: {error.detail}") from error

    def build_key_check(self, secret: Secret) -> ProviderRequest:
        """Builds the profile's free request. A generation without model and prompt cannot be billed."""
        profile, headers = self.profile, authenticate(self.profile, secret)
        if profile.probe is Probe.INVALID:
            return ProviderRequest("POST", profile.path, (*headers, ("content-type", "application/json")), (b"{}",))
        return ProviderRequest("GET", profile.probe_path, headers)

    def read_key_check(self, reply: UpstreamResponse) -> KeyCheck:
        match self.profile.probe:
            case Probe.INVALID:
                return self._read_invalid(reply)
            case Probe.BALANCE:
                return self._read_balance(reply)
            case Probe.PLAN:
                plan = parse_object(reply)
                raise_error(self.profile.errors, reply, plan)
                return read_quota(plan)
        return self.read_second_check(reply)

    def build_second_check(self, secret: Secret) -> ProviderRequest | None:
        """MiniMax's quota page belongs to plans, and may refuse a valid key (reference/minimax.md 4.3)."""
        if self.profile.probe is not Probe.PLAN:
            return None
        return ProviderRequest("GET", "/models", authenticate(self.profile, secret))

    def read_second_check(self, reply: UpstreamResponse) -> KeyCheck:
        """Accepts any list of models: the key is valid. The balance stays unknown."""
        envelope = parse_any(reply)
        raise_error(self.profile.errors, reply, envelope)
        if not isinstance(envelope.value("data"), list):
            raise GatewayError(ErrorCode.INVALID_RESPONSE, "no list of models")
        return KeyCheck()

    def _read_invalid(self, reply: UpstreamResponse) -> KeyCheck:
        """A complaint about the request shows that the key is valid."""
        try:
            raise_error(self.profile.errors, reply, parse_any(reply))
        except GatewayError as error:
            if error.error_code in {ErrorCode.UPSTREAM_REJECTED, ErrorCode.UPSTREAM_UNSUPPORTED}:
                return KeyCheck()
            raise
        raise GatewayError(ErrorCode.INVALID_RESPONSE, "a request without a prompt was accepted")

    def _read_balance(self, reply: UpstreamResponse) -> KeyCheck:
        """Reads Recraft's `credits` (reference/providers.md section 7)."""
        envelope = parse_any(reply)
        raise_error(self.profile.errors, reply, envelope)
        credit = envelope.value("credits")
        if not isinstance(credit, int | float):
            raise GatewayError(ErrorCode.INVALID_RESPONSE, "no balance")
        if credit <= 0:
            return KeyCheck(ErrorCode.INSUFFICIENT_BALANCE, "no credits are left")
        return KeyCheck(proves_balance=True)
