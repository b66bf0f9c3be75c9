"""Charging requests to the client's rate limit."""

from typing import Protocol

from eyespot.errors import TooManyImages


class RateLimiter(Protocol):
    """Counts the requests of each client, `key:NAME` or `address:ADDRESS`."""

    @property
    def largest_cost(self) -> int:
        """The most requests that can ever pass at once."""

    async def charge(self, client: str, cost: int = 1, *, charged: int = 0) -> None:
        """Count `cost` requests, of which `charged` were counted before; raises RateLimited if they are too many."""


async def charge_batch(limiter: RateLimiter, client: str, images: int) -> None:
    """Count each image of a batch as a request, but for the first: the request itself was charged on admission.

    Raises:
        RateLimited: the images exceed the limit for now.
        TooManyImages: they exceed it at any time.
    """
    if images > limiter.largest_cost:
        raise TooManyImages(
            f"Each image counts as a request, and the rate limit allows {limiter.largest_cost} at once: "
            "send smaller batches.",
            limit=limiter.largest_cost,
            value=images,
        )
    if images > 1:
        await limiter.charge(client, images, charged=1)
