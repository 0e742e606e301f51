"""The two machines of these tests; made once and kept in pytest's cache between runs."""

from __future__ import annotations

import os

import pytest

from tests.rocm.machine import Machine, NotInstalledError, make_machine

ROCM = (
    "onnxruntime-rocm==1.22.2.post3",
    "libonnxruntime_providers_rocm.so",
    "ROCMExecutionProvider",
)
MIGRAPHX = (
    "onnxruntime-migraphx==1.27.1",
    "libonnxruntime_providers_migraphx.so",
    "MIGraphXExecutionProvider",
)
"""Requirement, the provider's library, the provider."""


def _machine(
    request: pytest.FixtureRequest, requirement: str, library: str, provider: str
) -> Machine:
    cache = request.config.cache
    assert cache is not None
    folder = cache.mkdir(requirement.replace("==", "-"))
    try:
        return make_machine(requirement, library, provider, folder)
    except NotInstalledError as error:
        if os.environ.get("CI"):
            pytest.fail(str(error))
        pytest.skip(str(error))


@pytest.fixture(scope="session")
def rocm(request: pytest.FixtureRequest) -> Machine:
    return _machine(request, *ROCM)


@pytest.fixture(scope="session")
def migraphx(request: pytest.FixtureRequest) -> Machine:
    return _machine(request, *MIGRAPHX)
