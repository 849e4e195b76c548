"""The runner: contenders run in turns, so that a disturbance of the machine affects all of them alike."""

from __future__ import annotations

import asyncio
import gc
from collections.abc import Awaitable, Callable, Mapping, Sequence
from contextlib import suppress
from statistics import median, quantiles
from time import perf_counter
from typing import NamedTuple

Work = Callable[[], Awaitable[object]]

_TICK = 0.001


class Contender(NamedTuple):
    """One way to do a row's work.

    Attributes:
        run: the work that is timed.
        before: preparation that is not timed, e.g. emptying the table.
        scale: the factor for the time if ``run`` does only a sample of the work.
        calls: how often ``run`` is called for one sample; the sample is the median of the calls.
    """

    run: Work
    before: Work | None = None
    scale: float = 1.0
    calls: int = 1


class Ratio(NamedTuple):
    """The median of the rounds' ratios, and their quartiles."""

    middle: float
    low: float
    high: float


async def take_turns(contenders: Mapping[str, Contender], rounds: int) -> dict[str, list[float]]:
    """Run every contender once to warm up, then ``rounds`` times in turns; return each one's seconds by round.

    The garbage collector runs before each sample, after the previous result is freed, and is not changed during the sample.
    """
    samples: dict[str, list[float]] = {name: [] for name in contenders}
    for turn in range(-1, rounds):
        for name, contender in contenders.items():
            seconds = await _sample(contender)
            if turn >= 0:
                samples[name].append(seconds * contender.scale)
    return samples


async def _sample(contender: Contender) -> float:
    if contender.before is not None:
        await contender.before()
    gc.collect()
    return median([await _time(contender.run) for _ in range(contender.calls)])


async def _time(run: Work) -> float:
    started = perf_counter()
    result = await run()
    seconds = perf_counter() - started
    # freed after the clock has stopped, for all contenders
    del result
    return seconds


async def longest_wait(run: Work) -> float:
    """Return the longest wait, in seconds, of a callback due every millisecond while ``run`` ran."""
    longest = 0.0

    async def tick() -> None:
        nonlocal longest
        while True:
            due = perf_counter() + _TICK
            await asyncio.sleep(_TICK)
            longest = max(longest, perf_counter() - due)

    gc.collect()
    ticker = asyncio.create_task(tick())
    await asyncio.sleep(5 * _TICK)
    longest = 0.0
    result = await run()
    # a wait that ends with the work counts, too
    await asyncio.sleep(2 * _TICK)
    ticker.cancel()
    with suppress(asyncio.CancelledError):
        await ticker
    del result
    return longest


def ratio(ours: Sequence[float], reference: Sequence[float]) -> Ratio:
    """Return the ratio of two contenders' times, computed by round."""
    ratios = [mine / theirs for mine, theirs in zip(ours, reference, strict=True)]
    if len(ratios) == 1:
        return Ratio(ratios[0], ratios[0], ratios[0])
    low, _, high = quantiles(ratios, n=4, method="inclusive")
    return Ratio(median(ratios), low, high)
