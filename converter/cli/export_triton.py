"""`export-triton MODEL REPOSITORY`."""

from __future__ import annotations

from pathlib import Path

import click

from converter import triton
from converter.cli.common import EXIT_EQUAL, exit_codes, reader_may_leave
from converter.triton import KINDS, Instances
from converter.version import VERSION


@click.command(context_settings={"help_option_names": ["-h", "--help"]})
@click.argument("model", type=click.Path(path_type=Path))
@click.argument("repository", type=click.Path(path_type=Path))
@click.option("--name", help="Name of the model in the repository. Default: that of the file.")
@click.option(
    "--instances",
    type=click.IntRange(min=1),
    default=1,
    show_default=True,
    help="Copies that Triton runs side by side; each holds the weights.",
)
@click.option(
    "--kind",
    type=click.Choice(KINDS),
    default="auto",
    show_default=True,
    help="Where Triton runs them; auto takes a GPU if there is one.",
)
@click.option("--debug", is_flag=True, help="Show a traceback with an error.")
@click.version_option(VERSION)
@exit_codes
def main(
    model: Path, repository: Path, name: str | None, instances: int, kind: str, debug: bool
) -> int:
    """Add the ONNX graph MODEL to a model repository of the Triton server, as its next version.

    MODEL may also be the manifest of a decoder in stream form: it becomes two models, NAME_first
    and NAME_next, and the client hands the caches from one answer to the next request.

    Exit code: 0 done; 2 the input or the usage is wrong.
    """
    made = triton.export(model, repository, name, Instances(instances, kind))
    with reader_may_leave():
        for one in made:
            click.echo(f"written: {one.folder} ({one.name}, version {one.version})")
    return EXIT_EQUAL


if __name__ == "__main__":
    main()
