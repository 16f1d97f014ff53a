"""What test_offload runs in other processes, which find it by its import path."""

from __future__ import annotations

import datetime as dt
import os
import pathlib
import threading
from collections.abc import Callable
from decimal import Decimal
from typing import Any

import attrs

from workflow_runner import FlowContext, flow

LONG = 20.0

# For the work that runs in a pool of threads and shares events with the test.
begun, go, told = threading.Event(), threading.Event(), threading.Event()


@attrs.frozen
class Order:
    qty: int
    price: Decimal


class Odd(Exception):
    """No pickle makes it again."""

    def __init__(self, a: int, b: int) -> None:
        super().__init__(f"{a} and {b}")


def add(a: int, b: int) -> tuple[int, int]:
    return a + b, os.getpid()


def fail(kind: str) -> None:
    raise {"value": ValueError("no"), "odd": Odd(1, 2), "exit": SystemExit(3)}[kind]


def die_once(path: str) -> str:
    if pathlib.Path(path).exists():
        return "alive"
    pathlib.Path(path).touch()
    os._exit(1)


def count(path: str) -> None:
    with open(path, "a") as file:
        file.write("x")
    raise ValueError("no")


@flow
def total(ctx: FlowContext, order: Order) -> Any:
    return order.qty * order.price, dt.date(2013, 2, 28), os.getpid()


@flow
def place(ctx: FlowContext, _: Any) -> list[Any]:
    return [ctx.run_id, ctx.idempotency_token, ctx.attempt, ctx.parallel([token, token])]


@flow
def token(ctx: FlowContext, _: Any) -> str:
    return ctx.idempotency_token


@flow
def place_again(ctx: FlowContext, _: Any) -> list[Any]:
    if ctx.attempt == 1:
        raise ValueError("again")
    return [ctx.idempotency_token, ctx.attempt]


@flow
def stuck(ctx: FlowContext, _: Any) -> str:
    begun.set()
    assert go.wait(LONG)
    return "late"


@flow
def listens(ctx: FlowContext, _: Any) -> None:
    if ctx.signal.wait(LONG):
        told.set()


def _another() -> Callable[[], None]:
    def total() -> None: ...

    total.__qualname__ = "total"
    return total


shadow = _another()
"""A function that is not what stands at its import path."""
