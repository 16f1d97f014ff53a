"""Retry: the first attempt is free, the rest is tenacity's, sleeping on the signal."""

from __future__ import annotations

import importlib.util
from collections.abc import Callable, Iterable
from typing import TYPE_CHECKING, Any, TypeVar

import attrs

from workflow_runner._core import log
from workflow_runner._core.clock import seconds
from workflow_runner.errors import Aborted, DefinitionError, ExecutionTimeout, StepFailed

if TYPE_CHECKING:
    from workflow_runner._core.signal import Signal

T = TypeVar("T")


def _positive(what: str, zero: bool) -> Callable[[Any, Any, Any], None]:
    def check(_instance: Any, _attribute: Any, value: Any) -> None:
        try:
            seconds(value, what=f"Retry.{what}", zero=zero)
        except ValueError as error:
            raise DefinitionError(str(error)) from None

    return check


def _types(on: type[BaseException] | Iterable[type[BaseException]]) -> tuple[type[BaseException], ...]:
    return (on,) if isinstance(on, type) else tuple(on)


def _exceptions(_instance: Any, _attribute: Any, value: tuple[Any, ...]) -> None:
    if not all(isinstance(item, type) and issubclass(item, BaseException) for item in value):
        raise DefinitionError(f"Retry.on takes exception types, got {value!r}")


@attrs.frozen
class Retry:
    """How often and when a failed attempt is made again. Needs tenacity (``pip install 'workflow-runner[retry]'``).

    The wait before attempt ``n + 1`` is ``initial * factor ** (n - 1)`` seconds, at most ``max_delay``; with ``jitter``
    it is drawn evenly between 0 and that ("full jitter", M. Brooker, Exponential Backoff And Jitter, AWS 2015). A
    cancelled execution stops waiting at once and makes no further attempt.

    Args:
        attempts: how many in all, the first included.
        initial: seconds.
        factor: how much longer each wait is.
        max_delay: seconds.
        jitter: spread the waits, so that many clients do not come back together.
        on: exception types that are worth another attempt.
        categories: ``ErrorCategory`` names; a step that *returns* ``StepResult.fail`` is retried by its category, and
            a timed-out attempt counts as ``TIMEOUT``.

    Raises:
        DefinitionError: a value makes no sense, or tenacity is not installed.
    """

    attempts: int = attrs.field(default=3)
    initial: float = attrs.field(default=1.0, validator=_positive("initial", zero=True))
    factor: float = attrs.field(default=2.0, validator=_positive("factor", zero=False))
    max_delay: float = attrs.field(default=60.0, validator=_positive("max_delay", zero=True))
    jitter: bool = True
    on: tuple[type[BaseException], ...] = attrs.field(default=(Exception,), converter=_types, validator=_exceptions)
    categories: tuple[str, ...] = attrs.field(default=("TRANSIENT", "TIMEOUT", "DEPENDENCY"), converter=tuple)

    @attempts.validator
    def _check_attempts(self, _attribute: Any, value: Any) -> None:
        if not isinstance(value, int) or isinstance(value, bool) or value < 1:
            raise DefinitionError(f"Retry.attempts must be a whole number from 1, got {value!r}")
        # found missing here, and not at three in the morning when the first attempt fails
        if value > 1 and importlib.util.find_spec("tenacity") is None:
            raise DefinitionError("Retry needs tenacity: pip install 'workflow-runner[retry]'")

    def allows(self, error: BaseException) -> bool:
        """Whether ``error`` is worth another attempt."""
        if isinstance(error, StepFailed):
            return str(error.category) in self.categories
        if isinstance(error, ExecutionTimeout) and "TIMEOUT" in self.categories:
            return True
        return isinstance(error, self.on) and not isinstance(error, Aborted)


def retrying(
    attempt: Callable[[int], T],
    retry: Retry | None,
    signal: Callable[[], Signal],
    path: Callable[[], str] = str,
) -> T:
    """Call ``attempt(1)``, and on failure ``attempt(2)`` ... as ``retry`` says.

    Args:
        attempt: gets the number of the attempt.
        retry: None for one attempt.
        signal: gives the signal to sleep on; asked for only after a failure.
        path: gives the place in the run of what is tried, for the log.

    Raises:
        Aborted: the signal was set while waiting for the next attempt.
        BaseException: what the last attempt raised.
    """
    if retry is None:
        return attempt(1)
    try:
        return attempt(1)
    except BaseException as error:
        if retry.attempts == 1 or not retry.allows(error):
            raise
        first = error
    return _again(attempt, retry, signal(), path, first)


def _again(
    attempt: Callable[[int], T], retry: Retry, signal: Signal, path: Callable[[], str], first: BaseException
) -> T:
    import tenacity

    if signal.aborted:
        raise first
    number = 0

    def numbered() -> T:
        nonlocal number
        number += 1
        if number == 1:  # tenacity's first attempt is ours, which has been made
            raise first
        return attempt(number)

    def sleep(delay: float) -> None:
        if signal.wait(delay):
            raise Aborted(signal.reason)

    def tell(state: tenacity.RetryCallState) -> None:
        error = state.outcome.exception() if state.outcome else None
        where = {"path": path()} if path() else {}
        delay = round(state.upcoming_sleep, 3)
        log.warning("attempt.failed", attempt=number, attempts=retry.attempts, delay=delay, error=repr(error), **where)

    wait = tenacity.wait_random_exponential if retry.jitter else tenacity.wait_exponential
    return tenacity.Retrying(
        stop=tenacity.stop_after_attempt(retry.attempts),
        wait=wait(multiplier=retry.initial, exp_base=retry.factor, max=retry.max_delay),
        retry=tenacity.retry_if_exception(lambda error: not signal.aborted and retry.allows(error)),
        sleep=sleep,
        before_sleep=tell,
        reraise=True,
    )(numbered)
