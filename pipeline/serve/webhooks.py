"""Events to whoever wants to be called: signed, tried again, at least once.

Signed as https://www.standardwebhooks.com says: `webhook-signature` is `v1,` and the base64 of
HMAC-SHA256 over `ID.TIMESTAMP.BODY`, so that neither the body nor the time stamp can be another's.
`webhook-id` is the event's id, the same at every try: whoever has seen it may pass over it. Up to
which event a watch has told is in the store, so that whoever goes on after a kill goes on from
there. The address is looked at as a source's is, at every try, and the one that was checked is the
one that is called; redirects are not followed.
"""

import base64
import hashlib
import hmac
import http.client
import json
import logging
import threading
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, dataclass, replace

from pipeline.settings import Settings
from pipeline.store import ClipStore
from pipeline.values.errors import InvalidQuery, PipelineError
from pipeline.values.plain import one_line
from pipeline.values.watch import Event, Watch, WatchState, shown_webhook
from workers.decode.http import connect, target_of
from workers.decode.policy import SourcePolicy, check_url
from workers.errors import WorkerError

logger = logging.getLogger(__name__)

LOOK_S = 0.5
CALL_S = 10.0
"""For a connection, and for an answer."""
FIRST_WAIT_S, LONGEST_WAIT_S = 1.0, 60.0
"""Between two tries; each wait is twice the one before."""
MAX_TRIES = 12
"""Some eight minutes; an event that was not taken then is told no more, and stays in the list."""
AT_ONCE = 8
PAGE = 100
SCHEMES = ("http", "https")


def sign(secret: str, event_id: str, timestamp: int, body: bytes) -> str:
    """`webhook-signature` of a call."""
    signed = b".".join((event_id.encode(), str(timestamp).encode(), body))
    digest = hmac.new(_key_of(secret), signed, hashlib.sha256).digest()
    return f"v1,{base64.b64encode(digest).decode()}"


def _key_of(secret: str) -> bytes:
    """`whsec_` and base64, as the standard writes secrets; any other text as it is."""
    if secret.startswith("whsec_"):
        return base64.b64decode(secret.removeprefix("whsec_"))
    return secret.encode()


def require_webhook(settings: Settings, url: str | None) -> None:
    """Raise where a watch could not call this URL.

    Raises:
        InvalidQuery: calls cannot be signed here.
        SourceRefused, SourceUnreachable: an address that is not permitted, or none.
    """
    if url is None:
        return
    if settings.serve.webhook_secret is None:
        raise InvalidQuery(
            "got a webhook and nothing to sign its calls with; set AOT_SERVE__WEBHOOK_SECRET where "
            "the service runs"
        )
    check_url(url, _policy(settings), shown=shown_webhook(url))


def _policy(settings: Settings) -> SourcePolicy:
    return SourcePolicy(settings.live.networks, SCHEMES)


class Undelivered(Exception):
    """A call that was not taken."""


def call(settings: Settings, url: str, event: Event) -> None:
    """Tell an event once.

    Raises:
        Undelivered: it was not taken.
        WorkerError: the address is not permitted any more, or none.
    """
    secret = settings.serve.webhook_secret
    if secret is None:
        raise Undelivered("serve.webhook_secret is not set")
    endpoint = check_url(url, _policy(settings), shown=shown_webhook(url))
    body, timestamp = json.dumps(asdict(event)).encode(), int(time.time())
    headers = {
        "Content-Type": "application/json",
        "User-Agent": "aot-stream",
        "webhook-id": event.event_id,
        "webhook-timestamp": str(timestamp),
        "webhook-signature": sign(secret.get_secret_value(), event.event_id, timestamp, body),
    }
    connection = connect(endpoint, CALL_S)
    try:
        connection.request("POST", target_of(url), body, headers)
        status = connection.getresponse().status
    except (OSError, http.client.HTTPException) as error:
        raise Undelivered(one_line(error)) from error
    finally:
        connection.close()
    if not 200 <= status < 300:
        raise Undelivered(f"it answered {status}")


@dataclass
class _Attempts:
    """How often an event was tried, and when it is again."""

    event_id: str
    tries: int = 0
    not_before_s: float = 0.0


