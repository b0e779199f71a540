"""What the service counts of itself, for Prometheus."""

import prometheus_client as prometheus

from pipeline.ask.answer import Answer

SECONDS = (0.005, 0.02, 0.1, 0.5, 2, 10, 60)


class ServiceMetrics:
    """Counters of one service, in a registry of their own."""

    content_type = prometheus.CONTENT_TYPE_LATEST

    def __init__(self) -> None:
        self.registry = prometheus.CollectorRegistry()
        self.requests = prometheus.Counter(
            "aot_http_requests", "Requests answered.", ["route", "status"], registry=self.registry
        )
        self.seconds = prometheus.Histogram(
            "aot_http_first_byte_seconds",
            "From a request to the first byte of its answer.",
            ["route"],
            buckets=SECONDS,
            registry=self.registry,
        )
        self.open_questions = prometheus.Gauge(
            "aot_open_questions", "Waiting or being answered.", registry=self.registry
        )
        self.visual_tokens = prometheus.Counter(
            "aot_visual_tokens_read", "Visual tokens read for answers.", registry=self.registry
        )
        self.first_token = prometheus.Histogram(
            "aot_first_token_seconds",
            "From a question to its first text, its wait included.",
            buckets=SECONDS,
            registry=self.registry,
        )
        self.wait = prometheus.Histogram(
            "aot_question_wait_seconds",
            "What a question waited for its turns.",
            buckets=SECONDS,
            registry=self.registry,
        )
        self.retrieval = prometheus.Histogram(
            "aot_retrieval_seconds",
            "Index and clips of a question, its wait not included.",
            buckets=SECONDS,
            registry=self.registry,
        )

        self.windows_found = prometheus.Gauge(
            "aot_kept_windows_found",
            "Questions so far whose merged window was kept from one before.",
            registry=self.registry,
        )

    def count(self, answer: Answer) -> None:
        """What an answer took."""
        timings = answer.timings
        self.visual_tokens.inc(answer.visual_tokens)
        self.first_token.observe(timings.first_token_s)
        self.wait.observe(timings.wait_s)
        self.retrieval.observe(timings.index_s + timings.load_s)

    def expose(self) -> bytes:
        """All of it, as Prometheus reads it."""
        return prometheus.generate_latest(self.registry)
