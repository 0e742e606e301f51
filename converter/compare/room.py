"""Whether what is to be run fits into the memory that is free, told before it runs."""

from __future__ import annotations

from collections.abc import Mapping

from rich.filesize import decimal

from converter.compare.running import show_shapes
from converter.compare.sides import Graph
from converter.errors import UserError
from converter.memory import available_bytes
from converter.memory_need import run_bytes
from converter.model_file import weight_bytes


def check_run(graph: Graph, shapes: Mapping[str, tuple[int, ...]]) -> None:
    """Raise `UserError` where a run on the CPU with inputs of these shapes cannot fit.

    What is estimated is the least: the weights once, and the tensors that live at once, without
    what onnxruntime adds. A graph whose shapes do not follow from its inputs' is let through.
    """
    tensors = run_bytes(graph.path, shapes)
    if tensors is not None:
        need = tensors + weight_bytes(graph.skeleton)
        refuse_beyond_memory(f"a run of {graph.path} on {show_shapes(dict(shapes))}", need)


def refuse_beyond_memory(what: str, need: int) -> None:
    """Raise `UserError` where `need` bytes are more than this process may still take."""
    free = available_bytes()
    if free is not None and need > free:
        raise UserError(
            f"{what} would take at least {decimal(need)} of memory, by the sizes of its tensors, "
            f"and {decimal(free)} are free; give smaller inputs."
        )
