"""The process that decoders are forked from: `python -m workers.live.fork_server SOCKET`.

It has loaded all that a decoder needs, so that this lies in memory once however many decoders there
are, and a decoder begins within milliseconds. It has one thread, opens nothing, and learns nothing:
what comes over its socket are descriptors alone, a source's URL goes to the decoder's own stdin. A
decoder keeps none of its descriptors, and dies with it, as it dies with the process that asks.
"""

import gc
import os
import resource
import select
import signal
import socket
import struct
import sys
import traceback
from contextlib import suppress

from workers.live import child

STATUS = struct.Struct("<i")
"""What is told of a decoder: its id, with a descriptor of it, then how it ended as `returncode`."""
NUM_FDS = 6
"""Of a request: stdin, stdout and stderr, memory and free slots, and where to tell."""
REQUEST = b"f"


def main() -> None:
    """Fork until nobody can ask any more and all decoders have ended."""
    parent = os.getppid()
    child.bind_to_parent()
    requests = socket.socket(fileno=int(sys.argv[1]))
    _, most = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (most, most))  # two a decoder are open here
    child.load()
    gc.collect()
    gc.freeze()  # what is collected is written to, and what is written to is not shared
    if os.getppid() != parent:
        return
    if threads := len(os.listdir("/proc/self/task")) - 1:
        raise SystemExit(f"{threads} threads run beside the one that forks; expected none")
    ForkServer(requests).run()


class ForkServer:
    """Forks, and tells how each of its children ended."""

    def __init__(self, requests: socket.socket) -> None:
        self._requests: socket.socket | None = requests
        self._children: dict[int, tuple[int, socket.socket]] = {}
        """By a descriptor of each: its id, and where to tell of it."""

    def run(self) -> None:
        """Until there is nothing to do any more."""
        while self._requests is not None or self._children:
            waited = [*self._children, *([self._requests] if self._requests else [])]
            for ready in select_ready(waited):
                if isinstance(ready, int):
                    self._reap(ready)
                else:
                    self._take(ready)

    def _take(self, requests: socket.socket) -> None:
        data, fds, _, _ = socket.recv_fds(requests, len(REQUEST), NUM_FDS)
        if not data:
            requests.close()
            self._requests = None
            return
        try:
            pid, process = _fork(fds)
        except OSError as error:  # the others go on; who asked hears that there is none
            print(f"no process for a decoder: {error}", file=sys.stderr)
            _close_all(fds)
            return
        _close_all(fds[:-1])
        told = socket.socket(fileno=fds[-1])
        self._children[process] = pid, told
        _tell(told, pid, [process])

    def _reap(self, process: int) -> None:
        pid, told = self._children.pop(process)
        _, status = os.waitpid(pid, 0)
        os.close(process)
        _tell(told, os.waitstatus_to_exitcode(status))
        told.close()


def _fork(fds: list[int]) -> tuple[int, int]:
    """A decoder with these; its id, and a descriptor of it."""
    if len(fds) != NUM_FDS:
        raise OSError(f"got {len(fds)} descriptors, expected {NUM_FDS}: too many are open")
    parent, pid = os.getpid(), os.fork()
    if pid == 0:
        _decode(fds, parent)
    try:
        return pid, os.pidfd_open(pid)
    except OSError:
        os.kill(pid, signal.SIGKILL)
        os.waitpid(pid, 0)
        raise


def _close_all(fds: list[int]) -> None:
    for fd in fds:
        os.close(fd)


def select_ready(waited: "list[int | socket.socket]") -> "list[int | socket.socket]":
    """Those of which there is something to hear; waits for the first."""
    poll, by_fd = select.poll(), {}
    for one in waited:
        fd = one if isinstance(one, int) else one.fileno()
        by_fd[fd] = one
        poll.register(fd, select.POLLIN)
    return [by_fd[fd] for fd, _ in poll.poll()]


def _tell(told: socket.socket, number: int, fds: list[int] | None = None) -> None:
    with suppress(OSError):  # whoever asked has gone, and this process ends soon
        socket.send_fds(told, [STATUS.pack(number)], fds or [])


def _decode(fds: list[int], parent: int) -> None:
    """Be a decoder, in the forked process; never returns."""
    try:
        for target, fd in enumerate(fds[:3]):
            os.dup2(fd, target)
        memory_fd, free_fd = fds[3:5]
        for name in os.listdir("/proc/self/fd"):
            if int(name) not in (0, 1, 2, memory_fd, free_fd):
                with suppress(OSError):  # the one that listed them
                    os.close(int(name))
        child.decode(memory_fd, free_fd, parent=parent)
    except BaseException:
        traceback.print_exc()
    finally:
        os._exit(1)


if __name__ == "__main__":
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # a terminal's, which the supervisor hears too
    main()
