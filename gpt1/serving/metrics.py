"""Prometheus metrics of a server, in a separate registry."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, generate_latest

from gpt1.serving.engine import Engine
from gpt1.serving.text_queue import StepFacts

LATENCIES = (0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30, 60, 120, 300)
SIZES = (1, 2, 4, 8, 16, 32, 64, 128, 256, 512)


class Metrics:
    """Metrics of the server. Tokens per second are the rate of `gpt1_tokens_total`."""

    def __init__(self) -> None:
        self.registry = CollectorRegistry()
        counter, gauge = partial(Counter, registry=self.registry), partial(Gauge, registry=self.registry)
        times = partial(Histogram, registry=self.registry, buckets=LATENCIES)
        sizes = partial(Histogram, registry=self.registry, buckets=SIZES)
        self.requests = counter("gpt1_requests", "Requests by endpoint and status.", ["endpoint", "status"])
        self.seconds = times("gpt1_request_seconds", "Time of a request.", ["endpoint"])
        self.first_token = times("gpt1_first_token_seconds", "Time from a request to its first token.", ["model"])
        self.in_flight = gauge("gpt1_requests_in_flight", "Requests that are not answered yet.")
        self.accepted = gauge("gpt1_queue", "Texts and rows that are accepted and not finished.", ["model"])
        self.tokens = counter("gpt1_tokens", "Tokens: generated, computed or shared.", ["model", "kind"])
        self.batch = sizes("gpt1_batch_size", "Texts or rows of a step.", ["model"])
        self.step = times("gpt1_step_seconds", "Time of a step of the model.", ["model"])

    def observer(self, model: str) -> Callable[[StepFacts], None]:
        """Counts the steps of a model."""
        counts = {kind: self.tokens.labels(model, kind) for kind in ("generated", "computed", "shared")}
        batch, step = self.batch.labels(model), self.step.labels(model)

        def observe(facts: StepFacts) -> None:
            counts["generated"].inc(facts.new_tokens)
            counts["computed"].inc(facts.computed_tokens)
            counts["shared"].inc(facts.shared_tokens)
            batch.observe(facts.sequences)
            step.observe(facts.seconds)

        return observe

    def watch_queue(self, model: str, engine: Engine) -> None:
        self.accepted.labels(model).set_function(lambda: engine.accepted)

    def page(self) -> bytes:
        """The metrics in Prometheus' text format."""
        return generate_latest(self.registry)
