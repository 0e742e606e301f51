"""`serve-vae MODEL [MODEL ...]`."""

from __future__ import annotations

import asyncio
import logging
import os
import signal
import sys
from pathlib import Path
from typing import Any

import click

from converter.cli.common import (
    EXIT_DIFFERENT,
    EXIT_EQUAL,
    exit_codes,
    provider_choice,
    read_token,
    session_settings,
)
from converter.errors import UserError
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
    debug: bool,
    **options: Any,
) -> int:
    """Serve decoders by the Open Inference Protocol V2, over HTTP and gRPC.

    A MODEL is an ONNX graph, or the manifest of a decoder in stream form. Clients of Triton and
    KServe speak the protocol. The log is JSON, one object a line, on stderr.

    Exit code: 0 stopped with all finished that was taken; 1 the grace time was over before that; 2
    the input or the usage is wrong.
    """
    if names and len(names) != len(models):
        raise UserError(f"{len(models)} models, but {len(names)} names: give --name for each.")
    settings = session_settings(provider_options, strict_provider)
    serving_parts = _serving()
    access = serving_parts.Access(read_token(token_file))
    certificate = _certificate(serving_parts, tls_cert, tls_key)
    opened = [
        serving_parts.open_model(path, name, provider, settings)
        for path, name in zip(models, names or [None] * len(models), strict=True)
    ]
    for model in opened:
        click.echo(f"{model.name}: {model.description}", err=True)
    limits = serving_parts.Limits(
        request=options["max_request"] * MEBIBYTE,
        response=options["max_response"] * MEBIBYTE,
        timeout=options["timeout"],
        queue=options["queue"],
    )
    serving_parts.log_as_json(logging.INFO)

    async def serve() -> None:
        addresses = serving_parts.Addresses(
            options["host"], options["http_port"], options["grpc_port"]
        )
        serving = serving_parts.Serving(
            serving_parts.Server(opened, limits), addresses, access, certificate, options["grace"]
        )
        loop = asyncio.get_running_loop()
        for number in (signal.SIGTERM, signal.SIGINT):
            loop.add_signal_handler(number, serving.stop)
        await serving.start()
        scheme = "https" if certificate else "http"
        host = options["host"]
        click.echo(
            f"serving on {scheme}://{host}:{serving.http_port} and, for gRPC, on "
            f"{host}:{serving.grpc_port}; SIGTERM or Ctrl-C stops",
            err=True,
        )
        sys.stderr.flush()
        if not await serving.until_stopped():
            # The thread of a graph that runs cannot be ended, and Python would wait for it.
            logging.shutdown()
            sys.stderr.flush()
            os._exit(UNFINISHED)

    asyncio.run(serve())
    return EXIT_EQUAL


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
