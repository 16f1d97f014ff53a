"""The one style sheet of the pages: that of the pictures, and the file beside this one."""

from __future__ import annotations

import hashlib
from pathlib import Path

from workflow_runner.web.calendar import CALENDAR_STYLE
from workflow_runner.web.timeline import TIMELINE_STYLE

STYLE_SHEET = TIMELINE_STYLE + CALENDAR_STYLE + (Path(__file__).parent / "static" / "page.css").read_text("utf-8")
STYLE_VERSION = hashlib.sha256(STYLE_SHEET.encode()).hexdigest()[:12]
"""Another one after an upgrade: browsers keep the old sheet for a while."""
