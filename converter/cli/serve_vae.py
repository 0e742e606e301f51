"""`serve-vae MODEL [MODEL ...]`."""

from __future__ import annotations

import asyncio
import logging
import os
import signal
import sys
import threading
from pathlib import Path
from typing import Any

import click
from click.core import ParameterSource

from converter.cli.common import (
    EXIT_DIFFERENT,
    EXIT_EQUAL,
    exit_codes,
    provider_choice,
    read_token,
    session_settings,
)
from converter.cli.ray_options import is_loopback, parse_replicas
from converter.errors import UserError
from converter.ray_cluster import RayOptions
from converter.version import VERSION

MEBIBYTE = 1 << 20
UNFINISHED = EXIT_DIFFERENT


@click.command(context_settings={"help_option_names": ["-h", "--help"]})
@click.argument("models", nargs=-1, required=True, type=click.Path(path_type=Path))
@click.option(
    "--name",
    "names",
    multiple=True,
    help="Name of a model for its clients, once for each in their order. Default: its file's.",
)
@click.option("--host", default="127.0.0.1", show_default=True, help="Address to listen on.")
@click.option(
    "--http-port",
    type=click.IntRange(0, 65535),
    default=8000,
    show_default=True,
    help="0 takes a free one.",
)
@click.option(
    "--grpc-port",
    type=click.IntRange(0, 65535),
    default=8001,
    show_default=True,
    help="0 takes a free one.",
)
@provider_choice()
@click.option(
    "--queue",
    type=click.IntRange(min=0),
    default=16,
    show_default=True,
    help="Requests that may wait for a model while one runs; the next one is told to come back.",
)
@click.option(
    "--timeout",
    type=click.FloatRange(min=0, min_open=True),
    default=600.0,
    show_default=True,
    help="Seconds that a client waits for a result, the queue included.",
)
@click.option(
    "--max-request",
    type=click.IntRange(min=1),
    default=1024,
    show_default=True,
    help="MiB that a request may have, decompressed.",
)
@click.option(
    "--max-response",
    type=click.IntRange(min=1),
    default=4096,
    show_default=True,
    help="MiB that a response may have.",
)
@click.option("--tls-cert", type=click.Path(path_type=Path), help="Certificate chain, PEM.")
@click.option("--tls-key", type=click.Path(path_type=Path), help="Its private key, PEM.")
@click.option(
    "--token-file",
    type=click.Path(path_type=Path),
    help="File with a token that clients must send as Authorization: Bearer TOKEN.",
)
@click.option(
    "--grace",
    type=click.FloatRange(min=0),
    default=600.0,
    show_default=True,
    help="Seconds to finish what was taken, once told to stop by SIGTERM or Ctrl-C.",
)
@click.option("--ray", is_flag=True, help="Serve on Ray Serve, over HTTP.")
@click.option(
    "--replicas",
    metavar="N|N..M",
    help="With --ray: processes that serve; with 1..4 as many as the load needs. Default: 1.",
)
@click.option("--dashboard", is_flag=True, help="With --ray: Ray's dashboard, on 127.0.0.1:8265.")
@click.option("--debug", is_flag=True, help="Show a traceback with an error.")
@click.version_option(VERSION)
@exit_codes
def main(
    models: tuple[Path, ...],
    names: tuple[str, ...],
    provider: str,
    provider_options: tuple[str, ...],
    strict_provider: bool,
    token_file: Path | None,
    tls_cert: Path | None,
    tls_key: Path | None,
    ray: bool,
    replicas: str | None,
    dashboard: bool,
    debug: bool,
    **options: Any,
) -> int:
    """Serve decoders by the Open Inference Protocol V2, over HTTP and gRPC.

    A MODEL is an ONNX graph, or the manifest of a decoder in stream form. Clients of Triton and
    KServe speak the protocol. The log is JSON, one object a line, on stderr.

    With --ray each replica has the models and a queue of its own. Ray starts anew on this machine,
    or, where RAY_ADDRESS names a cluster, there: then every node needs the same files.

    Exit code: 0 stopped with all finished that was taken; 1 the grace time was over before that; 2
    the input or the usage is wrong.
    """
    if names and len(names) != len(models):
        raise UserError(f"{len(models)} models, but {len(names)} names: give --name for each.")
    settings = session_settings(provider_options, strict_provider)
    token = read_token(token_file)
    scale = parse_replicas(replicas) if ray else None
    if ray:
        _check_ray(options["host"], token)
    elif replicas is not None or dashboard:
        raise UserError("--replicas and --dashboard are for --ray; give it, or leave them out.")
    parts = _serving()
    access = parts.Access(token)
    certificate = _certificate(parts, tls_cert, tls_key)
    addresses = parts.Addresses(options["host"], options["http_port"], options["grpc_port"])
    files = [
        parts.ModelFile(path.absolute() if ray else path, name, provider, settings)
        for path, name in zip(models, names or [None] * len(models), strict=True)
    ]
    limits = parts.Limits(
        request=options["max_request"] * MEBIBYTE,
        response=options["max_response"] * MEBIBYTE,
        timeout=options["timeout"],
        queue=options["queue"],
    )
    opened = [file.open() for file in files]
    server = parts.Server(opened, limits)
    for model in opened:
        click.echo(f"{model.name}: {model.description}", err=True)
    if scale is None:
        return _here(parts, server, addresses, access, certificate, options["grace"])
    del opened, server, model  # the replicas have their own
    deployment = parts.Deployment(tuple(files), limits, access, scale, options["grace"])
    return _on_ray(parts, deployment, addresses, certificate, RayOptions(dashboard))


