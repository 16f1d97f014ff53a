"""A module that takes an hour to import."""

import sys
import time

print("importing", file=sys.stderr, flush=True)
time.sleep(3600)
