"""The store's password out of a file, for whoever connects: settings that travel name the file."""

from pathlib import Path

from pipeline.values.errors import InvalidSettings

MAX_PASSWORD_BYTES = 4096


def read_password(path: Path) -> str:
    """The one line of a file.

    Raises:
        InvalidSettings: it cannot be read here, or holds no password.
    """
    try:
        with path.expanduser().open("rb") as file:
            password = file.read(MAX_PASSWORD_BYTES + 1).decode().strip("\r\n")
    except (OSError, UnicodeDecodeError) as error:
        reason = getattr(error, "strerror", None) or "no UTF-8"
        raise InvalidSettings(
            f"store.password_file {str(path)!r} cannot be read ({reason}); check path and rights"
        ) from None
    if not password or len(password) > MAX_PASSWORD_BYTES or "\n" in password:
        raise InvalidSettings(
            f"store.password_file {str(path)!r} holds no password; expected one line of 1 to "
            f"{MAX_PASSWORD_BYTES} bytes"
        )
    return password
