"""Runs on disk: `open_store` opens a store by its URL."""

from __future__ import annotations

from urllib.parse import parse_qsl

from workflow_runner.errors import StoreError
from workflow_runner.store.base import Store


def open_store(url: str) -> Store:
    """Open a store.

    Args:
        url: ``sqlite:///relative.db``, ``sqlite:////absolute.db`` (``?durability=process`` for less than a sync for
            each step), or ``memory:``. The path is taken as it stands, without any escapes, up to the ``?``.

    Returns:
        The store; close it when you are done.

    Raises:
        StoreError: the URL is of no known kind, or the store cannot be opened.
    """
    location, _, query = url.partition("?")
    kind, _, path = location.partition(":///")
    if kind == "sqlite" and path and path != ":memory:":
        options = dict(parse_qsl(query, keep_blank_values=True))
        unknown = set(options) - {"durability"}
        if unknown:
            raise StoreError(f"store {url!r}: unknown option {', '.join(sorted(unknown))}; there is durability")
        from workflow_runner.store.sqlite import SQLiteStore

        return SQLiteStore(path, durability=options.get("durability", "power"))
    if url == "memory:":
        from workflow_runner.store.memory import MemoryStore

        return MemoryStore()
    raise StoreError(f"no store has the URL {url!r}: use sqlite:///file.db or memory:")
