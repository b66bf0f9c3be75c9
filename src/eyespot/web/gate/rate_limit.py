"""Charging a batch to the client's rate limit."""

from eyespot.errors import TooManyImages
from eyespot.memory.rate_limiter import RateLimiter


async def charge_batch(limiter: RateLimiter, client: str, images: int) -> None:
    """Count each image as a request; the first was charged on admission.

    Raises:
        RateLimited: the images exceed the limit for now.
        TooManyImages: they exceed it at any time.
    """
    most = limiter.largest_cost
    if images > most:
        detail = f"Each image counts as a request, and the rate limit allows {most} at once: send smaller batches."
        raise TooManyImages(detail, limit=most, value=images)
    if images > 1:
        await limiter.charge(client, images, charged=1)
