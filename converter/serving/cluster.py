"""The same application on Ray Serve: replicas with models of their own, behind Ray's proxy.

Ray is imported when it is started, as its settings are read from the environment then.
"""

from __future__ import annotations

import logging
import ssl
import time
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass
from typing import Any

from starlette.datastructures import MutableHeaders
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from converter.errors import UserError
from converter.ray_cluster import RayOptions, Replicas, ray_running, resources
from converter.serving.access import Access
from converter.serving.front import front
from converter.serving.lifecycle import Addresses, Certificate, listen
from converter.serving.limits import Limits
from converter.serving.logs import log_as_json
from converter.serving.model import ModelFile
from converter.serving.request_ids import HEADER
from converter.serving.server import Server

APPLICATION = "convert-vae"

BESIDES = 64
"""Requests to a replica that are neither computed nor queued: health, metadata, refusals."""

HEALTH_PERIOD = 3.0
"""Seconds between two looks at a replica, and so until one that died is replaced."""

ONGOING = 2.0
"""Requests a replica should have, for Ray's autoscaling: one that runs, and one that waits."""

_QUIET = {"log_level": "WARNING", "enable_access_log": False}


@dataclass(frozen=True)
class Deployment:
    """What is to run on Ray; every node must have the files at the paths named."""

    files: tuple[ModelFile, ...]
    limits: Limits
    access: Access
    replicas: Replicas
    grace: float


class Replica:
    """A deployment class of Ray Serve: in each process the models, their queues, the application.

    Ray asks it for its health, and replaces it when it is not well, or has died.
    """

    def __init__(self, deployment: Deployment) -> None:
        from ray import serve

        log_as_json(logging.INFO)
        self._access = deployment.access
        models = [file.open() for file in deployment.files]
        name = serve.get_replica_context().replica_id.unique_id
        self._server = Server(models, deployment.limits, name)

    def __serve_build_asgi_app__(self) -> ASGIApp:
        return _for_ray(front(self._server, self._access))

    def check_health(self) -> None:
        """Raises where a graph goes on that should have ended, as on a device that hangs."""
        self._server.check_health()


def serve_on_ray(
    deployment: Deployment,
    addresses: Addresses,
    certificate: Certificate | None,
    options: RayOptions,
    wait: Callable[[int], None],
) -> bool:
    """Serve on Ray until `wait` returns, then finish what was taken.

    Args:
        deployment: What runs.
        addresses: Where Ray's proxy listens; gRPC is not served.
        certificate: For TLS; each node must have the files.
        options: Of the cluster, where there is none yet.
        wait: Called with the HTTP port once the replicas are ready.

    Returns:
        Whether all that was taken was finished within the grace time.

    Raises:
        UserError: Ray is not installed or does not start, the port is taken, a replica does not
            start, the cluster has no room for so many, or serves something already.
    """
    port = _free_port(addresses)
    _ssl_options(certificate)  # before Ray takes its time to start
    with ray_running(options) as own:
        from ray import serve

        logging.getLogger("ray.serve").setLevel(logging.WARNING)
        needs = resources(deployment.replicas, [file.provider for file in deployment.files])
        if serve.status().proxies:
            raise UserError(
                "Ray Serve runs on that cluster already, and listens where it was told to first; "
                "end it by `serve shutdown`, or take another cluster."
            )
        http = {"host": addresses.host, "port": port, **_ssl_options(certificate)}
        serve.start(http_options=http, logging_config=_QUIET)
        try:
            try:
                serve.run(_bound(deployment, needs), name=APPLICATION, logging_config=_QUIET)
            except RuntimeError as error:
                raise UserError(f"Ray could not start the replicas: {_last_line(error)}") from error
            wait(port)
        finally:
            finished = _stop(deployment.grace, own)
    return finished


def _bound(deployment: Deployment, needs: dict[str, int]) -> Any:
    from ray import serve

    queued = (deployment.limits.queue + 1) * len(deployment.files)
    made = serve.deployment(
        name=APPLICATION,
        ray_actor_options=needs,
        max_ongoing_requests=queued + BESIDES,
        autoscaling_config={
            "min_replicas": deployment.replicas.least,
            "max_replicas": deployment.replicas.most,
            "target_ongoing_requests": ONGOING,
        },
        health_check_period_s=HEALTH_PERIOD,
        graceful_shutdown_timeout_s=deployment.grace,
        graceful_shutdown_wait_loop_s=0.2,
    )(serve.ingress()(Replica))
    return made.bind(deployment)


def _stop(grace: float, own: bool) -> bool:
    """Let the replicas finish, then end them; whether that was within the grace time.

    Of a cluster that others may use, Serve's own processes end if nothing else is served there.
    """
    from ray import serve

    begun = time.monotonic()
    # Ray waits for a minute at most.
    while time.monotonic() - begun <= grace + 10:
        with suppress(TimeoutError):
            serve.delete(APPLICATION)
            break
    finished = time.monotonic() - begun <= grace
    if not own and not serve.status().applications:
        serve.shutdown()
    return finished


def _free_port(addresses: Addresses) -> int:
    """The port, which is free now; for 0 one that is."""
    with listen(addresses.host, addresses.http_port or 0) as listener:
        port: int = listener.getsockname()[1]
    return port


def _ssl_options(certificate: Certificate | None) -> dict[str, str]:
    """Ray's options of TLS; raises `UserError` where the certificate does not load."""
    if certificate is None:
        return {}
    chain, key = (str(file.absolute()) for file in (certificate.chain, certificate.key))
    try:
        ssl.create_default_context(ssl.Purpose.CLIENT_AUTH).load_cert_chain(chain, key)
    except OSError as error:
        raise UserError(f"the certificate or its key does not load: {error}.") from error
    return {"ssl_certfile": chain, "ssl_keyfile": key}


def _last_line(error: Exception) -> str:
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    return lines[-1] if lines else type(error).__name__


def _for_ray(application: ASGIApp) -> ASGIApp:
    """The application as Ray's proxy wants it.

    A replica's bodies pass to the proxy by pickle, so they must be bytes. The proxy itself gives
    a request without an id a new one, and the answer the header with it.
    """

    async def call(scope: Scope, receive: Receive, send: Send) -> None:
        async def send_plain(message: Message) -> None:
            if message["type"] == "http.response.start":
                del MutableHeaders(scope=message)[HEADER]
            elif isinstance(message.get("body"), memoryview):
                message = {**message, "body": bytes(message["body"])}
            await send(message)

        await application(scope, receive, send_plain)

    return call
