"""What a file of each schema looks like that was ever released: ``0001.sql`` and so on, as SQL with some rows.

A new migration needs a new fixture: ``python -m store.schemas`` in ``tests`` writes it. The old ones never change.
"""

from __future__ import annotations

import re
import sqlite3
from pathlib import Path
from typing import Any

from workflow_runner.store import schema

HERE = Path(__file__).parent


def fixture(number: int) -> Path:
    """Where the fixture of a schema is."""
    return HERE / f"{number:04}.sql"


def make_from(number: int, path: Path) -> None:
    """A file of the schema ``number``."""
    connection = sqlite3.connect(path)
    connection.executescript(fixture(number).read_text())
    connection.close()


def shape_of(path: Path) -> dict[str, Any]:
    """All that a schema is: its objects as they were written, and what SQLite understands by them."""
    connection = sqlite3.connect(path)
    shape: dict[str, Any] = {
        pragma: connection.execute(f"PRAGMA {pragma}").fetchone() for pragma in ("application_id", "user_version")
    }
    objects = connection.execute("SELECT type, name, tbl_name, sql FROM sqlite_master ORDER BY type, name").fetchall()
    for kind, name, table, sql in objects:
        shape[f"{kind} {name}"] = table, re.sub(r"\s+", " ", sql or "")
    for kind, name, _, _ in objects:
        if kind == "table":
            for pragma in ("table_xinfo", "index_list", "foreign_key_list"):
                found = connection.execute(f"PRAGMA {pragma}({name})").fetchall()
                # the order in which indices were made is no part of a schema
                shape[f"{pragma} {name}"] = sorted((row[1:] for row in found), key=repr)
    connection.close()
    return shape


def dump(path: Path) -> str:
    """A file as SQL."""
    connection = sqlite3.connect(path)
    lines = [
        f"PRAGMA {pragma} = {connection.execute(f'PRAGMA {pragma}').fetchone()[0]};"
        for pragma in ("application_id", "user_version")
    ]
    lines += connection.iterdump()
    connection.close()
    return "\n".join(lines) + "\n"


def newest() -> int:
    return schema.migrations()[-1][0]
