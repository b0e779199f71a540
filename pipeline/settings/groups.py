"""What can be set: one frozen value, whose parts are groups of a settings file.

Knows nothing of files and variables.
"""

import ipaddress
import math
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from pydantic import (
    ByteSize,
    Field,
    field_validator,
    model_validator,
)
from pydantic_settings import BaseSettings, PydanticBaseSettingsSource, SettingsConfigDict

from pipeline.settings.base import ENV_PREFIX, Group
from pipeline.settings.serve import ServeSettings
from pipeline.settings.storage import (
    DATA_FOLDER,
    RetentionSettings,
    SpoolSettings,
    StoreSettings,
)
from pipeline.settings.stream_logs import StreamLogs
from pipeline.store import StoreConfig, embedded_folder
from pipeline.store.retention import RetentionRules
from pipeline.store.spool import SpoolRules
from pipeline.values.errors import InvalidQuery
from pipeline.values.labels import LabelSelector
from pipeline.values.times import parse_zone
from workers.names import STREAM_ID
from workers.redact import redact_url

if TYPE_CHECKING:
    from workers.answer import AnswerSettings
    from workers.cluster.cluster import AnswerPlace, ClusterSettings, PoolSettings
    from workers.compress import CompressSettings
    from workers.tracing.open import TraceSettings

DEFAULT_MODEL = "llava-hf/llava-onevision-qwen2-0.5b-ov-hf"


class ModelSettings(Group):
    """The checkpoint whose two halves are used."""

    id: str = DEFAULT_MODEL
    """A hub id or a folder."""
    revision: str | None = None
    device: str = "cpu"
    dtype: Literal["float32", "bfloat16", "float16"] = "float32"
    kept_prompts: ByteSize = Field(default=ByteSize(1 << 30), ge=0)
    """Memory for windows that were read and may be asked about again: the next question on one
    begins at once. 0 keeps none."""
    engine: str | None = None
    """A server that runs the language model: `vllm+http://host:8000` with aot-stream-vllm; null
    runs it here."""


class IngestSettings(Group):
    """How a video becomes clips, and clips tokens."""

    fps: float | None = Field(default=1.0, gt=0, le=240)
    """Frames sampled per second of the stream; null keeps every frame."""
    max_hold_s: float | None = Field(default=None, gt=0, le=86_400)
    """How long a picture of a file may stand for the stream until the next one comes; null goes by
    the container: 10 minutes where it tells durations, 2 where it does not."""
    follow_s: float | None = Field(default=60.0, gt=0, le=86_400)
    """A file that is followed (--follow) is taken for finished when it has not grown for so long;
    null waits until it is told to stop."""
    clip_frames: int = Field(default=8, ge=1, le=4096)
    retention: float = Field(default=0.10, gt=0, le=1)
    reducer: str = "adaptive"
    constants: dict[str, Any] = {}  # noqa: RUF012
    """Constants of the reducer to be set by hand instead of derived from the retention."""
    zone: str | None = None
    """Time zone that clock times of a stream are meant in, `Europe/Berlin` or `+02:00`; null takes
    the offset of --start-time, else the reader's."""
    roots: tuple[str, ...] = ()
    """Folders files may be read from; empty allows all."""
    lease_s: float = Field(default=30.0, ge=1, le=3600)
    """How long a stream stays taken after its writer was cut off."""

    @property
    def follow_limit_s(self) -> float:
        """`follow_s` as a number."""
        return math.inf if self.follow_s is None else self.follow_s

    @field_validator("zone")
    @classmethod
    def _check_zone(cls, zone: str | None) -> str | None:
        if zone is not None:
            try:
                parse_zone(zone)
            except InvalidQuery as error:
                raise ValueError(str(error)) from None
        return zone


class DecodeSettings(Group):
    """Where pictures of files are decoded."""

    backend: Literal["auto", "cpu", "cuda"] = "cpu"
    """`cuda` decodes on an NVIDIA card (NVDEC) and tells where that cannot be; `auto` does so where
    there is one. Pixels differ from the CPU's by less than one step of 255 in the mean."""


