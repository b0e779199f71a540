"""One line to a server on its socket, and its answer: no client is needed for a ping."""

import socket as sockets
from pathlib import Path
from typing import Literal

from pipeline.store.embedded.folder import unusable_error

State = Literal["ready", "loading", "absent", "hung"]


def ask_state(socket: Path, command: bytes = b"PING") -> State:
    """How a server at `socket` answers a command."""
    answer = ask(socket, command)
    if isinstance(answer, str):
        return answer
    if answer.startswith(b"-LOADING"):
        return "loading"
    return "ready" if answer else "absent"  # an error is an answer too: a full disk refuses PING


def ask(socket: Path, command: bytes, timeout_s: float = 2.0) -> bytes | State:
    """The first bytes of the answer to one inline command, or why there is none."""
    with sockets.socket(sockets.AF_UNIX) as connection:
        connection.settimeout(timeout_s)
        try:
            connection.connect(str(socket))
            connection.sendall(command + b"\r\n")
            return connection.recv(4096)
        except (FileNotFoundError, ConnectionError):
            return "absent"  # no socket, or one left behind by a server that is gone
        except TimeoutError:
            return "hung"
        except OSError as error:
            raise unusable_error(socket.parent, error) from error


def ask_setting(socket: Path, name: str) -> str | None:
    """A setting of a running server; None where it does not tell."""
    answer = ask(socket, b"CONFIG GET " + name.encode())
    words = answer.split(b"\r\n") if isinstance(answer, bytes) else []
    return words[4].decode() if len(words) > 4 and words[2] == name.encode() else None
