"""A decoder's process: the request on stdin, messages on stdout, pictures in shared memory.

It is forked (`workers.live.fork_server`) with no other descriptors than these.

It reads one source until that ends, and can do no harm: it cannot outlive its parent, gain
privileges, write files, or take more memory than it is given. A picture that nobody takes in time
is dropped and counted, never waited for: the source does not wait either.
"""

import codecs
import ctypes
import json
import os
import queue
import resource
import signal
import sys
import threading
import time
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from functools import cache

from workers.decode.device import device_groups, is_device_url
from workers.decode.live import LiveDecoder, Picture, load_decoder
from workers.decode.network import NetworkOptions, open_network_track
from workers.decode.policy import SourcePolicy
from workers.decode.track import OpenTrack
from workers.errors import SourceError, TooLarge, WorkerError
from workers.live.slots import PictureSlots
from workers.live.wire import Beat, Ended, MessageWriter, Opened, Started

QUEUE_BYTES = 64 << 20
"""Pictures that wait for a slot; what was read to learn what the source holds comes at once."""
GIVE_BACK_BYTES = 8 << 20
"""Of pictures that waited at one time: worth a look for what can be given back."""
NAME = "aot-decoder"
"""Of the process, as `ps -o comm` and `top` show it."""
BEAT_S = 1.0
NOBODY = 65_534
MAX_OPEN_FILES = 64
OUT_OF_MEMORY = "reading it takes more memory than its decoder may have (live.decoder_memory_mb)"

_PR_SET_PDEATHSIG, _PR_SET_NAME, _PR_SET_NO_NEW_PRIVS = 1, 15, 38


@dataclass(frozen=True)
class Request:
    """What to read and within which limits; crosses to the process as JSON on its stdin."""

    url: str
    """With its credentials: so it is never an argument, which every user of a machine can read."""
    shown: str
    """What stands for it in messages."""
    fps: float | None
    networks: tuple[str, ...] = ()
    devices: tuple[str, ...] = ()
    transport: str = "tcp"
    open_timeout_s: float = 10.0
    read_timeout_s: float = 10.0
    memory_bytes: int = 512 << 20
    """Address space beyond what the process has when it begins."""

    def to_json(self) -> bytes:
        """As it is written to the decoder's stdin."""
        return json.dumps(asdict(self)).encode()

    @classmethod
    def from_json(cls, text: bytes) -> "Request":
        """What `to_json` wrote."""
        fields = json.loads(text)
        for name in ("networks", "devices"):
            fields[name] = tuple(fields[name])
        return cls(**fields)


def decode(memory_fd: int, free_fd: int, *, parent: int) -> None:
    """Read the request, give privileges up, then read the source to its end; never returns.

    The descriptors are those of `PictureSlots`; `parent` is the process that it must not outlive.
    """
    _name_process(NAME)
    request = Request.from_json(sys.stdin.buffer.readline())
    slots = PictureSlots(memory_fd, free_fd)  # before memory is limited
    messages = MessageWriter(os.fdopen(os.dup(sys.stdout.fileno()), "wb"), slots)
    os.dup2(sys.stderr.fileno(), sys.stdout.fileno())  # a stray print must not be a message
    groups = device_groups(request.url) if is_device_url(request.url) else []
    give_up_privileges(request.memory_bytes, groups)
    if os.getppid() != parent:  # it went before this was bound to its life
        os._exit(1)
    try:
        messages.write(Started())
        run(request, messages)
    except BrokenPipeError:
        pass  # the supervisor is gone
    os._exit(0)  # else Python would wait for the thread that listens to the supervisor


def run(request: Request, messages: MessageWriter) -> None:
    """Send a source's messages until it ends."""
    policy = SourcePolicy(networks=request.networks, devices=request.devices)
    options = NetworkOptions(
        transport=request.transport,
        open_timeout_s=request.open_timeout_s,
        read_timeout_s=request.read_timeout_s,
    )
    try:
        with open_network_track(request.url, policy, options, shown=request.shown) as track:
            messages.write(_describe(track))
            decoder = LiveDecoder(track, fps=request.fps)
            threading.Thread(target=_obey, args=(decoder,), daemon=True).start()
            try:
                _Sender(decoder, messages).run()
            except SourceError as error:
                raise error.at(request.shown) from error.__cause__
        end = Ended(memory_bytes=peak_memory_bytes())
    except WorkerError as error:
        end = Ended(error.code, str(error), peak_memory_bytes())
    except MemoryError:
        end = Ended(TooLarge.__name__, f"{request.shown}: {OUT_OF_MEMORY}", peak_memory_bytes())
    messages.write(end)


