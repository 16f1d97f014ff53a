"""Who may do what: reading is free on this machine, acting needs a token or the host's own authentication.

A request that changes something has to come from one of our own pages: the browser says so itself (``Sec-Fetch-Site``),
or its ``Origin`` is where it was sent to; a program that sends the token is no browser, and needs neither.
"""

from __future__ import annotations

import hashlib
import hmac
import ipaddress
from collections.abc import Callable
from urllib.parse import urlsplit

import flask

_COOKIE = "workflow_runner_token"
_SAFE = ("GET", "HEAD", "OPTIONS")


class Guard:
    """Decides about every request.

    Args:
        authorize: whether whoever makes the current request may act; None: nobody.
        hosts: names under which the page may be asked for besides those of this machine.
        any_host: whether the name does not matter, because a host application sees to that.
    """

    def __init__(
        self, *, authorize: Callable[[], bool] | None = None, hosts: tuple[str, ...] = (), any_host: bool = False
    ) -> None:
        self._authorize = authorize
        self._hosts = {host.lower() for host in hosts}
        self._any_host = any_host

    def check(self) -> flask.Response | None:
        """Refuse the current request, or let it be answered."""
        request = flask.request
        if not self._any_host and not self._is_ours(request.host):
            flask.abort(421, f"this page is not served as {request.host}; name the host with --host-name")
        if request.method not in _SAFE and not self._is_program():
            if not _same_origin():
                flask.abort(403, "this request does not come from a page of this site")
            if not self.may_act() and not (request.endpoint or "").endswith(".log_in"):
                flask.abort(403, "not allowed")
        return None

    def may_act(self) -> bool:
        """Whether whoever makes the current request may change something."""
        return self._authorize is not None and self._authorize()

    def missing(self) -> bool:
        """Whether a token would let whoever makes the current request act."""
        return False

    def _is_program(self) -> bool:
        return False

    def _is_ours(self, host: str) -> bool:
        name = (urlsplit(f"//{host}").hostname or "").lower()
        if name in self._hosts or name == "localhost" or "*" in self._hosts:
            return True
        try:
            return ipaddress.ip_address(name).is_loopback
        except ValueError:
            return False


class Token(Guard):
    """Lets those act who know a token.

    Args:
        token: the token.
        hosts: as `Guard`.
    """

    def __init__(self, token: str | None, hosts: tuple[str, ...] = ()) -> None:
        super().__init__(hosts=hosts)
        self._token = token or ""

    def may_act(self) -> bool:
        cookie = flask.request.cookies.get(_COOKIE, "")
        return self._is_program() or hmac.compare_digest(cookie.encode(), self._kept().encode())

    def missing(self) -> bool:
        return not self.may_act()

    def log_in(self, token: str) -> flask.Response | None:
        """An answer that lets the browser act, if this is the token."""
        if not hmac.compare_digest(token.encode(), self._token.encode()):
            return None
        answer = flask.Response(status=303)
        answer.set_cookie(_COOKIE, self._kept(), httponly=True, samesite="Strict", secure=flask.request.is_secure)
        return answer

    def _is_program(self) -> bool:
        given = flask.request.headers.get("Authorization", "")
        return hmac.compare_digest(given.encode(), f"Bearer {self._token}".encode())

    def _kept(self) -> str:
        # not the token itself, which programs use as well
        return hashlib.sha256(f"workflow_runner cookie {self._token}".encode()).hexdigest()


def _same_origin() -> bool:
    request = flask.request
    site = request.headers.get("Sec-Fetch-Site")
    if site is not None:
        return site == "same-origin"
    origin = request.headers.get("Origin") or request.headers.get("Referer")
    return origin is not None and urlsplit(origin).netloc == request.host
