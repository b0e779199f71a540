"""All settings: a YAML file, then the environment (`AOT_...`), then the command line.

`groups` says what can be set, `sources` where values come from and which wins, `check` what only
the reduction knows, `logs` sends lines where and how they say. The one place that reads the
environment.
"""

from pipeline.settings.groups import DEFAULT_MODEL, LiveSourceSettings, Settings, StreamSettings
from pipeline.settings.sources import (
    explain,
    load_settings,
    nearest_variable,
    stream_url,
    unknown_variables,
)

__all__ = [
    "DEFAULT_MODEL",
    "LiveSourceSettings",
    "Settings",
    "StreamSettings",
    "explain",
    "load_settings",
    "nearest_variable",
    "stream_url",
    "unknown_variables",
]