class LiveSourceSettings(Group):
    """How endless sources are opened and read."""

    networks: tuple[str, ...] = ()
    """Networks beside the public internet that sources may lie in: `192.168.1.0/24`."""
    devices: tuple[str, ...] = ()
    """Cameras of this machine that may be read: `/dev/video0` (as `v4l2:///dev/video0`)."""
    transport: Literal["tcp", "udp"] = "tcp"
    """Of RTSP."""
    open_timeout_s: float = Field(default=10.0, gt=0, le=600)
    stall_s: float = Field(default=20.0, gt=0, le=3600)
    """Without a picture for so long a source is opened anew."""
    hold_still: bool = False
    """Do not encode frames that show nothing new; they are recorded as held."""
    decoder_memory_mb: int = Field(default=512, ge=64, le=65_536)
    """Memory that a source's decoder may take beyond what it starts with."""

    @field_validator("networks")
    @classmethod
    def _check_networks(cls, networks: tuple[str, ...]) -> tuple[str, ...]:
        for network in networks:
            ipaddress.ip_network(network)
        return networks


class StreamSettings(Group):
    """One endless source that `aot up` keeps."""

    name: str
    """The stream's id."""
    url: str | None = None
    """Without credentials."""
    url_env: str | None = None
    """The variable that holds the URL instead, credentials and all."""
    fps: float | None = Field(default=None, gt=0, le=240)
    """Null takes `ingest.fps`."""
    hold_still: bool | None = None
    """Null takes `live.hold_still`."""
    label_selector: dict[str, str] = {}  # noqa: RUF012
    """Of `aot up --detach`: which machines may read it, by the labels of Ray's nodes, as in
    `{site: north}`; each a value, `!value`, `in(a, b)` or `!in(a, b)`."""
    label_fallback: bool = False
    """While none of those has room, any other may read it."""

    @field_validator("label_selector")
    @classmethod
    def _check_labels(cls, conditions: dict[str, str]) -> dict[str, str]:
        LabelSelector.of(conditions)
        return conditions

    @model_validator(mode="after")
    def _check(self) -> "StreamSettings":
        if not STREAM_ID.fullmatch(self.name):
            raise ValueError("a stream's name must be 1 to 64 of A-Z a-z 0-9 . _ -")
        if (self.url is None) == (self.url_env is None):
            raise ValueError(f"stream {self.name}: expected either url or url_env")
        if self.url is not None and redact_url(self.url) != self.url:
            raise ValueError(
                f"stream {self.name}: its url holds what may be a secret; put the URL into the "
                "environment and name the variable: url_env"
            )
        return self


class RaySettings(Group):
    """The cluster the work is spread over."""

    enabled: bool = True
    """False runs everything in this process."""
    address: str | None = None
    """HOST:PORT of a cluster's head, `auto` for this machine's, null for a private one."""
    num_cpus: int | None = Field(default=None, ge=1, le=4096)
    """Of a private cluster; null takes the machine's cores, at least two."""
    object_store_bytes: int = Field(default=512 * 2**20, ge=80 * 2**20)
    """Of a private cluster: bounds the clips between sessions and workers."""
    local_port: int = Field(default=26379, ge=1024, le=65535)
    """Where the cluster listens that detached sessions run in when no address is given."""
    connect_timeout_s: float = Field(default=10.0, gt=0, le=600)
    answers: bool = False
    """Load the language half in the cluster too, where the compress workers are; false answers
    questions in the process that asks."""
    workers: int = Field(default=1, ge=1, le=4096)
    """Compress workers."""
    worker_cpus: float = Field(default=0.5, gt=0)
    worker_gpus: float | None = Field(default=None, ge=0)
    worker_resources: dict[str, float] = {}  # noqa: RUF012
    """Resources of Ray that keep the workers on nodes that declare them."""
    max_workers: int | None = Field(default=None, ge=1, le=4096)
    """Compress workers at most: one more is asked for while clips or frames wait for those there
    are; null keeps `workers` of them."""
    workers_idle: float = Field(default=300.0, gt=0)
    """So long fewer compress workers must do before one goes: `5m`, or seconds."""
    answer_cpus: float | None = Field(default=None, gt=0)
    """For a worker that answers; null takes as much as for a compress worker, of each of three."""
    answer_gpus: float | None = Field(default=None, ge=0)
    answer_resources: dict[str, float] | None = None
    """Such as `answering`, on nodes where no compress worker runs: a question then never waits
    behind ingest."""
    ready_timeout_s: float = Field(default=300.0, gt=0)
    """For the start of a worker: a free place in the cluster and the model's load."""
    result_timeout_s: float = Field(default=600.0, gt=0)
    """For a batch from the moment it is begun; a worker that takes longer is replaced."""
    lost_timeout_s: float = Field(default=600.0, gt=0)
    """For a session without any worker that is ready; then it ends with an error."""
    clips_in_flight: int = Field(default=4, ge=1, le=1024)
    """Clips a session may have decoded and not yet stored: the back-pressure."""
    threads: int = Field(default=1, ge=1, le=256)
    """CPU threads of one compress worker; part of what makes records byte-identical."""
    session_cpus: float = Field(default=1.0, gt=0)
    """For the session of a stream: decoding keeps one core busy."""
    session_resources: dict[str, float] = {}  # noqa: RUF012
    """Resources of Ray that keep sessions on nodes that declare them, such as `decoding`."""
    streams_per_session: int = Field(default=16, ge=1, le=1024)
    """Endless streams that one session of `aot up --detach` reads at most: what a core decodes."""
    max_sessions: int = Field(default=64, ge=1, le=10_000)
    """Of `aot up --detach`: the cluster is asked for no more."""
    session_silent_s: float = Field(default=3.0, ge=1, le=300)
    """A session of `aot up --detach` that says nothing for so long is gone: others take its
    streams."""
    session_restarts: int = Field(default=10, ge=0, le=1000)
    """How often a day a session that dies is started again."""


