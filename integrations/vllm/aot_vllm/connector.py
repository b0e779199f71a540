"""The store as vLLM's encoder cache: what a run of visual tokens is, by its name (`items`).

    vllm serve MODEL --enable-scale-out --mm-processor-cache-gb 0 --ec-transfer-config '{
      "ec_connector": "RecordConnector", "ec_connector_module_path": "aot_vllm.connector",
      "ec_role": "ec_consumer", "ec_connector_extra_config": {"store_url": "redis://host/0"}}'

vLLM makes one instance in its scheduler and one in every worker. Records are read on the
scheduler's side, by threads, before a request is scheduled: a request whose records are on their
way is put off, one whose records cannot be had fails alone. What is scheduled has its rows with it,
verified, so that nothing that happens to the store afterwards reaches a worker: an engine has no
way to take back a step, and rows that are wrong would stay in its prefix cache.
"""

import logging
from collections import defaultdict
from concurrent.futures import Future, ThreadPoolExecutor, wait
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor
from vllm.distributed.ec_transfer.ec_connector.base import (
    ECConnectorBase,
    ECConnectorMetadata,
    ECConnectorRole,
)
from vllm.platforms import current_platform

from aot_vllm.items import Item
from pipeline.ask.run import require_model
from pipeline.store import StoreConfig, open_store
from pipeline.store.arrow import decode_clip
from pipeline.store.keys import record_id
from pipeline.values.errors import FingerprintMismatch, InvalidQuery, InvalidSettings
from pipeline.values.types import ClipSpan
from workers.errors import one_line
from workers.models import open_token_reader

if TYPE_CHECKING:
    from vllm.config import VllmConfig
    from vllm.v1.core.sched.output import SchedulerOutput
    from vllm.v1.request import Request

logger = logging.getLogger("vllm.aot_vllm")

STORE = {"namespace", "timeout_s", "cold"}
"""As in the settings' `store`."""
DEFAULTS = {"threads": 4, "max_records": 1024}
"""The second: what may wait in the scheduler's memory, a GB of a 7B model at a retention of 0.1."""
SETTINGS = {"store_url", *DEFAULTS, *STORE}
PAUSE_S = 0.002


class RecordReader:
    """Reads runs from the store for one model; safe to share between threads."""

    def __init__(self, model: str, revision: str | None, config: StoreConfig) -> None:
        """Raises `UnsupportedModel` for a family that cannot be asked so, and `StoreError`s."""
        self._reader = open_token_reader(model, revision=revision)
        self._store = open_store(config)
        self._accepted: set[tuple[str, str]] = set()
        """Streams whose fingerprint is of this model."""

    def read(self, item: Item) -> Tensor:
        """The rows of a run, `[r d]`, on the host.

        Raises:
            FingerprintMismatch: the record's tokens were made otherwise than is asked for, or by
                another model than this one.
            InvalidQuery: rows that the record has not.
            StoreError, UnknownStream: what failed.
        """
        if (item.stream_id, item.fingerprint) not in self._accepted:
            require_model(self._store.get_info(item.stream_id), self._reader)
        place = (item.stream_id, item.epoch, item.index)
        blob = self._store.get_record(ClipSpan(*place, 0.0, 0.0, 0, 0))
        record = decode_clip(blob, key=record_id(*place))
        if record.fingerprint != item.fingerprint:
            raise FingerprintMismatch(
                f"clip {item.index} of {item.stream_id} has fingerprint {record.fingerprint}, got "
                f"a question about {item.fingerprint}; look the clip up again"
            )
        if record.clip.level.keep != item.keep:
            raise InvalidQuery(f"{item}: the clip was faded since; look it up again")
        self._accepted.add((item.stream_id, item.fingerprint))
        try:
            return item.take(record.clip.tokens.tokens, self._reader.newline)
        except IndexError as error:
            raise InvalidQuery(f"{item}: got {error}; look the clip up again") from error


@dataclass
class Rows(ECConnectorMetadata):
    """What a step's workers put into their encoder cache."""

    by_name: dict[str, Tensor] = field(default_factory=dict)


