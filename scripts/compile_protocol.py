"""Compile converter/serving/open_inference.proto to the descriptors that the server loads.

pip install grpcio-tools
python -m scripts.compile_protocol
"""

from __future__ import annotations

from pathlib import Path

from grpc_tools import protoc

FOLDER = Path(__file__).parent.parent / "converter" / "serving"
SOURCE = FOLDER / "open_inference.proto"


def compile_to(target: Path) -> None:
    """Write a serialized FileDescriptorSet; raises `RuntimeError` where protoc complains."""
    code = protoc.main(
        ["protoc", f"-I{FOLDER}", f"--descriptor_set_out={target}", str(SOURCE)],
    )
    if code:
        raise RuntimeError(f"protoc ended with {code}")


if __name__ == "__main__":
    compile_to(SOURCE.with_suffix(".binpb"))
