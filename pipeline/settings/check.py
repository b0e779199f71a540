"""What only the reduction knows: which reducers there are and which constants each one has.

The defaults are right by the tests, and are not looked at: that needs torch, which takes seconds
that whoever lists streams would wait for.
"""

from pipeline.errors import InvalidSettings
from pipeline.settings.groups import IngestSettings

_DEFAULT = IngestSettings()


def check_reducer(ingest: IngestSettings) -> None:
    """Raise `InvalidSettings` for a reducer or constants that there are not; loads no model."""
    if ingest.reducer == _DEFAULT.reducer and not ingest.constants:
        return
    from aot import InvalidConfig, make_reducer

    try:
        constants = {"clip_frames": ingest.clip_frames, **ingest.constants}
        make_reducer(ingest.reducer, ingest.retention, **constants)
    except InvalidConfig as error:
        name = "constants" if ingest.constants else "reducer"
        raise InvalidSettings(f"ingest.{name}: {error}") from None
    except TypeError:
        raise InvalidSettings(_unknown_constants(ingest)) from None


def _unknown_constants(ingest: IngestSettings) -> str:
    from dataclasses import fields

    from aot import AOTConfig

    known = sorted(field.name for field in fields(AOTConfig))
    strange = sorted(set(ingest.constants) - set(known)) or sorted(ingest.constants)
    return (
        f"ingest.constants: {ingest.reducer} has no {', '.join(strange)}; expected some of "
        f"{', '.join(known)}"
    )