class ReadAhead:
    """The scheduler's side: reads what waiting requests need, and hands it over when they start."""

    def __init__(self, reader: RecordReader, threads: int, max_records: int) -> None:
        self._reader, self._max_records = reader, max_records
        self._pool = ThreadPoolExecutor(threads, thread_name_prefix="aot-vllm")
        self._reads: dict[str, Future[Tensor]] = {}
        self._wanted_by: defaultdict[str, set[str]] = defaultdict(set)
        """By name, requests that have not got it yet."""
        self._given: defaultdict[str, set[tuple[int, int]]] = defaultdict(set)
        """By request, what is in the workers' cache for it: index, and preemptions before."""
        self._lost: set[str] = set()
        self._next = Rows()

    def is_ready(self, request: "Request", num_computed_tokens: int) -> bool:
        """Whether all that the rest of a request needs is here; starts to read what is not."""
        pending: list[Future[Tensor]] = []
        for index, feature in enumerate(request.mm_features):
            place, name = feature.mm_position, feature.identifier
            given = (index, request.num_preemptions) in self._given[request.request_id]
            if given or place.offset + place.length <= num_computed_tokens:
                continue
            item = Item.parse(name)
            if item is None and feature.data is not None:  # a picture, which vLLM encodes
                continue
            if item is None or len(item.rows) != place.get_num_embeds():
                return self._lose(request, f"{name[:200]!r} is no name of {place.length} rows")
            if name not in self._reads:
                if self._is_full(request):
                    return False
                self._reads[name] = self._pool.submit(self._reader.read, item)
            self._wanted_by[name].add(request.request_id)
            read = self._reads[name]
            if not read.done():
                pending.append(read)
            elif (error := read.exception()) is not None:
                del self._reads[name]  # the next one tries again
                return self._lose(request, f"{type(error).__name__}: {error}")
        if pending:  # asked again at once: without a pause it would take the readers' time
            wait(pending, PAUSE_S)
        return not pending

    def has(self, name: str) -> bool:
        """Whether it is here, to be handed over."""
        read = self._reads.get(name)
        return read is not None and read.done() and read.exception() is None

    def hand_over(self, request: "Request", index: int) -> None:
        """Put it into what the next step's workers get."""
        name = request.mm_features[index].identifier
        if self.has(name):
            self._next.by_name[name] = self._reads[name].result()
            self._given[request.request_id].add((index, request.num_preemptions))
            self._let_go(name, request.request_id)

    def take_next(self) -> Rows:
        """What was handed over since the last step."""
        taken, self._next = self._next, Rows()
        return taken

    def take_lost(self) -> set[str]:
        """Requests that can never be ready."""
        lost, self._lost = self._lost, set()
        return lost

    def forget(self, request_id: str) -> None:
        """A request has ended."""
        self._given.pop(request_id, None)
        for name in [name for name, who in self._wanted_by.items() if request_id in who]:
            self._let_go(name, request_id)

    def close(self) -> None:
        """Read no more."""
        self._pool.shutdown(wait=False, cancel_futures=True)

    def _let_go(self, name: str, request_id: str) -> None:
        self._wanted_by[name].discard(request_id)
        if not self._wanted_by[name]:
            del self._wanted_by[name]
            self._reads.pop(name, None)

    def _lose(self, request: "Request", why: str) -> bool:
        logger.error("request %s fails: %s", request.request_id, one_line(why, 500))
        self._lost.add(request.request_id)
        return False

    def _is_full(self, request: "Request") -> bool:
        """Whether a request that holds nothing yet has to wait for memory."""
        if any(request.request_id in who for who in self._wanted_by.values()):
            return False
        return len(self._reads) >= self._max_records


class RecordConnector(ECConnectorBase):
    """What vLLM loads by its name; a consumer, which saves nothing."""

    def __init__(self, vllm_config: "VllmConfig", role: ECConnectorRole) -> None:
        super().__init__(vllm_config, role)
        self._dtype = vllm_config.model_config.dtype
        self._scheduler: Any = None
        """A `ReadAhead`, in the scheduler's instance alone."""
        if role is not ECConnectorRole.SCHEDULER:
            return
        transfer, model = vllm_config.ec_transfer_config, vllm_config.model_config
        given: dict[str, Any] = DEFAULTS | transfer.ec_connector_extra_config
        if set(given) - SETTINGS or "store_url" not in given or not self.is_consumer:
            raise InvalidSettings(
                f"got {transfer.ec_role} with {', '.join(sorted(given)) or 'nothing'}, expected "
                f"ec_consumer with store_url and any of {', '.join(sorted(SETTINGS))}"
            )
        config = StoreConfig(given["store_url"], **{n: given[n] for n in STORE & set(given)})
        reader = RecordReader(model.model, model.revision, config)
        self._scheduler = ReadAhead(reader, given["threads"], given["max_records"])

    def ensure_cache_available(self, request: "Request", num_computed_tokens: int) -> bool:
        """Put a request off until its records are read."""
        return self._scheduler.is_ready(request, num_computed_tokens)

    def has_cache_item(self, identifier: str) -> bool:
        """Asked right after, in the same step."""
        return self._scheduler.has(identifier)

    def update_state_after_alloc(self, request: "Request", index: int) -> None:
        """The step that is being planned uses it."""
        self._scheduler.hand_over(request, index)

    def build_connector_meta(self, scheduler_output: "SchedulerOutput") -> ECConnectorMetadata:
        """Rows travel with the step."""
        return self._scheduler.take_next()

    def take_unavailable_requests(self) -> set[str]:
        """These fail, and nothing else."""
        return self._scheduler.take_lost()

    def request_finished(self, request: "Request") -> tuple[bool, dict[str, Any] | None]:
        """Nothing is sent anywhere."""
        self._scheduler.forget(request.request_id)
        return False, None

    def start_load_caches(self, encoder_cache: dict[str, Tensor], **kwargs: Any) -> None:
        """In a worker: to the device, without a wait for it."""
        rows = self._get_connector_metadata()
        assert isinstance(rows, Rows)
        device = current_platform.device_type
        if current_platform.is_cuda_alike():
            device = f"{device}:{torch.cuda.current_device()}"
        for name, tensor in rows.by_name.items():
            if name not in encoder_cache:
                encoder_cache[name] = tensor.to(device, self._dtype, non_blocking=True)

    def save_caches(self, encoder_cache: dict[str, Tensor], mm_hash: str, **kwargs: Any) -> None:
        """Nothing: what is stored comes from elsewhere."""

    def shutdown(self) -> None:
        """The end of the process."""
        if self._scheduler is not None:
            self._scheduler.close()
