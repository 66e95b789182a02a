"""How long endpoints are waited for, and when a failed request is made again: the same for every adapter.

It makes no requests and waits for nothing; which failures may pass is known to who made the request.
"""

from __future__ import annotations

import random
from collections.abc import Sequence

import msgspec

from stepwell.models.base import Delta, Failure
from stepwell.models.failures import bounded


class Timeouts(msgspec.Struct, frozen=True):
    """How long to wait for an endpoint.

    Args:
        connect: Seconds until a connection stands, name lookup and TLS included.
        stall: Seconds without a byte, before the first one and between two; 0 for no limit.
        finish: Seconds that what is left may take once it is known how a request ended: usage and the end of the
            stream after the finish reason, the body of an error. Clients of vendors do not wait for less.
    """

    connect: float = 10.0
    stall: float = 120.0
    finish: float = 5.0


class Retries(msgspec.Struct, frozen=True):
    """How often and when a failed request is made again: exponential back-off with full jitter.

    The wait before retry n is random between 0 and `min(cap, base * 2**(n-1))` seconds ("Exponential Backoff
    And Jitter", AWS Architecture Blog, 2015). A `Retry-After` counts in its place.

    Args:
        attempts: Requests in all, the first included.
        base: Seconds.
        cap: Seconds.
        max_wait: The longest `Retry-After` in seconds that is waited for; a longer one ends the call.
    """

    attempts: int = 4
    base: float = 0.5
    cap: float = 8.0
    max_wait: float = 60.0

    def judge(
        self,
        delta: Delta,
        failure: Failure,
        attempt: int,
        asked: float | None,
        *,
        may_pass: bool,
        secrets: Sequence[str],
    ) -> tuple[Delta, float | None]:
        """Return a failed delta as it is handed out, and the seconds until the next attempt, if there is one.

        Args:
            delta: The last of the reply.
            failure: Why it failed.
            attempt: How many requests were made.
            asked: Seconds that the endpoint asks to wait; None if it does not say.
            may_pass: Whether the same request may work a little later, and nothing of the reply was handed out.
            secrets: What no message may show.
        """
        message, wait = failure.message, None
        if may_pass and attempt < self.attempts:
            if asked is None:
                wait = random.uniform(0.0, min(self.cap, self.base * 2 ** (attempt - 1)))
            elif asked <= self.max_wait:
                # A little later than asked, or all who were told the same come back together.
                wait = asked + random.uniform(0.0, self.base)
            else:
                message = f"{message} It asks to wait {asked:g} s."
        for secret in secrets:
            message = message.replace(secret, "***")
        failure = Failure(failure.kind, bounded(message), failure.status, wait)
        if wait is not None:
            return Delta(failure=failure), wait
        return msgspec.structs.replace(delta, failure=failure), None


TIMEOUTS, RETRIES = Timeouts(), Retries()
"""What counts where nothing else is said."""
