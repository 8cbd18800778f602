"""Metrics for Prometheus, as text: those of this process, or of all processes of one worker, and the depth of the queues."""

from __future__ import annotations

import os
import shutil
import socket
import tempfile
import threading
import time
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any
from wsgiref.simple_server import WSGIRequestHandler, make_server

import psycopg

from absurd import telemetry
from absurd.db import connect, run
from absurd.errors import AbsurdError, ConfigurationError
from absurd.queries.activity import QueueMetrics, queue_metrics

if TYPE_CHECKING:
    from prometheus_client import CollectorRegistry
    from prometheus_client.core import Metric

# Seconds for which what was read of the queues serves everybody who asks.
CACHE_SECONDS = 5.0
# The part of the time that is spent on reading at most: with millions of living tasks one look takes seconds.
SHARE = 0.05
# prometheus_client finds the files of other processes by this variable; it has to be set before it is imported.
DIRECTORY_VARIABLE = "PROMETHEUS_MULTIPROC_DIR"


class QueueCollector:
    """Reads the queues when somebody asks for metrics, at most every few seconds. From any thread."""

    def __init__(self, url: str) -> None:
        self._url = url
        self._lock = threading.Lock()
        self._conn: psycopg.Connection[Any] | None = None
        self._rows: list[QueueMetrics] | None = None
        self._took = 0.0
        self._fresh_until = 0.0

    def collect(self) -> Iterator[Metric]:
        """The metrics, for a registry of prometheus_client."""
        from prometheus_client.core import GaugeMetricFamily

        with self._lock:
            if time.monotonic() >= self._fresh_until:
                self._read()
            rows, took = self._rows, self._took
        yield GaugeMetricFamily("absurd_database_up", "Whether the queues could be read.", value=rows is not None)
        yield GaugeMetricFamily("absurd_queue_read_seconds", "Time that the last look at the queues took.", value=took)
        tasks = GaugeMetricFamily("absurd_queue_tasks", "Living tasks.", labels=["queue", "state"])
        oldest = GaugeMetricFamily(
            "absurd_queue_oldest_seconds",
            "Age of the oldest: pending, since it became ready; running, since its attempt began; sleeping, since it was due.",
            labels=["queue", "state"],
        )
        paused = GaugeMetricFamily("absurd_queue_paused", "Whether the queue is paused.", labels=["queue"])
        workers = GaugeMetricFamily("absurd_queue_workers", "Living workers that serve the queue.", labels=["queue"])
        for row in rows or ():
            for state, count, age in (
                ("pending", row.pending, row.oldest_ready),
                ("running", row.running, row.oldest_running),
                ("sleeping", row.sleeping, row.overdue),
            ):
                tasks.add_metric([row.queue_name, state], count)
                oldest.add_metric([row.queue_name, state], age)
            paused.add_metric([row.queue_name], row.paused)
            workers.add_metric([row.queue_name], row.workers)
        yield from (tasks, oldest, paused, workers)

    def describe(self) -> Iterator[Metric]:
        """Nothing: whoever registers it must not have to reach the database for that."""
        return iter(())

    def close(self) -> None:
        """Closes the connection."""
        with self._lock:
            self._disconnect()

    def _read(self) -> None:
        began = time.monotonic()
        try:
            if self._conn is None or self._conn.closed:
                self._conn = connect(self._url, application_name="absurd metrics")
            self._rows = run(self._conn, queue_metrics())
        except (AbsurdError, psycopg.Error):
            # The next look connects anew; absurd_database_up says it.
            self._rows = None
            self._disconnect()
        self._took = time.monotonic() - began
        self._fresh_until = time.monotonic() + max(CACHE_SECONDS, self._took / SHARE)

    def _disconnect(self) -> None:
        if self._conn is not None:
            self._conn.close()
            self._conn = None


class ProcessesCollector:
    """The metrics of all processes that keep theirs in a directory. From any thread."""

    def __init__(self, path: str) -> None:
        self._path = path

    def collect(self) -> Iterable[Metric]:
        """The metrics, for a registry of prometheus_client."""
        from prometheus_client.multiprocess import MultiProcessCollector

        # A file that a process makes at this moment is empty, which prometheus_client's own collector does not survive; one whose
        # process was killed then stays so.
        files = [str(path) for path in Path(self._path).glob("*.db") if _size(path) > 0]
        found: Iterable[Metric] = MultiProcessCollector.merge(files, accumulate=True)  # type: ignore[no-untyped-call]
        return found

    def describe(self) -> Iterator[Metric]:
        """Nothing is known before it is collected."""
        return iter(())