class AskSettings(Group):
    """How a question is answered."""

    max_visual_tokens: int | None = Field(default=None, ge=1)
    """Most visual tokens of one question; null takes what the model's context holds."""
    max_new_tokens: int = Field(default=256, ge=1, le=32768)
    max_clips: int = Field(default=2048, ge=1)
    """Most clips loaded for one question."""
    marks: Literal["clip", "frame"] | None = None
    """One time mark a clip, or one a frame; null as the checkpoint says, else one a clip."""
    keep_positions: bool | None = None
    """Read every token at the place it had before the reduction, where the context holds them;
    null as the checkpoint says, else not."""
    fit: Literal["choose", "recompress", "find"] = "recompress"
    """Where a range holds more than the budget: `recompress` reads all clips with fewer tokens;
    `choose` as many as fit, evenly spaced; `find` looks through all of them for those that matter
    to the question, and reads these."""
    read_times: bool = True
    """Take the range from what a question says of time ("yesterday morning", "in the last ten
    minutes"), where none is given beside it."""


class MetricsSettings(Group):
    """What sessions of endless sources count, for Prometheus."""

    address: str | None = None
    """HOST:PORT to answer at while `aot ingest` of endless sources and `aot up` run; a port alone
    is of this machine, null answers nowhere."""


class TracingSettings(Group):
    """Traces of OpenTelemetry: of every clip decode, push, reduction and storing, of every question
    index, loading and answer. Needs the extra `tracing`."""

    endpoint: str | None = None
    """A collector that takes OTLP over HTTP, as `http://127.0.0.1:4318`; null traces nothing."""
    share: float = Field(default=1.0, ge=0, le=1)
    """Of clips and questions that are traced."""


class LogSettings(Group):
    """What is told on stderr while commands run."""

    level: Literal["debug", "info", "warning", "error"] = "warning"
    format: Literal["text", "json"] = "text"
    """`json` writes one object a line, for machines that collect logs."""
    folder: Path | None = None
    """Where sessions of endless sources keep what happens, a file a stream, for `aot streams logs`;
    null takes `logs` in an embedded store's folder, else ~/.local/share/aot-stream/logs."""
    max_bytes: ByteSize = Field(default=ByteSize(1_000_000), ge=0)
    """Of a stream's file, of which the last two are kept; 0 keeps none."""


