"""What tests of several folders share: small decoders, exported once a session."""

from __future__ import annotations

import gc
import json
import signal
from collections.abc import Callable
from pathlib import Path

import pytest
from hypothesis import HealthCheck, settings

if signal.getsignal(signal.SIGINT) == signal.SIG_IGN:
    # A shell ignores it in what runs in the background; some tests send it to their processes.
    signal.signal(signal.SIGINT, signal.default_int_handler)

settings.register_profile(
    "everywhere",
    derandomize=True,  # the same examples each time
    database=None,
    deadline=None,
    print_blob=True,
    suppress_health_check=[HealthCheck.too_slow, HealthCheck.function_scoped_fixture],
)
settings.load_profile("everywhere")


def pytest_collection_finish() -> None:
    """What is there before the first test stays, so no collection in a test need look at it."""
    gc.collect()
    gc.freeze()


LATENT = (1, 4, 3, 5, 4)
"""Of the static graphs: no two sizes alike but those of all families."""


@pytest.fixture(scope="session")
def small_source(tmp_path_factory: pytest.TempPathFactory) -> Callable[..., Path]:
    """A function name of a family -> folder with the configuration of its small decoder.

    With `encoder=True`, of a small autoencoder that encodes, too.
    """
    from models.source import FAMILIES
    from tests.small_families import SMALL, WITH_ENCODER

    root = tmp_path_factory.mktemp("sources")

    def source(name: str, *, encoder: bool = False) -> Path:
        folder = root / (f"{name}-encoder" if encoder else name)
        if not folder.exists():
            folder.mkdir()
            upstream = next(f.upstream.__name__ for f in FAMILIES if f.name == name)
            config = (WITH_ENCODER if encoder else SMALL)[name] | {"_class_name": upstream}
            (folder / "config.json").write_text(json.dumps(config))
        return folder

    return source


@pytest.fixture(scope="session")
def small_clip(
    tmp_path_factory: pytest.TempPathFactory, small_source: Callable[..., Path]
) -> Callable[..., Path]:
    """A function (name of a family, dynamic=False) -> its small decoder's graph, of `LATENT`.

    Exported when first asked for (1 to 7 s, dynamic 4 to 17 s), and not compared with upstream.
    """
    from converter.export import export

    root = tmp_path_factory.mktemp("clips")

    def clip(name: str, *, dynamic: bool = False) -> Path:
        path = root / f"{name}{'-dynamic' if dynamic else ''}.onnx"
        if not path.exists():
            export(
                str(small_source(name)), path, seed=0, latent=LATENT, dynamic=dynamic, check=False
            )
        return path

    return clip


@pytest.fixture(scope="session")
def small_stream(
    tmp_path_factory: pytest.TempPathFactory, small_source: Callable[..., Path]
) -> Callable[[int], Path]:
    """A function chunk -> the manifest of Wan's small decoder in stream form, made as above."""
    from converter.export_stream import export_stream

    root = tmp_path_factory.mktemp("streams")

    def stream(chunk: int) -> Path:
        path = root / f"{chunk}" / "wan.json"
        if not path.exists():
            path.parent.mkdir()
            latent = (*LATENT[:2], chunk, *LATENT[3:])
            export_stream(
                str(small_source("Wan")), path, chunk=chunk, seed=0, latent=latent, check=False
            )
        return path

    return stream