class Webhooks:
    """Tells the events of all watches that name a URL, until it is closed."""

    def __init__(self, settings: Settings, store: ClipStore) -> None:
        self._settings, self._store = settings, store
        self._attempts: dict[tuple[str, str], _Attempts] = {}
        self._ending = threading.Event()
        self._pool = ThreadPoolExecutor(AT_ONCE, thread_name_prefix="webhook")
        self._busy: set[tuple[str, str]] = set()
        self._thread = threading.Thread(target=self._run, name="webhooks", daemon=True)
        self._thread.start()

    def close(self) -> None:
        """Stop; what is under way is told again by the next one, unless it was taken."""
        self._ending.set()
        self._thread.join(LOOK_S * 4)
        self._pool.shutdown(wait=False, cancel_futures=True)

    def _run(self) -> None:
        while not self._ending.wait(LOOK_S):
            try:
                for watch in self._due():
                    key = (watch.stream_id, watch.watch_id)
                    self._busy.add(key)
                    self._pool.submit(self._tell, watch).add_done_callback(
                        lambda _, key=key: self._busy.discard(key)
                    )
            except Exception as error:
                logger.warning("webhooks: not looked at: %s", one_line(error))

    def _due(self) -> Iterator[Watch]:
        """Watches that name a URL and are not waited for."""
        now_s = time.monotonic()
        for stream_id in self._store.list_streams():
            for watch, _ in self._store.list_watches(stream_id):
                key = (stream_id, watch.watch_id)
                waits = self._attempts.get(key)
                is_due = waits is None or waits.not_before_s <= now_s
                if watch.webhook is not None and key not in self._busy and is_due:
                    yield watch

    def _tell(self, watch: Watch) -> None:
        """Tell what is new, in order, up to what is not taken."""
        try:
            while not self._ending.is_set() and self._tell_next(watch):
                pass
        except Exception as error:
            logger.warning("webhook of %s: not told: %s", watch.watch_id, one_line(error))

    def _tell_next(self, watch: Watch) -> bool:
        """Whether there may be more to tell."""
        told = self._told(watch)
        if told is None:
            return False
        found = self._store.list_events(watch.stream_id, after=told or None, limit=PAGE)
        mark, event = next(((m, e) for m, e in found if e.watch_id == watch.watch_id), ("", None))
        if event is None:  # those of others are passed over
            return bool(found) and self._remember(watch, found[-1][0])
        return self._try(watch, event) and self._remember(watch, mark)

    def _try(self, watch: Watch, event: Event) -> bool:
        """Whether it need not be told again: it was taken, or was tried too often."""
        key = (watch.stream_id, watch.watch_id)
        attempts = self._attempts.get(key)
        if attempts is None or attempts.event_id != event.event_id:
            attempts = self._attempts[key] = _Attempts(event.event_id)
        assert watch.webhook is not None
        try:
            call(self._settings, watch.webhook, event)
        except (Undelivered, WorkerError, PipelineError) as error:
            attempts.tries += 1
            wait_s = min(LONGEST_WAIT_S, FIRST_WAIT_S * 2 ** (attempts.tries - 1))
            attempts.not_before_s = time.monotonic() + wait_s
            is_last = attempts.tries >= MAX_TRIES
            logger.log(
                logging.ERROR if is_last else logging.WARNING,
                "event %s of %s: not taken by its webhook (try %d of %d: %s)",
                *(event.event_id, watch.stream_id, attempts.tries, MAX_TRIES, one_line(error)),
            )
            if not is_last:
                return False
        self._attempts.pop(key, None)
        return True

    def _told(self, watch: Watch) -> str | None:
        """The mark of the last event that was told; None where the watch is gone."""
        state = self._state(watch)
        return None if state is None else state.told

    def _remember(self, watch: Watch, mark: str) -> bool:
        """Whether it was, and there is somebody to tell more to."""
        while (state := self._state(watch)) is not None:
            if self._store.advance_watch(watch, state, replace(state, told=mark), None):
                return True
        return False

    def _state(self, watch: Watch) -> WatchState | None:
        known = self._store.list_watches(watch.stream_id)
        return next((state for one, state in known if one == watch), None)
