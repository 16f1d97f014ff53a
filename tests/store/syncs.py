"""Counts the syncs that SQLite asks its operating system for, from inside: no tool, no second SQLite.

A virtual file system of SQLite is a table of functions. Here the entries for opening a file and for syncing one are
replaced by functions that count and call the original, in the very library that the ``sqlite3`` module uses.
"""

from __future__ import annotations

import _sqlite3
import ctypes
from typing import Any

_Pointer = ctypes.c_void_p
# sqlite3_io_methods, version 3: an int and 18 functions
_METHODS_SIZE = 8 + 18 * 8
_Open = ctypes.CFUNCTYPE(ctypes.c_int, _Pointer, _Pointer, _Pointer, ctypes.c_int, _Pointer)
_Sync = ctypes.CFUNCTYPE(ctypes.c_int, _Pointer, ctypes.c_int)


class _Vfs(ctypes.Structure):
    _fields_ = [
        ("iVersion", ctypes.c_int),
        ("szOsFile", ctypes.c_int),
        ("mxPathname", ctypes.c_int),
        ("pNext", _Pointer),
        ("zName", ctypes.c_char_p),
        ("pAppData", _Pointer),
        ("xOpen", _Pointer),
    ]


class _File(ctypes.Structure):
    _fields_ = [("pMethods", _Pointer)]


class _Methods(ctypes.Structure):
    _fields_ = [
        ("iVersion", ctypes.c_int),
        ("xClose", _Pointer),
        ("xRead", _Pointer),
        ("xWrite", _Pointer),
        ("xTruncate", _Pointer),
        ("xSync", _Pointer),
    ]


# One entry for each sync.
syncs: list[str] = []
# What SQLite holds pointers to must not be collected.
_kept: list[Any] = []
_copies: dict[int, int] = {}


def install() -> None:
    """Count from now on, in this process, for files that are opened from now on."""
    library = ctypes.CDLL(_sqlite3.__file__)
    library.sqlite3_vfs_find.restype = _Pointer
    vfs = _Vfs.from_address(library.sqlite3_vfs_find(None))
    original = _Open(vfs.xOpen)

    def x_open(this: int, name: int, file: int, flags: int, out: int) -> int:
        code: int = original(this, name, file, flags, out)
        methods = _File.from_address(file).pMethods
        if code == 0 and methods:
            _File.from_address(file).pMethods = _counting(methods)
        return code

    replaced = _Open(x_open)
    _kept.append(replaced)
    vfs.xOpen = ctypes.cast(replaced, _Pointer).value


def _counting(methods: int) -> int:
    """The address of a copy of ``methods`` that counts syncs."""
    if methods not in _copies:
        copy = (ctypes.c_char * _METHODS_SIZE).from_buffer_copy(ctypes.string_at(methods, _METHODS_SIZE))
        table = _Methods.from_buffer(copy)
        original = _Sync(table.xSync)

        def x_sync(file: int, flags: int) -> int:
            syncs.append("sync")
            code: int = original(file, flags)
            return code

        replaced = _Sync(x_sync)
        table.xSync = ctypes.cast(replaced, _Pointer).value
        _kept.extend((copy, table, original, replaced))
        _copies[methods] = ctypes.addressof(copy)
    return _copies[methods]
