"""How a stream may be called. Needs nothing, so that whoever only lists streams loads nothing."""

import re

STREAM_ID = re.compile(r"[A-Za-z0-9._-]{1,64}")
