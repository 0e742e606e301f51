"""Build stand-ins for the libraries of ROCm that a provider library of onnxruntime needs.

What the provider library wants is read from its own symbol table, so that a newer wheel needs no
change here: functions that standins/*.c define behave as far as session creation can tell; all
others are generated as functions that return 0, which is success in every one of these libraries.
"""

from __future__ import annotations

import re
import subprocess
from pathlib import Path

SOURCES = Path(__file__).with_name("standins")

OWNER = (
    (re.compile(r"hipblas|rocblas_"), "hipblas"),
    (re.compile(r"hipfft"), "hipfft"),
    (re.compile(r"(__)?hip[A-Z]"), "amdhip64"),
    (re.compile(r"miopen"), "MIOpen"),
    (re.compile(r"rsmi_"), "rocm_smi64"),
    (re.compile(r"migraphx_"), "migraphx_c"),
)
"""Which library defines a symbol, by its prefix; the first match decides."""

SOURCE = {"amdhip64": "hip.c", "MIOpen": "miopen.c", "migraphx_c": "migraphx.c"}


def build(provider_library: Path, folder: Path) -> list[Path]:
    """Compile the stand-ins that `provider_library` needs into `folder`, ready for dlopen."""
    wanted = _undefined_symbols(provider_library)
    return [
        _compile(library, wanted.get(_stem(library), {}), folder)
        for library in _needed_libraries(provider_library)
    ]


def _compile(library: str, symbols: dict[str, str], folder: Path) -> Path:
    """Compile one shared library that defines `symbols` (name -> version, or "")."""
    stem = _stem(library)
    source = folder / f"{stem}.c"
    text = (SOURCES / SOURCE[stem]).read_text() if stem in SOURCE else ""
    missing = [name for name in symbols if not re.search(rf"\b{name}\b", text)]
    source.write_text(text + "".join(f"int {name}(void) {{ return 0; }}\n" for name in missing))
    script = folder / f"{stem}.map"
    script.write_text(_version_script(symbols))
    path = folder / library
    flags = ["-shared", "-fPIC", "-O1", f"-Wl,-soname,{library}", f"-Wl,--version-script={script}"]
    subprocess.run(["gcc", *flags, "-o", str(path), str(source)], check=True)
    return path


def _version_script(symbols: dict[str, str]) -> str:
    """The linker's version script: each symbol in the version node that the caller expects."""
    nodes = sorted({version for version in symbols.values() if version})
    if not nodes:
        return "{ global: *; };\n"
    return "".join(
        f"{node} {{ global: {' '.join(f'{s};' for s, v in symbols.items() if v == node)} }};\n"
        for node in nodes
    )


def _needed_libraries(library: Path) -> list[str]:
    """The shared libraries of ROCm among those the library is linked against."""
    listing = _run("readelf", "-d", str(library))
    needed = re.findall(r"\(NEEDED\).*\[(.+)\]", listing)
    return [name for name in needed if _stem(name) in {o for _, o in OWNER} | {"roctracer64"}]


def _undefined_symbols(library: Path) -> dict[str, dict[str, str]]:
    """Library stem -> {symbol: version} of what the library expects others to define."""
    wanted: dict[str, dict[str, str]] = {}
    for line in _run("nm", "-D", "--undefined-only", str(library)).splitlines():
        name, _, version = line.split()[-1].partition("@")
        for pattern, owner in OWNER:
            if pattern.match(name):
                wanted.setdefault(owner, {})[name] = version.lstrip("@")
                break
    return wanted


def _stem(library: str) -> str:
    return library.removeprefix("lib").partition(".so")[0]


def _run(*command: str) -> str:
    return subprocess.run(command, check=True, capture_output=True, text=True).stdout
