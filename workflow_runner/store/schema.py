"""The schema, as numbered migrations; the file's ``user_version`` is the number of the last one."""

from __future__ import annotations

import sqlite3
from importlib import resources

from workflow_runner.errors import StoreError

# "wfrn": marks a SQLite file as ours, so that somebody else's is never touched.
APPLICATION_ID = 0x7766726E


def migrations() -> list[tuple[int, str]]:
    """Number and SQL of every migration, in order."""
    files = resources.files("workflow_runner.store").joinpath("sql", "sqlite").iterdir()
    return sorted((int(file.name[:4]), file.read_text()) for file in files if file.name.endswith(".sql"))


def version(connection: sqlite3.Connection) -> int:
    """The number of the file's last migration."""
    number: int = connection.execute("PRAGMA user_version").fetchone()[0]
    return number


def check(connection: sqlite3.Connection, name: str) -> int:
    """The file's version, if it is one that this library may use.

    Raises:
        StoreError: it is somebody else's, or of a newer version of this library.
    """
    number, newest = version(connection), migrations()[-1][0]
    owner = connection.execute("PRAGMA application_id").fetchone()[0]
    tables = connection.execute("SELECT count(*) FROM sqlite_master").fetchone()[0]
    if owner != APPLICATION_ID and (owner or tables):
        raise StoreError(f"{name} is a SQLite database, but no store of workflow_runner")
    if number > newest:
        raise StoreError(f"{name} has schema {number}; this version of workflow_runner knows schemas up to {newest}")
    return number


def migrate(connection: sqlite3.Connection, name: str) -> None:
    """Bring the file up to date, in one transaction; two processes that come together do it once.

    Raises:
        StoreError: as `check`.
    """
    if check(connection, name) == migrations()[-1][0]:
        return
    connection.execute("BEGIN IMMEDIATE")
    try:
        number = check(connection, name)  # somebody else may have done it meanwhile
        for target, sql in migrations():
            if target > number:
                for statement in statements(sql):
                    connection.execute(statement)
                connection.execute(f"PRAGMA user_version = {target}")
        connection.execute(f"PRAGMA application_id = {APPLICATION_ID}")
        connection.execute("COMMIT")
    except BaseException:
        if connection.in_transaction:
            connection.execute("ROLLBACK")
        raise


def statements(sql: str) -> list[str]:
    """The statements of a script, one by one: ``executescript`` would commit."""
    found, statement = [], ""
    for line in sql.splitlines(keepends=True):
        statement += line
        if sqlite3.complete_statement(statement):
            found.append(statement)
            statement = ""
    return found
