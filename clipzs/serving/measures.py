"""What the service counts and measures of itself, as Prometheus reads it."""

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, generate_latest
from prometheus_client.exposition import CONTENT_TYPE_PLAIN_0_0_4
from prometheus_client.process_collector import ProcessCollector

MEDIA_TYPE = CONTENT_TYPE_PLAIN_0_0_4
_SECONDS = (0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30, 60)
_IMAGES = (1, 2, 4, 8, 16, 32, 64, 128, 256)


class Measures:
    """Counters, gauges and histograms of one service."""

    def __init__(self) -> None:
        registry = self._registry = CollectorRegistry()
        self.requests = Counter(
            "clipzs_requests", "Requests that were answered.", ["route", "method", "status"], registry=registry
        )
        self.seconds = Histogram(
            "clipzs_request_seconds",
            "From the first byte of a request to the last of its answer.",
            ["route"],
            buckets=_SECONDS,
            registry=registry,
        )
        self.active = Gauge("clipzs_requests_active", "Requests being read or answered.", registry=registry)
        self.images = Counter(
            "clipzs_images",
            "Images, by what became of them: embedded by the model, known from the cache, or unreadable.",
            ["model", "outcome"],
            registry=registry,
        )
        self.batches = Histogram(
            "clipzs_batch_images",
            "Images in one pass through the model, of all clients together.",
            ["model"],
            buckets=_IMAGES,
            registry=registry,
        )
        self.model_seconds = Histogram(
            "clipzs_model_seconds",
            "Time in the model: a batch of images, or all new texts of a request.",
            ["model", "kind"],
            buckets=_SECONDS,
            registry=registry,
        )
        self.prompts = Counter("clipzs_prompts_encoded", "Prompts read by the model.", ["model"], registry=registry)
        self.waiting_images = Gauge("clipzs_waiting_images", "Images taken in and not answered yet.", registry=registry)
        self.waiting_bytes = Gauge(
            "clipzs_waiting_bytes", "Bytes of requests that are held in memory.", registry=registry
        )
        self.classifiers = Gauge(
            "clipzs_classifiers", "Sets of labels that are ready to be used.", ["model"], registry=registry
        )
        ProcessCollector(registry=registry)

    def text(self) -> bytes:
        """All of them, in Prometheus' text format."""
        return generate_latest(self._registry)
