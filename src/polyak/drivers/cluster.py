"""Ray: one of this run's own on this machine, which only it can reach, or a cluster that is there."""

import contextlib
import importlib
import importlib.util
import os
import secrets
import signal
import socket
import sys
import threading
import warnings
from collections.abc import Iterator
from typing import Any

from polyak.errors import UserError, brief, said_by
from polyak.temporary import TemporaryFolder

CONNECT_SECONDS = 5.0  # that the head of a cluster may take to be there
IN_CALL = 4 << 20  # bytes that travel inside a call, or its answer, instead of through the object store

SILENT = {
    "RAY_USAGE_STATS_ENABLED": "0",
    "RAY_worker_niceness": "0",
    "RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO": "0",
}
LOCAL = {  # read when Ray is imported: what listens, listens on loopback, and to who has the token
    "RAY_ENABLE_WINDOWS_OR_OSX_CLUSTER": "0",
    "RAY_AUTH_MODE": "token",
}


def check_ray(address: str | None = None) -> None:
    """UserError, one line, where Ray is not installed, or was imported in a way that leaves its ports open.

    address  of a cluster that is there, whose ports are its own business
    """
    if importlib.util.find_spec("ray") is None:
        raise UserError("--driver ray needs Ray, which is not installed: pip install 'polyak[ray]'")
    ours = (
        all(os.environ.get(name) == value for name, value in LOCAL.items()) and "RAY_AUTH_TOKEN" in os.environ
    )
    if "ray" in sys.modules and not ours and address is None:
        raise UserError(
            "ray is already imported in this process, so that its ports would be open to others: "
            "start the run in a process that has not imported it, or before it is imported"
        )


@contextlib.contextmanager
def undisturbed() -> Iterator[None]:
    """Ray neither prints, nor warns, nor takes over signals during the body."""
    main = threading.current_thread() is threading.main_thread()
    before = {number: signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)}
    try:
        with contextlib.redirect_stdout(sys.stderr), warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    finally:
        for number, handler in before.items() if main else ():
            signal.signal(number, handler)


def silence(*lines: Any, **more: Any) -> None:
    """Print nothing."""


class Cluster:
    """A connection to Ray: to one of its own on this machine, or to the one at `address`.

    Where this process has a connection already, that is used and stays.
    """

    def __init__(self, workers: int, address: str | None = None):
        self.folder: TemporaryFolder | None = None
        self.own = False
        self.in_call = 0  # bytes of an argument that need not be put first
        check_ray(address)
        if address is not None:
            check_address(address)
        os.environ.update(SILENT)
        if address is None:
            os.environ.update(LOCAL)
            os.environ.setdefault("RAY_AUTH_TOKEN", secrets.token_hex(32))
        with undisturbed():
            import ray

            # what its daemons have to say of a worker goes to stdout otherwise, whatever is asked for
            vars(importlib.import_module("ray._private.worker"))["print_to_stdstream"] = silence
            if ray.is_initialized():
                return
            self.own = True
            quiet: dict[str, Any] = {
                "log_to_driver": False,
                "configure_logging": False,
                "logging_level": "error",
            }
            try:
                if address is not None:
                    ray.init(address=address, **quiet)
                    return
                self.folder = TemporaryFolder()
                ray.init(
                    address="local",
                    num_cpus=workers,
                    include_dashboard=False,
                    _temp_dir=f"{self.folder.path}/r",  # which Ray opens to all; the one around it stays ours
                    _node_ip_address="127.0.0.1",
                    _system_config={"max_direct_call_object_size": IN_CALL},
                    **quiet,
                )
                self.in_call = IN_CALL
            except BaseException as error:
                self.close()
                if isinstance(error, Exception):
                    raise UserError(f"Ray did not start: {said_by(error)}") from error
                raise

    def close(self) -> None:
        """End what was begun: of Ray on this machine nothing is left."""
        import ray

        if self.own:
            with undisturbed():
                ray.shutdown()
        self.own = False
        if self.folder is not None:
            self.folder.close()


def check_address(address: str) -> None:
    """UserError where nobody listens at HOST:PORT."""
    host, _, port = address.rpartition(":")
    if not host or not port.isdecimal() or int(port) >= 2**16:
        raise UserError(f"--address is {brief(address)}, but must be HOST:PORT, as in 10.0.0.1:6379")
    try:
        socket.create_connection((host.strip("[]"), int(port)), CONNECT_SECONDS).close()
    except OSError as error:
        raise UserError(
            f"--address is {address}, where no Ray cluster answers ({error.strerror or said_by(error)}): "
            "start one with ray start --head"
        ) from error