def _obey(decoder: LiveDecoder) -> None:
    """Take the paces that the supervisor asks for, until it is gone."""
    for line in sys.stdin.buffer:
        decoder.pace = "keyframes" if line.strip() == b"keyframes" else "all"


class _Sender:
    """Decodes in this thread and writes in another; between them a short queue that sheds."""

    def __init__(self, decoder: LiveDecoder, messages: MessageWriter) -> None:
        self._decoder, self._messages = decoder, messages
        context = decoder.track.stream.codec_context
        size_bytes = 3 * max(1, context.width * context.height)
        self._queue: queue.Queue[Picture | None] = queue.Queue(max(4, QUEUE_BYTES // size_bytes))
        self._many = max(4, GIVE_BACK_BYTES // size_bytes)
        self._were_many = False
        self._shed = 0
        self._failed: OSError | None = None

    def run(self) -> None:
        """Send pictures, and beats between them, until the source ends."""
        writer = threading.Thread(target=self._write, name="messages", daemon=True)
        writer.start()
        try:
            for picture in self._decoder.pictures():
                try:
                    self._queue.put_nowait(picture)
                except queue.Full:
                    self._shed += 1
                self._were_many |= self._queue.qsize() >= self._many
                if self._failed is not None:
                    break
        finally:
            self._queue.put(None)
            writer.join()
        if self._failed is not None:
            raise self._failed

    def _write(self) -> None:
        beat_s, ended = time.monotonic(), False
        while not ended:
            try:
                picture = self._queue.get(timeout=BEAT_S)
                ended = picture is None
            except queue.Empty:
                picture = None
            try:
                if picture is not None:
                    self._messages.write(picture)
                if ended or time.monotonic() - beat_s >= BEAT_S:
                    beat_s = time.monotonic()
                    self._messages.write(self._beat())
                    self._give_back()
            except OSError as error:
                self._failed = error
                while not ended:  # let the decoder's thread end
                    ended = self._queue.get() is None

    def _give_back(self) -> None:
        """Once those that had to wait are gone, their memory is the machine's again."""
        if self._were_many and self._queue.empty():
            self._were_many = False
            give_memory_back()

    def _beat(self) -> Beat:
        tally = self._decoder.tally
        return Beat(
            tally.packets,
            tally.decoded,
            tally.refused_packets,
            self._shed,
            peak_memory_bytes(),
        )


def give_memory_back() -> None:
    """What is free in this process, where its allocator is glibc's, which else keeps much of it."""
    trim = getattr(_libc(), "malloc_trim", None)
    if trim is not None:
        trim(ctypes.c_size_t(0))


@cache
def load() -> None:
    """All that Python and libraries else load at first use.

    Later nothing may be readable, as where they are installed in a folder of root's own.
    """
    load_decoder()
    for name in ("idna", "latin-1", "ascii", "utf-8"):
        codecs.lookup(name)


def give_up_privileges(memory_bytes: int, groups: Sequence[int] = ()) -> None:
    """Bind this process: to its parent's life, to few files, to so much more memory.

    Root becomes nobody, of these groups at most.
    """
    load()
    if os.geteuid() == 0:
        os.setgroups(groups)
        os.setgid(NOBODY)
        os.setuid(NOBODY)
    _libc().prctl(_PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0)
    bind_to_parent()  # which a change of user undoes
    limits = {
        resource.RLIMIT_AS: _address_space_bytes() + memory_bytes,
        resource.RLIMIT_NOFILE: MAX_OPEN_FILES,
        resource.RLIMIT_FSIZE: 0,
        resource.RLIMIT_CORE: 0,
    }
    for name, limit in limits.items():
        resource.setrlimit(name, (limit, limit))


def bind_to_parent() -> None:
    """Die with the thread that started this process."""
    _libc().prctl(_PR_SET_PDEATHSIG, signal.SIGKILL, 0, 0, 0)


def _name_process(name: str) -> None:
    _libc().prctl(_PR_SET_NAME, name.encode(), 0, 0, 0)


def _libc() -> ctypes.CDLL:
    return ctypes.CDLL(None, use_errno=True)


def _address_space_bytes() -> int:
    with open("/proc/self/statm") as file:
        return int(file.read().split()[0]) * resource.getpagesize()


def peak_memory_bytes() -> int:
    """The most that was resident of this process (`ru_maxrss` would begin at its parent's)."""
    with open("/proc/self/status") as file:
        return int(file.read().partition("VmHWM:")[2].split()[0]) << 10


def _describe(track: OpenTrack) -> Opened:
    context = track.stream.codec_context
    return Opened(
        container=track.container.format.name,
        codec=context.name,
        width=context.width,
        height=context.height,
        rate_fps=float(track.rate),
    )
