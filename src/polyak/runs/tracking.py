"""Trackers: metric lines go to wandb, mlflow or trackio from a thread of their own, and training never waits for it.

A service that is not installed, cannot be reached or fails is one line on stderr; the run goes on, and everything
that would have been sent is in its folder anyway. A run folder never says that it is tracked: who only opens
somebody's folder opens no connection.
"""

import contextlib
import importlib.util
import netrc
import os
import queue
import socket
import threading
import urllib.parse
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any, NamedTuple

from polyak.errors import said_by
from polyak.files import place
from polyak.runs.folder import finite
from polyak.runs.plan import Plan, flattened
from polyak.runs.values import plain

PROJECT = "polyak"
MOST_WAITING = 10_000  # lines that wait to be sent; later ones are left out
PATIENCE = 10.0  # seconds that the end of a run waits for what was not sent yet
REACH_SECONDS = 3.0  # until a service counts as out of reach
MOST_WORDS = 250  # characters of a setting's value: mlflow takes no more


class Service(NamedTuple):
    """A service in which a run was begun."""

    log: Callable[[dict[str, float], int], Any]  # values by name, and their place in the run
    end: Callable[[], Any]


class Told(NamedTuple):
    """What a service is told of a run when it begins."""

    name: str
    settings: dict[str, Any]
    folder: Path | None
    warn: Callable[[str], Any]
    unit: str  # of places in the run: env_steps, or updates where no step is taken


def begin_wandb(told: Told) -> Service:
    """A run of Weights & Biases; on disk only where nobody is logged in or nothing can be reached."""
    import wandb  # pyright: ignore[reportMissingImports]

    url = os.environ.get("WANDB_BASE_URL", "https://api.wandb.ai")
    mode, why = os.environ.get("WANDB_MODE"), ""
    if mode is None and not (os.environ.get("WANDB_API_KEY") or has_login(url)):
        mode, why = "offline", "nobody is logged in (wandb login)"
    elif mode is None and not reachable(url):
        mode, why = "offline", f"{url} cannot be reached"
    where = (
        {} if told.folder is None else {"dir": str(told.folder), "id": told.folder.name, "resume": "allow"}
    )
    run = wandb.init(
        project=os.environ.get("WANDB_PROJECT", PROJECT),
        name=told.name,
        config=told.settings,
        mode=mode,
        settings=wandb.Settings(console="off", silent=True),
        **where,
    )
    run.define_metric(told.unit)
    run.define_metric("*", step_metric=told.unit)  # a resumed run may go back
    if why:
        told.warn(f"--track wandb: {why}; what is logged is kept in {run.dir}, and `wandb sync` sends it")
    return Service(lambda values, step: run.log({**values, told.unit: step}), run.finish)


def begin_mlflow(told: Told) -> Service:
    """A run of MLflow, where its tracking URI says."""
    import mlflow  # pyright: ignore[reportMissingImports]

    uri = mlflow.get_tracking_uri()
    if uri.startswith("http") and not reachable(uri):
        raise ConnectionError(f"{uri} cannot be reached")
    if "MLFLOW_EXPERIMENT_NAME" not in os.environ and "MLFLOW_EXPERIMENT_ID" not in os.environ:
        mlflow.set_experiment(PROJECT)
    mlflow.start_run(run_name=told.name)
    mlflow.log_params({name: str(value)[:MOST_WORDS] for name, value in told.settings.items()})

    def log(values: dict[str, float], step: int) -> None:
        mlflow.log_metrics(values, step=step)

    return Service(log, mlflow.end_run)


def begin_trackio(told: Told) -> Service:
    """A run of Trackio, on this machine unless its own settings say otherwise."""
    import trackio  # pyright: ignore[reportMissingImports]

    trackio.init(project=PROJECT, name=told.name, config=told.settings, resume="allow")
    return Service(lambda values, step: trackio.log(values, step=step), trackio.finish)


SERVICES: Mapping[str, Callable[[Told], Service]] = {
    "wandb": begin_wandb,
    "mlflow": begin_mlflow,
    "trackio": begin_trackio,
}


class Tracker:
    """A sink that hands each line on, to another sink at once and to a service when that is ready."""

    def __init__(self, service: str, sink: Any, told: Told, many: bool):
        self.service, self.sink, self.told, self.many = service, sink, told, many
        self.waiting: queue.Queue[tuple[dict[str, float], int] | None] = queue.Queue(MOST_WAITING)
        self.dropped, self.off = 0, False
        self.thread = threading.Thread(target=self._send, name=f"polyak-{service}", daemon=True)
        self.thread.start()

    def write(self, line: dict[str, Any]) -> None:
        """One metric line of one seed."""
        self.sink.write(line)
        if self.off:
            return
        seed = f"/seed_{line['seed']}" if self.many else ""
        values = {
            f"{name}{seed}": value
            for name, value in finite(line).items()
            if "/" in name and not name.startswith("time/") and value is not None
        }
        try:
            self.waiting.put_nowait((values, int(place(line))))
        except queue.Full:
            self.dropped += 1

    def flush(self) -> None:
        """Flush the other sink; the service has its own time."""
        self.sink.flush()

    def close(self) -> None:
        """Close the other sink."""
        self.sink.close()

    def end(self) -> None:
        """Wait a little for what was not sent yet, and say what was left."""
        with contextlib.suppress(queue.Full):
            self.waiting.put_nowait(None)
        self.thread.join(PATIENCE)
        left = self.dropped + (self.waiting.qsize() if self.thread.is_alive() else 0)
        if not self.off and (left or self.thread.is_alive()):
            self._say(f"{left:,} lines were not sent in time; the run's folder has them")

    def _send(self) -> None:
        """Begin a run in the service and send lines to it until the end, or until it fails."""
        try:
            service = SERVICES[self.service](self.told)
            while (item := self.waiting.get()) is not None:
                service.log(*item)
            service.end()
        except BaseException as error:  # SystemExit too: whatever it is, it is the service's
            self.off = True
            self._say(f"nothing is sent any more, training goes on: {said_by(error, 200)}")

    def _say(self, text: str) -> None:
        self.told.warn(f"--track {self.service}: {text}")


@contextlib.contextmanager
def tracking(
    service: str | None, sink: Any, plan: Plan, folder: Path | None, warn: Callable[[str], Any]
) -> Iterator[Any]:
    """The sink itself, or one that sends what it is given to a service too, until the end of the body."""
    if service is not None and importlib.util.find_spec(service) is None:
        warn(f"--track {service}: it is not installed, and training goes on without: pip install {service}")
        service = None
    if service is None:
        yield sink
        return
    name = f"{plan.algorithm}-{plan.env}" if folder is None else folder.name
    unit = "updates" if plan.updates else "env_steps"
    told = Told(name, flattened(plain(plan)), folder, warn, unit)
    tracker = Tracker(service, sink, told, plan.seeds > 1)
    try:
        yield tracker
    finally:
        tracker.end()


def has_login(url: str) -> bool:
    """Whether this user's netrc knows the host of an address."""
    try:
        return netrc.netrc().authenticators(urllib.parse.urlsplit(url).hostname or "") is not None
    except (OSError, netrc.NetrcParseError):
        return False


def reachable(url: str) -> bool:
    """Whether something answers at an address, within seconds."""
    parts = urllib.parse.urlsplit(url)
    port = parts.port or (443 if parts.scheme == "https" else 80)
    try:
        socket.create_connection((parts.hostname or "", port), REACH_SECONDS).close()
    except OSError:
        return False
    return True
