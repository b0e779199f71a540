"""How a stream may be called, and words that both workers and a store use.

Needs nothing, so that whoever only lists streams loads nothing.
"""

import re
from typing import Literal

STREAM_ID = re.compile(r"[A-Za-z0-9._-]{1,64}")

ClockSource = Literal["source", "arrival"]
"""Whose wall clock placed an epoch of a live stream: its source's own (RTCP sender reports,
`EXT-X-PROGRAM-DATE-TIME`), or this machine's at the arrival."""
