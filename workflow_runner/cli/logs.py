"""Logs to stderr: for people on a terminal, key=value elsewhere, or JSON. The one place that configures logging.

Every record is a record of the standard library; structlog, if the user's code has imported it, hands its events over
to that. It takes a tenth of a second to import, so we do it for the sake of the colours on a terminal only.
"""

from __future__ import annotations

import datetime as dt
import json
import logging
import os
import sys
from collections import deque
from collections.abc import Callable, Mapping, MutableMapping
from enum import StrEnum
from importlib.machinery import ModuleSpec
from importlib.util import find_spec
from types import ModuleType
from typing import Any

from workflow_runner._core import log, secrets

Event = dict[str, Any]

# So many lines of the end of a run's log are kept for those who are told of its failure.
TAIL = 50

# Where it came from, in this order; on a terminal there is one run, and its id stands at the end of the output.
_ORIGIN = ("flow", "step", "run_id", "trace_id")
_FOR_MACHINES = ("run_id", "trace_id")


class LogFormat(StrEnum):
    """How log lines look."""

    CONSOLE = "console"
    LOGFMT = "logfmt"
    JSON = "json"


class LogLevel(StrEnum):
    """What is logged: this and what is worse."""

    DEBUG = "debug"
    INFO = "info"
    WARNING = "warning"
    ERROR = "error"


def configure(format: LogFormat | None = None, level: LogLevel | None = None, *, silent: bool = False) -> deque[str]:
    """Send everything that is logged, through the standard library or through structlog, to stderr.

    Args:
        format: default: for people on a terminal, logfmt elsewhere.
        level: default: from INFO on, without what the library tells of runs and steps that go as planned.
        silent: print nothing, for ``--quiet``.

    Returns:
        The last `TAIL` lines, as they are logged, for people.
    """
    terminal = sys.stderr.isatty()
    if format is None:
        format = LogFormat.CONSOLE if terminal else LogFormat.LOGFMT
    number = logging.getLevelNamesMapping()[(level or LogLevel.INFO).upper()]
    tail: deque[str] = deque(maxlen=TAIL)
    keeps = _Keeps(tail)
    keeps.setFormatter(_Formatter(_brief))
    handlers: list[logging.Handler] = [keeps]
    if not silent:
        shows = _Shows()
        shows.setFormatter(_Formatter(_RENDERERS[format]()))
        if level is None:
            shows.addFilter(_unplanned)
        handlers.append(shows)
    for handler in handlers:
        handler.setLevel(number)
    # from INFO on, whatever is shown: the store keeps it
    logging.basicConfig(level=min(number, logging.INFO), handlers=handlers, force=True)
    if "structlog" in sys.modules:
        _configure_structlog(sys.modules["structlog"])
    elif not any(isinstance(finder, _ConfiguresStructlog) for finder in sys.meta_path):
        sys.meta_path.insert(0, _ConfiguresStructlog())
    return tail


class _ConfiguresStructlog:
    """Finds structlog as everybody does, and has it configured when it is imported."""

    def find_spec(self, name: str, path: Any, target: Any = None) -> ModuleSpec | None:
        if name != "structlog":
            return None
        sys.meta_path.remove(self)
        spec = find_spec(name)
        if spec is not None and spec.loader is not None:
            execute = spec.loader.exec_module

            def exec_module(module: ModuleType) -> None:
                execute(module)
                _configure_structlog(module)

            spec.loader.exec_module = exec_module  # type: ignore[method-assign]
        return spec


def _configure_structlog(structlog: Any) -> None:
    """Have structlog's loggers hand their events over to the standard library's."""
    structlog.configure(
        processors=[
            structlog.contextvars.merge_contextvars,
            structlog.processors.StackInfoRenderer(),
            _to_stdlib,
        ],
        wrapper_class=structlog.make_filtering_bound_logger(logging.root.level),
        logger_factory=structlog.stdlib.LoggerFactory(),
    )


def _to_stdlib(_logger: Any, _method: str, event: MutableMapping[str, Any]) -> tuple[tuple[Any, ...], dict[str, Any]]:
    text, keywords = log.to_stdlib(str(event.pop("event", "")), dict(event))
    return (text,), keywords