class Settings(BaseSettings):
    """Everything that can be set."""

    model_config = SettingsConfigDict(
        env_prefix=ENV_PREFIX,
        env_nested_delimiter="__",
        env_parse_none_str="null",
        extra="forbid",
        frozen=True,
    )

    model: ModelSettings = ModelSettings()
    ingest: IngestSettings = IngestSettings()
    decode: DecodeSettings = DecodeSettings()
    live: LiveSourceSettings = LiveSourceSettings()
    streams: tuple[StreamSettings, ...] = ()
    store: StoreSettings = StoreSettings()
    spool: SpoolSettings = SpoolSettings()
    retention: RetentionSettings = RetentionSettings()
    ray: RaySettings = RaySettings()
    ask: AskSettings = AskSettings()
    serve: ServeSettings = ServeSettings()
    log: LogSettings = LogSettings()
    metrics: MetricsSettings = MetricsSettings()
    tracing: TracingSettings = TracingSettings()

    @field_validator("streams")
    @classmethod
    def _check_streams(cls, streams: tuple[StreamSettings, ...]) -> tuple[StreamSettings, ...]:
        names = [stream.name for stream in streams]
        if twice := sorted({name for name in names if names.count(name) > 1}):
            raise ValueError(f"got the stream {twice[0]} twice, expected each name once")
        return streams

    @model_validator(mode="after")
    def _check_cold(self) -> "Settings":
        if self.retention.cool_after is not None and self.store.cold is None:
            raise ValueError("retention.cool_after is set and store.cold is not; set where to")
        return self

    @classmethod
    def settings_customise_sources(
        cls,
        settings_cls: type[BaseSettings],
        init_settings: PydanticBaseSettingsSource,
        env_settings: PydanticBaseSettingsSource,
        dotenv_settings: PydanticBaseSettingsSource,
        file_secret_settings: PydanticBaseSettingsSource,
    ) -> tuple[PydanticBaseSettingsSource, ...]:
        """Given values come in through the initialiser, merged; see `load_settings`."""
        return (init_settings,)

    def store_config(self) -> StoreConfig:
        """See `StoreSettings.to_config`."""
        return self.store.to_config()

    def retention_rules(self) -> RetentionRules:
        """See `RetentionSettings.to_rules`."""
        return self.retention.to_rules()

    def spool_rules(self) -> SpoolRules | None:
        """Where endless sources' clips wait for the store; None where they do not."""
        spool = self.spool
        if not spool.max_bytes:
            return None
        folder = spool.folder or self._data_folder() / "spool"
        return SpoolRules(str(folder.expanduser()), int(spool.max_bytes))

    def stream_logs(self) -> StreamLogs | None:
        """Where what happens to endless sources is kept; None where it is not."""
        if not self.log.max_bytes:
            return None
        folder = self.log.folder or self._data_folder() / "logs"
        return StreamLogs(folder.expanduser(), int(self.log.max_bytes))

    def trace_settings(self) -> "TraceSettings | None":
        """Where traces go; None where nothing is traced."""
        from workers.tracing.open import TraceSettings

        tracing = self.tracing
        return None if tracing.endpoint is None else TraceSettings(tracing.endpoint, tracing.share)

    def _data_folder(self) -> Path:
        is_embedded = self.store.url.startswith("embedded:")
        return embedded_folder(self.store.url) if is_embedded else Path(DATA_FOLDER)

    def compress_settings(self) -> "CompressSettings":
        """What decides a clip's tokens."""
        from workers.compress import CompressSettings

        ingest, model = self.ingest, self.model
        return CompressSettings(
            model=model.id,
            revision=model.revision,
            device=model.device,
            dtype=model.dtype,
            reducer=ingest.reducer,
            retention=ingest.retention,
            clip_frames=ingest.clip_frames,
            constants=dict(ingest.constants),
            threads=self.ray.threads,
        )

    def answer_settings(self) -> "AnswerSettings":
        """What opens the language half."""
        from workers.answer import AnswerSettings

        model = self.model
        return AnswerSettings(
            model=model.id,
            revision=model.revision,
            device=model.device,
            dtype=model.dtype,
            together=self.serve.together,
            kept_bytes=int(model.kept_prompts),
            engine=model.engine,
        )

    def answer_place(self) -> "AnswerPlace":
        """Where in a cluster the language half is loaded: as the compress workers are, or apart."""
        from workers.cluster.cluster import AnswerPlace

        ray = self.ray
        own = ray.answer_resources
        return AnswerPlace(
            cpus=ray.worker_cpus if ray.answer_cpus is None else ray.answer_cpus,
            gpus=ray.worker_gpus if ray.answer_gpus is None else ray.answer_gpus,
            resources=dict(ray.worker_resources if own is None else own),
            ready_timeout_s=ray.ready_timeout_s,
        )

    def cluster_settings(self) -> "ClusterSettings":
        """Which cluster, and how sessions are placed on it."""
        from workers.cluster.cluster import ClusterSettings

        names = ("address", "num_cpus", "object_store_bytes", "local_port", "connect_timeout_s")
        names += ("session_cpus", "session_resources", "session_restarts")
        return ClusterSettings(**{name: getattr(self.ray, name) for name in names})

    def pool_settings(self) -> "PoolSettings":
        """The compress workers of a cluster."""
        from workers.cluster.cluster import PoolSettings

        names = ("workers", "worker_cpus", "worker_gpus", "worker_resources", "clips_in_flight")
        names += ("ready_timeout_s", "result_timeout_s", "lost_timeout_s")
        ray = self.ray
        most = max(ray.workers, ray.max_workers or ray.workers)
        given = {name: getattr(ray, name) for name in names}
        return PoolSettings(**given, most=most, idle_after_s=ray.workers_idle)
