"""Rate limits, counted in this process or in a Redis that several servers share.

The generic cell rate algorithm (GCRA, ITU-T I.371): a client has one number for each rate, the theoretical arrival
time, which each request moves on by period / amount. It may lie a whole period ahead of now, so `amount` requests may
come at once. Here it is counted in units of period / amount: a request adds exactly 1, and no rounding errors add up.
"""

import contextlib
import math
import re
import time
from collections.abc import Callable
from dataclasses import dataclass
from ipaddress import IPv6Address, IPv6Network
from operator import itemgetter

from cachetools import TTLCache

from eyespot.errors import InvalidSetting, RateLimited
from eyespot.memory.breaker import TIMEOUT_SECONDS, CircuitBreaker, StoreUnavailable, open_redis
from eyespot.values import shown

_ROUNDING_SECONDS = 1e-6
_DAY = 24 * 3600
_UNITS = {"second": 1, "minute": 60, "hour": 3600, "day": _DAY, "month": 30 * _DAY, "year": 360 * _DAY}
_RATE = re.compile(rf"\s*(\d{{1,15}})\s*(?:/|per)\s*(\d{{1,9}})?\s*({'|'.join(_UNITS)})s?\s*", re.ASCII | re.IGNORECASE)

# The counterpart of RateLimiter._charge_here. Only Redis' own clock counts; where it was set back, no arrival time lies
# more than a period ahead. Returns what was pending for each rate before.
_CHARGE = """
local time, cost, rounding, fits = redis.call('TIME'), tonumber(ARGV[1]), tonumber(ARGV[2]), true
local pending, arrivals, intervals = {}, {}, {}
for i, key in ipairs(KEYS) do
  local amount, seconds = tonumber(ARGV[2 * i + 1]), tonumber(ARGV[2 * i + 2])
  intervals[i] = seconds / amount
  local now = (time[1] + time[2] / 1e6) / intervals[i]
  local arrival = math.min(math.max(tonumber(redis.call('GET', key) or 0), now), now + amount)
  pending[i], arrivals[i] = arrival - now, arrival + cost
  fits = fits and (pending[i] + cost - amount) * intervals[i] <= rounding
end
for i, key in ipairs(KEYS) do
  if fits then
    local milliseconds = math.ceil((pending[i] + cost) * intervals[i] * 1000)
    redis.call('SET', key, string.format('%.17g', arrivals[i]), 'PX', milliseconds)
  end
  pending[i] = string.format('%.17g', pending[i])
end
return pending
"""


@dataclass(frozen=True, slots=True)
class Rate:
    """`amount` requests per `multiples` units."""

    amount: int
    multiples: int
    unit: str

    @classmethod
    def parse(cls, text: str) -> "Rate":
        """A rate such as `100/minute` or `5 per 2 hours`; raises `InvalidSetting` if the text is not one."""
        found = _RATE.fullmatch(text)
        if not found or int(found[1]) * int(found[2] or 1) == 0:
            expected = "a rate such as 100/minute or 10/second;1000/hour"
            raise InvalidSetting(f"EYESPOT_RATE_LIMIT: {shown(text)} is not {expected}")
        return cls(int(found[1]), int(found[2] or 1), found[3].lower())

    @property
    def seconds(self) -> int:
        return self.multiples * _UNITS[self.unit]

    @property
    def interval(self) -> float:
        """Seconds in which the limit allows one request."""
        return self.seconds / self.amount

    def __str__(self) -> str:
        period = self.unit if self.multiples == 1 else f"{self.multiples} {self.unit}s"
        return f"{self.amount} request{'s' if self.amount > 1 else ''} per {period}"


class RateLimiter:
    """Counts each client's requests and refuses those above any rate; in this process while the Redis is away."""

    def __init__(
        self,
        rates: list[Rate],
        url: str = "memory://",
        *,
        timeout: float = TIMEOUT_SECONDS,
        max_clients: int = 100_000,  # 40 MB
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        """Counts in the Redis at `url`; for any other `url` here, the `max_clients` that were active last."""
        self.largest_cost = min(rate.amount for rate in rates)
        self._rates = rates
        self._clock = clock
        longest = max(rate.seconds for rate in rates)
        self._arrivals: TTLCache[str, list[float]] = TTLCache(max_clients, longest, clock)
        self._redis = open_redis(url) if url.startswith("redis") else None
        self._script = self._redis.register_script(_CHARGE) if self._redis else None
        self._breaker = CircuitBreaker("rate_limit_storage", timeout=timeout, clock=clock)

    @classmethod
    def open(cls, rate: str, url: str) -> "RateLimiter":
        """A limiter with the rates of EYESPOT_RATE_LIMIT, separated by `;`, `,` or `|`. Raises `InvalidSetting`."""
        return cls([Rate.parse(part) for part in re.split("[,;|]", rate)], url)

    async def charge(self, client: str, cost: int = 1, *, charged: int = 0) -> None:
        """Count `cost` requests of a client, `key:NAME` or `address:ADDRESS`; raises `RateLimited`, counting none.

        `charged` of the cost were counted before. A retry will be charged the whole cost, so `retry_after` is the whole
        seconds until all of it fits. A cost above `largest_cost` never does.
        """
        pending = await self._charge(_bucket(client), cost - charged)
        if self._fits(pending, cost - charged):
            return
        wait, rate = max(zip(self._waits(pending, cost), self._rates, strict=True), key=itemgetter(0))
        seconds = math.ceil(wait - _ROUNDING_SECONDS)
        raise RateLimited(f"The limit is {rate}; try again in {seconds} s.", limit=rate.amount, retry_after=seconds)

    def _fits(self, pending: list[float], cost: int) -> bool:
        return max(self._waits(pending, cost)) <= _ROUNDING_SECONDS

    def _waits(self, pending: list[float], cost: int) -> list[float]:
        """Seconds until each rate allows `cost` more requests; negative if it does now."""
        return [(one + cost - rate.amount) * rate.interval for one, rate in zip(pending, self._rates, strict=True)]

    async def _charge(self, client: str, cost: int) -> list[float]:
        """Charge the client if the cost fits; the requests that were pending for each rate before."""
        if script := self._script:
            keys = [f"eyespot:limit:{client}:{rate.amount}/{rate.seconds}" for rate in self._rates]
            numbers = [number for rate in self._rates for number in (rate.amount, rate.seconds)]
            with contextlib.suppress(StoreUnavailable):
                pending = await self._breaker.call(lambda: script(keys, [cost, _ROUNDING_SECONDS, *numbers]))
                return [float(one) for one in pending]
        return self._charge_here(client, cost)

    def _charge_here(self, client: str, cost: int) -> list[float]:
        now = [self._clock() / rate.interval for rate in self._rates]
        arrivals = [max(pair) for pair in zip(now, self._arrivals.get(client, now), strict=True)]
        pending = [arrival - moment for arrival, moment in zip(arrivals, now, strict=True)]
        if self._fits(pending, cost):
            self._arrivals[client] = [arrival + cost for arrival in arrivals]
        return pending

    async def close(self) -> None:
        await self._breaker.close()
        if self._redis:
            await self._redis.aclose()


def _bucket(client: str) -> str:
    """What a client is counted as: an IPv6 address as its /64, since a single customer gets at least one of them."""
    kind, _, text = client.partition(":")
    with contextlib.suppress(ValueError):
        address = IPv6Address(text)
        if kind == "address" and not address.ipv4_mapped:
            return f"address:{IPv6Network((int(address), 64), strict=False)}"
    return client
