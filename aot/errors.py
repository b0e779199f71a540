"""Errors of the reduction.

    AOTError
      InvalidConfig     a constant outside what the method allows
      InvalidFeatures   tensors that do not fit together, or are not finite
      NotIncremental    frames pushed to a reducer that needs whole clips
      NotSettled        a transport left before its stop rule was met

Every error has a stable `code` and says what was got, what was expected, what to do.
"""


class AOTError(ValueError):
    """Base of all errors raised by `aot`."""

    code = "AOTError"
    kind = "usage"
    """What follows from it, for programs: every error here is about what was asked for."""


class InvalidConfig(AOTError):
    """A constant lies outside what the method allows."""

    code = "InvalidConfig"


class InvalidFeatures(AOTError):
    """Tensors do not fit together, or hold NaN or infinity."""

    code = "InvalidFeatures"


class NotIncremental(AOTError):
    """Frames were pushed to a reducer that needs whole clips."""

    code = "NotIncremental"


class NotSettled(AOTError):
    """An accelerator without the kernels left a transport before its stop rule was met."""

    code = "NotSettled"
