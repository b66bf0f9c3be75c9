"""Refusals come at once while they are few, and at a fixed rate in a flood."""

import asyncio

from eyespot.web.gate.pace import Pace


def delays(arrivals: list[float]) -> list[float]:
    """How long each refusal waits that comes at one of these times."""
    now, waited = 0.0, 0.0

    async def sleep(seconds: float) -> None:
        nonlocal waited
        waited = seconds

    pace = Pace(lambda: now, sleep)
    found = []
    for arrival in arrivals:
        now, waited = 1000 + arrival, 0.0
        asyncio.run(pace.turn())
        found.append(waited)
    return found


def test_a_few_are_refused_at_once() -> None:
    assert set(delays([0.0] * 50)) == {0}
    assert set(delays([number / 50 for number in range(1000)])) == {0}


def test_a_flood_is_refused_at_a_fixed_rate_and_nobody_waits_longer_than_four_seconds() -> None:
    waited = delays([0.0] * 400)
    assert waited[:50] == [0] * 50
    assert waited == sorted(waited)
    assert round(waited[99], 3) == 1  # 50 a second
    assert max(waited) == 4


def test_after_a_flood_the_burst_comes_back() -> None:
    waited = delays([0.0] * 400 + [10.0] * 50)
    assert set(waited[400:]) == {0}
