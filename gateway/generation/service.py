"""The use case: reserves, runs and settles a request for images, converts them, and stores those that get links."""

from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass, replace
from typing import Final

from gateway.domain.billing import AdmissionRequest, Timings
from gateway.domain.errors import ErrorCode, GatewayError
from gateway.domain.images import Format, ImageJob, ImageResult, SizeChange
from gateway.domain.pricing import Offer
from gateway.domain.tenants import Principal
from gateway.domain.tracing import Interval
from gateway.generation.context import ConvertedRequest, GenerationRequest, RequestContext
from gateway.generation.conversion import ImageConverter
from gateway.generation.result_links import ResultLinks
from gateway.generation.runner import Upstreams
from gateway.metering.admission import Admission

_SENT_AT_ONCE_BYTES: Final = 64 * 1024
"""The connection buffers this much, so a slow client cannot delay a smaller response."""


@dataclass(slots=True, eq=False)
class GenerationService:
    """Generates images for tenants."""

    _admission: Admission
    _upstreams: Upstreams
    _converter: ImageConverter
    _links: ResultLinks | None
    """None without a storage."""
    _monotonic: Callable[[], float]

    async def generate(self, principal: Principal, request: GenerationRequest, context: RequestContext) -> ImageResult:
        """Reserves a request's cost, makes its images, settles it, and converts and stores the images if needed.

        Returns: at least one image; fewer than requested if some were withheld or some calls failed.
        Raises: GatewayError.
        """
        model, job, trace = request.model, request.job, context.trace
        context.model, context.asked, context.prompt = model.id, job.count, job.prompt
        order = (context.identity, context.batch, context.attribution)
        purchase = AdmissionRequest(context.id, model.id, job.count, _offers(request), *order)
        transfer_id = context.transfer.hand_over() if context.transfer else ""
        passage = trace.admit = Interval(self._monotonic())
        try:
            async with self._admission.admit(principal, purchase, transfer_id) as reservation:
                passage.ended_s = self._monotonic()
                context.reservation, context.rates = reservation, reservation.rates
                try:
                    if job.inputs:
                        request = await self._convert_inputs(request, context)
                    result = await self._upstreams.generate(request, reservation, context)
                    if context.keep_result:
                        result = await self._convert(result, job, context)
                        await context.keep_result(result)
                finally:
                    now_s = self._monotonic()
                    passage = trace.settle = Interval(now_s)
                    spent_s = (trace.queue_s, trace.upstream_s, now_s - context.started_s)
                    reservation.spent = Timings(*(round(1000 * seconds) for seconds in spent_s))
        finally:
            passage.ended_s = self._monotonic()
        await self.present(result, job, context)
        if context.keep_result:
            return result
        result = await self._convert(result, job, context)
        return await self._links.link(result, request, principal.tenant.name, context) if self._links else result

    async def present(self, result: ImageResult, job: ImageJob, context: RequestContext) -> None:
        """Records what the response delivers. A large one counts as a transfer while it is converted and sent."""
        context.delivered, context.missing = len(result.pictures), job.count - len(result.pictures)
        if job.size and job.size != result.made:
            context.size_change = SizeChange(job.size, result.made)
        if context.transfer and (job.output_format or result.held_bytes > _SENT_AT_ONCE_BYTES):
            with suppress(GatewayError):  # the response is sent anyway
                await context.transfer.begin(is_checked=False)

    async def _convert_inputs(self, request: GenerationRequest, context: RequestContext) -> GenerationRequest:
        """Returns the request with its WebP images as PNG, and the targets that take them.

        Raises: GatewayError INVALID_VALUE, MEMORY_FULL.
        """
        job, memory = request.job, context.memory
        is_webp = [image.format is Format.WEBP for image in job.inputs]
        if not any(is_webp) or all(target.takes(job.inputs) for target in request.targets):
            return request
        inputs = tuple(
            [
                await self._converter.convert_input(image, memory) if is_converted else image
                for image, is_converted in zip(job.inputs, is_webp, strict=True)
            ]
        )
        targets = tuple(target for target in request.targets if target.takes(inputs))
        if not targets:
            text = (
                "Invalid file 'image': as PNG, which the model needs, it is too large. Send a smaller one, or a JPEG."
            )
            raise GatewayError(ErrorCode.INVALID_VALUE, text, param="image")
        return ConvertedRequest(replace(job, inputs=inputs), request.model, targets)

    async def _convert(self, result: ImageResult, job: ImageJob, context: RequestContext) -> ImageResult:
        """Returns the images in the job's format, or as the upstream made them if that is impossible."""
        if job.output_format is None:
            return result
        pictures = await self._converter.convert(
            result.pictures, job.output_format, job.output_compression, context.memory
        )
        if pictures is None:
            context.ignored = (*context.ignored, "output_format")
            return result
        return replace(result, pictures=pictures)


def _offers(request: GenerationRequest) -> tuple[Offer, ...]:
    """Returns what each target charges for a request, in one call or in as many as it may take."""
    job, targets = request.job, request.targets
    is_one_call = job.count <= min(target.capability.max_images_per_call for target in targets)
    calls = 1 if is_one_call else job.count
    return tuple(Offer(request.model.prices_at(target), target.planned(job, job.count, calls)) for target in targets)