class _Shows(logging.Handler):
    """Writes to what is stderr at the moment: while bars are drawn there, that puts lines above them."""

    def emit(self, record: logging.LogRecord) -> None:
        try:
            sys.stderr.write(self.format(record) + "\n")
            sys.stderr.flush()
        except Exception:
            self.handleError(record)


class _Keeps(logging.Handler):
    def __init__(self, tail: deque[str]) -> None:
        super().__init__()
        self._tail = tail

    def emit(self, record: logging.LogRecord) -> None:
        try:
            self._tail.extend(self.format(record).splitlines())
        except Exception:
            self.handleError(record)


def _unplanned(record: logging.LogRecord) -> bool:
    return record.name != log.LOGGER.name or record.levelno > logging.INFO


class _Formatter(logging.Formatter):
    def __init__(self, render: Callable[[logging.LogRecord, Event], str]) -> None:
        super().__init__()
        self._render = render

    def format(self, record: logging.LogRecord) -> str:
        fields = log.fields_of(record)
        if fields.get("path") == fields.get("step"):  # a step of the workflow itself: that is said by its name
            fields.pop("path", None)
        return self._render(record, fields)


def _logfmt(record: logging.LogRecord, fields: Event) -> str:
    return secrets.mask(" ".join(f"{_key(key)}={_value(value)}" for key, value in _whole(record, fields).items()))


def _json(record: logging.LogRecord, fields: Event) -> str:
    return json.dumps(_whole(record, fields), default=lambda value: secrets.mask(str(value)))


def _brief(record: logging.LogRecord, fields: Event) -> str:
    """For people who read of one run: no ids and no colours, and what has many lines below the rest."""
    below = [str(fields.pop(key)) for key in ("stack", "exception") if key in fields]
    event = fields.pop("event")
    words = [f"{_key(key)}={_value(value)}" for key, value in fields.items() if key not in _FOR_MACHINES]
    line = " ".join([_time(record), f"{record.levelname.lower():7}", event, *words])
    return secrets.mask("\n".join([line, *below]))


def _time(record: logging.LogRecord) -> str:
    return dt.datetime.fromtimestamp(record.created).strftime("%H:%M:%S")


def _whole(record: logging.LogRecord, fields: Event) -> Event:
    """The fields between what every line begins with and where it came from."""
    at = dt.datetime.fromtimestamp(record.created, dt.UTC)
    line = {"timestamp": at.isoformat(timespec="milliseconds"), "level": record.levelname.lower()}
    origin = {key: fields[key] for key in _ORIGIN if key in fields}
    return {**line, **{key: value for key, value in fields.items() if key not in _ORIGIN}, **origin}


def _key(key: str) -> str:
    return "".join("_" if c.isspace() or c in '="' else c for c in key)


def _value(value: object) -> str:
    if isinstance(value, bool) or value is None:
        return {True: "true", False: "false", None: ""}[value]
    text = str(value)
    if any(c in ' ="\\' or not c.isprintable() for c in text):
        return json.dumps(text, ensure_ascii=False)
    return text


def _for_people() -> Callable[[logging.LogRecord, Event], str]:
    renderer: Any = None

    def render(record: logging.LogRecord, fields: Event) -> str:
        nonlocal renderer
        if renderer is None:
            from structlog.dev import ConsoleRenderer

            renderer = ConsoleRenderer(colors=sys.stderr.isatty() and "NO_COLOR" not in os.environ)
        event = {"timestamp": _time(record), "level": record.levelname.lower(), **fields}
        for key in _FOR_MACHINES:
            event.pop(key, None)
        return secrets.mask(renderer(None, record.levelname.lower(), event))

    return render


_RENDERERS: Mapping[LogFormat, Callable[[], Callable[[logging.LogRecord, Event], str]]] = {
    LogFormat.CONSOLE: _for_people,
    LogFormat.LOGFMT: lambda: _logfmt,
    LogFormat.JSON: lambda: _json,
}