def _size(path: Path) -> int:
    try:
        return path.stat().st_size
    except FileNotFoundError:  # the file of a process that has ended
        return 0


class Exposition:
    """What stands at ``/metrics``."""

    def __init__(self, url: str, *, queues: bool = True) -> None:
        """Turns on the metrics of this process. ``url`` is that of the database, from which the depth of the queues is read.

        Raises:
            ConfigurationError: prometheus_client is not installed.
        """
        telemetry.instrument_metrics()
        from prometheus_client import REGISTRY, CollectorRegistry

        self._queues = QueueCollector(url) if queues else None
        self._registries: list[CollectorRegistry] = [REGISTRY]
        if DIRECTORY_VARIABLE in os.environ:
            # Those of all processes, this one included.
            self._registries = [CollectorRegistry()]
            self._registries[0].register(ProcessesCollector(os.environ[DIRECTORY_VARIABLE]))
        if self._queues is not None:
            self._registries.append(CollectorRegistry())
            self._registries[-1].register(self._queues)

    def text(self) -> tuple[bytes, str]:
        """The metrics in the text format of Prometheus, and its content type."""
        from prometheus_client import CONTENT_TYPE_LATEST, generate_latest

        return b"".join(generate_latest(registry) for registry in self._registries), CONTENT_TYPE_LATEST

    def close(self) -> None:
        """Closes the connection to the database."""
        if self._queues is not None:
            self._queues.close()


class _Silent(WSGIRequestHandler):
    def log_message(self, format: str, *args: Any) -> None:  # noqa: A002
        """Scrapes are no news."""


class MetricsServer:
    """``/metrics`` on a port of its own, served by a thread."""

    def __init__(self, exposition: Exposition, host: str, port: int) -> None:
        """Listens.

        Raises:
            ConfigurationError: the port cannot be listened on.
        """
        from prometheus_client.exposition import ThreadingWSGIServer

        class Server(ThreadingWSGIServer):
            address_family = socket.AF_INET6 if ":" in host else socket.AF_INET

        self._exposition = exposition
        try:
            self._server = make_server(host, port, self._answer, Server, handler_class=_Silent)
        except OSError as error:
            raise ConfigurationError(
                f"cannot serve metrics on {host}, port {port}: {error.strerror or error}; "
                "choose with --metrics-host and --metrics-port"
            ) from None
        self.port: int = self._server.server_port
        self._thread = threading.Thread(target=self._server.serve_forever, name="absurd-metrics", daemon=True)

    def start(self) -> None:
        """Answers from now on."""
        self._thread.start()

    def stop(self) -> None:
        """Ends it."""
        self._server.shutdown()
        self._server.server_close()
        self._exposition.close()

    def _answer(self, environ: dict[str, Any], start_response: Any) -> list[bytes]:
        if environ.get("PATH_INFO") not in ("/metrics", "/"):
            start_response("404 Not Found", [("Content-Type", "text/plain")])
            return [b"the metrics are at /metrics\n"]
        body, content_type = self._exposition.text()
        start_response("200 OK", [("Content-Type", content_type)])
        return [body]


class ProcessDirectory:
    """Where processes keep their metrics for the one that serves them; a context manager, entered before they are started."""

    def __enter__(self) -> ProcessDirectory:
        self._path = tempfile.mkdtemp(prefix="absurd-metrics-")
        os.environ[DIRECTORY_VARIABLE] = self._path
        return self

    def __exit__(self, *exc_info: object) -> None:
        os.environ.pop(DIRECTORY_VARIABLE, None)
        shutil.rmtree(self._path, ignore_errors=True)

    def ended(self, pid: int) -> None:
        """A process has ended: what it has now is gone, what it has done still counts."""
        from prometheus_client import multiprocess

        multiprocess.mark_process_dead(pid, self._path)  # type: ignore[no-untyped-call]