def _here(
    parts: Any, server: Any, addresses: Any, access: Any, certificate: Any, grace: float
) -> int:
    parts.log_as_json(logging.INFO)

    async def serve() -> None:
        serving = parts.Serving(server, addresses, access, certificate, grace)
        loop = asyncio.get_running_loop()
        for number in (signal.SIGTERM, signal.SIGINT):
            loop.add_signal_handler(number, serving.stop)
        await serving.start()
        host = addresses.host
        _say(
            f"serving on {_scheme(certificate)}://{host}:{serving.http_port} and, for gRPC, on "
            f"{host}:{serving.grpc_port}; SIGTERM or Ctrl-C stops"
        )
        if not await serving.until_stopped():
            # A node that computes cannot be ended, and Python would wait for its thread.
            logging.shutdown()
            sys.stderr.flush()
            os._exit(UNFINISHED)

    asyncio.run(serve())
    return EXIT_EQUAL


def _on_ray(
    parts: Any, deployment: Any, addresses: Any, certificate: Any, options: RayOptions
) -> int:
    stop = threading.Event()

    def wait(port: int) -> None:
        for number in (signal.SIGTERM, signal.SIGINT):
            signal.signal(number, lambda *_: stop.set())
        scale = deployment.replicas
        _say(
            f"serving on {_scheme(certificate)}://{addresses.host}:{port} by Ray, with {scale}; "
            "SIGTERM or Ctrl-C stops"
        )
        stop.wait()

    done = parts.serve_on_ray(deployment, addresses, certificate, options, wait)
    return EXIT_EQUAL if done else UNFINISHED


def _check_ray(host: str, token: str | None) -> None:
    """Raise `UserError` for what --ray does not do, and for an open door."""
    source = click.get_current_context().get_parameter_source("grpc_port")
    if source is not ParameterSource.DEFAULT:
        raise UserError("--grpc-port does not apply with --ray, which serves HTTP only.")
    if token is None and not is_loopback(host):
        raise UserError(
            f"--ray on {host} needs --token-file: whoever reaches that address could use it."
        )


def _say(sentence: str) -> None:
    click.echo(sentence, err=True)
    sys.stderr.flush()


def _scheme(certificate: Any) -> str:
    return "https" if certificate else "http"


def _serving() -> Any:
    """The server's parts; raises `UserError` naming the extra where a library is missing."""
    try:
        from converter.serving import parts
    except ImportError as error:
        raise UserError(
            f"serving needs {error.name}; install it by pip install 'convert-vae[serve]'."
        ) from error
    return parts


def _certificate(parts: Any, chain: Path | None, key: Path | None) -> Any:
    if chain is None and key is None:
        return None
    if chain is None or key is None:
        raise UserError("give both --tls-cert and --tls-key, or neither.")
    for file in (chain, key):
        if not file.is_file():
            raise UserError(f"{file} does not exist or is not a file.")
    return parts.Certificate(chain, key)


if __name__ == "__main__":
    main()
