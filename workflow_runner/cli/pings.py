"""Telling a monitoring service of a run: that it has begun, and how it has ended.

Two services are known, by the host of the URL: healthchecks.io (also self-hosted, which is the default) and Cronitor.
What a ping does, or fails to do, changes nothing in the run.
"""

from __future__ import annotations

import threading
import time
import uuid
from collections.abc import Iterable
from urllib.parse import SplitResult, urlencode, urlsplit, urlunsplit

import attrs

from workflow_runner._core import log
from workflow_runner.cli.exits import CommandError, Exit

# A ping takes at most so many seconds, looking up the host's name included. That is also how long the end of a run is
# put off in all: the news of its beginning, which is sent while it runs, gets the first part of it.
LONGEST = 5.0
LAST_OF_BEGINNING = 2.0

# healthchecks.io keeps so many bytes of a body, and Cronitor so many characters of a message.
LONGEST_BODY = 100_000
LONGEST_MESSAGE = 2_000


@attrs.frozen(kw_only=True)
class Request:
    """One HTTP request; ``body`` is posted."""

    url: str
    body: bytes | None = None


@attrs.frozen(kw_only=True)
class Pings:
    """Where to tell of a run.

    Attributes:
        service: "healthchecks" or "cronitor".
        url: the check's or the monitor's own URL.
    """

    service: str
    url: SplitResult = attrs.field(repr=False)  # whoever has it can ping

    @classmethod
    def parse(cls, text: str) -> Pings:
        """``--ping``: a URL, with ``healthchecks+`` or ``cronitor+`` before it where the host does not tell.

        Raises:
            CommandError: it is no such URL.
        """
        service, plus, rest = text.partition("+")
        if not plus or service not in ("healthchecks", "cronitor"):
            service, rest = "", text
        try:
            url = urlsplit(rest)
        except ValueError:
            url = urlsplit("")
        if url.scheme not in ("http", "https") or not url.hostname:
            hint = "such as https://hc-ping.com/UUID or https://cronitor.link/p/KEY/MONITOR"
            raise CommandError(Exit.USAGE, f"--ping {text!r} is no URL of healthchecks.io or Cronitor", hint=hint)
        cronitor = any(f".{url.hostname}".endswith(f".{host}") for host in ("cronitor.link", "cronitor.io"))
        return cls(service=service or ("cronitor" if cronitor else "healthchecks"), url=url)

    def begun(self, run_id: str) -> Request:
        """What tells that a run has begun."""
        if self.service == "cronitor":
            return Request(url=self._with("", state="run", series=run_id))
        return Request(url=self._with("/start", rid=_uuid(run_id)))

    def ended(self, run_id: str, code: int, *, seconds: float, message: str, tail: Iterable[str]) -> Request:
        """What tells how a run has ended.

        Args:
            run_id: the run.
            code: the exit code, 0 to 255; all but 0 are failures.
            seconds: how long it ran.
            message: how it ended, in a line.
            tail: the last lines of its log.
        """
        if self.service == "cronitor":
            return Request(
                url=self._with(
                    "",
                    state="complete" if code == 0 else "fail",
                    series=run_id,
                    status_code=str(code),
                    metric=f"duration:{seconds:.3f}",
                    message=message[:LONGEST_MESSAGE],
                )
            )
        body = "\n".join([*tail, message]).encode("utf-8", "replace")[-LONGEST_BODY:]
        return Request(url=self._with("" if code == 0 else f"/{code}", rid=_uuid(run_id)), body=body)

    def _with(self, path: str, **query: str) -> str:
        given = self.url
        words = "&".join(part for part in (given.query, urlencode(query)) if part)
        return urlunsplit((given.scheme, given.netloc, given.path.rstrip("/") + path, words, ""))


def _uuid(run_id: str) -> str:
    """A run's id in the shape of a UUID: its own digits, or for somebody's own id one that is always the same."""
    try:
        return str(uuid.UUID(hex=run_id))
    except ValueError:
        return str(uuid.uuid5(uuid.NAMESPACE_URL, run_id))


class Sending:
    """A request under way, in a thread of its own: looking up a host's name, for one, knows no deadline.

    Args:
        request: what to ask.
        service: names it in the warning, which does not show the URL: who has it can ping.
        longest: seconds after which it is given up, whatever it hangs in.
    """

    def __init__(self, request: Request, *, service: str, longest: float = LONGEST) -> None:
        self._service = service
        self._sent = time.monotonic()
        self._until = self._sent + longest
        self._failures: list[str] = []
        self._thread = threading.Thread(
            target=lambda: self._failures.append(_failure(request, longest)), name="ping", daemon=True
        )
        self._thread.start()

    def wait(self, longest: float = LONGEST) -> bool:
        """Wait for the answer, until its time is over; a failure is a warning in the log.

        Args:
            longest: seconds, if it has more left.

        Returns:
            Whether it was a success.
        """
        now = time.monotonic()
        self._thread.join(max(0.0, min(self._until - now, longest)))
        failure = self._failures[0] if self._failures else f"no answer after {time.monotonic() - self._sent:.1f} s"
        if failure:
            log.warning("ping.failed", service=self._service, error=failure)
        return not failure


def _failure(request: Request, longest: float) -> str:
    """What went wrong with a request; empty if nothing did."""
    from urllib.error import HTTPError, URLError
    from urllib.request import Request as UrlRequest
    from urllib.request import urlopen

    try:
        prepared = UrlRequest(request.url, data=request.body, headers={"User-Agent": "workflow-runner"})
        with urlopen(prepared, timeout=longest) as answer:
            answer.read(1)
        return ""
    except HTTPError as error:
        error.close()
        return f"HTTP {error.code}"
    except URLError as error:
        return str(error.reason)
    except Exception as error:
        return f"{type(error).__name__}: {error}"
