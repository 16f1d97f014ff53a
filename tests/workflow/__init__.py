"""Tests of workflows and of durable runs. What starts other processes is shared with the tests of the store."""

import sys
from pathlib import Path

_TESTS = str(Path(__file__).parent.parent)
if _TESTS not in sys.path:
    sys.path.append(_TESTS)
