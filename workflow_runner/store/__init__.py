"""Runs on disk: `open_store` opens a store by its URL."""

from __future__ import annotations

TYPE_CHECKING = False  # who only notes an event here has no time for typing
if TYPE_CHECKING:
    from workflow_runner.store.base import Store


def open_store(url: str) -> Store:
    """Open a store.

    Args:
        url: ``sqlite:///relative.db``, ``sqlite:////absolute.db`` (``?durability=process`` for less than a sync for
            each step, ``?network=allow`` for a network file system that one machine uses), or ``memory:``. The path is
            taken as it stands, without any escapes, up to the ``?``.

    Returns:
        The store; close it when you are done.

    Raises:
        StoreError: the URL is of no known kind, or the store cannot be opened.
    """
    from urllib.parse import parse_qsl

    from workflow_runner.errors import StoreError

    path = sqlite_path(url)
    if path is not None:
        options = dict(parse_qsl(url.partition("?")[2], keep_blank_values=True))
        unknown = ", ".join(sorted(set(options) - {"durability", "network"}))
        if unknown:
            raise StoreError(f"store {url!r}: unknown option {unknown}; there are durability and network")
        from workflow_runner.store.sqlite import SQLiteStore

        return SQLiteStore(path, **options)
    if url == "memory:":
        from workflow_runner.store.memory import MemoryStore

        return MemoryStore()
    raise StoreError(f"no store has the URL {url!r}: use sqlite:///file.db or memory:")


def sqlite_path(url: str) -> str | None:
    """The file that a URL names; None if it names another kind of store."""
    kind, _, path = url.partition("?")[0].partition(":///")
    return path if kind == "sqlite" and path and path != ":memory:" else None
