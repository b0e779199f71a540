"""Who a connection says that it is."""

from pathlib import Path
from typing import Any
from urllib.parse import unquote, urlsplit

import redis
from redis.credentials import CredentialProvider

from pipeline.store.config import StoreConfig
from pipeline.store.password import read_password
from pipeline.values.errors import InvalidSettings


class PasswordFile(CredentialProvider):
    """A user whose password is read anew for each connection: it may have been changed since."""

    def __init__(self, user: str, path: Path) -> None:
        self._user, self._path = user, path

    def get_credentials(self) -> tuple[str] | tuple[str, str]:
        """The password, behind the user where there is one.

        Raises:
            redis.AuthenticationError: the file cannot be read on this machine. It is an error of
                redis-py, which gives the connection up by that.
        """
        try:
            password = read_password(self._path)
        except InvalidSettings as error:
            raise redis.AuthenticationError(str(error)) from None
        return (self._user, password) if self._user else (password,)


def take_login(config: StoreConfig) -> tuple[str, dict[str, Any]]:
    """The URL, and what redis-py is told beside it. With a password's file, the user is no more in
    the URL, as redis-py takes the one or the other."""
    if config.password_file is None:
        return config.url, {}
    user, at, _ = urlsplit(config.url).netloc.rpartition("@")
    provider = PasswordFile(unquote(user), Path(config.password_file))
    return config.url.replace(f"{user}{at}", "", 1), {"credential_provider": provider}
