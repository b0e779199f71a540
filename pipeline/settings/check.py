"""What only the reduction knows: which reducers there are and which constants each one has.

The defaults are right by the tests, and are not looked at: that needs torch, which takes seconds
that whoever lists streams would wait for.
"""

from pipeline.settings.groups import IngestSettings
from pipeline.values.errors import InvalidSettings

_DEFAULT = IngestSettings()


def check_reducer(ingest: IngestSettings) -> None:
    """Raise `InvalidSettings` for a reducer or constants that there are not; loads no model."""
    if ingest.reducer == _DEFAULT.reducer and not ingest.constants:
        return
    from aot import InvalidConfig, check_constants, make_reducer

    try:
        check_constants(ingest.reducer, ingest.constants)
        constants = {"clip_frames": ingest.clip_frames, **ingest.constants}
        make_reducer(ingest.reducer, ingest.retention, **constants)
    except InvalidConfig as error:
        name = "constants" if ingest.constants else "reducer"
        raise InvalidSettings(f"ingest.{name}: {error}") from None
