import numpy as np
import pytest

from converter import memory

STATUS = "Name:\tpython\nVmPeak:\t  900000 kB\nVmHWM:\t  123456 kB\nVmRSS:\t   98765 kB\n"


def test_linux_tells_both(monkeypatch, tmp_path):
    status = tmp_path / "status"
    status.write_text(STATUS)
    monkeypatch.setattr(memory, "STATUS", status)
    assert memory.peak_bytes() == 123456 * 1024
    assert memory.resident_bytes() == 98765 * 1024


def test_elsewhere_the_peak_comes_from_the_resource_usage(monkeypatch, tmp_path):
    resource = pytest.importorskip("resource")
    monkeypatch.setattr(memory, "STATUS", tmp_path / "missing")
    usage = resource.getrusage(resource.RUSAGE_SELF)
    monkeypatch.setattr(resource, "getrusage", lambda who: usage)
    monkeypatch.setattr(memory.sys, "platform", "freebsd")
    assert memory.peak_bytes() == usage.ru_maxrss * 1024
    monkeypatch.setattr(memory.sys, "platform", "darwin")
    assert memory.peak_bytes() == usage.ru_maxrss
    monkeypatch.setattr(memory.sys, "platform", "win32")
    assert memory.peak_bytes() is None
    assert memory.resident_bytes() is None


@pytest.mark.skipif(not memory.STATUS.is_file(), reason="needs Linux's /proc")
def test_the_peak_outlives_what_was_held():
    size = 100_000_000
    before = memory.resident_bytes()
    block = np.ones(size, np.uint8)
    del block
    # The kernel's own count is allowed to lag by some pages a thread.
    assert memory.peak_bytes() > before + 0.95 * size
    assert memory.resident_bytes() < before + 0.5 * size
    memory.forget_peak()
    assert memory.peak_bytes() < before + 0.5 * size


def test_a_peak_that_cannot_be_forgotten_stays(monkeypatch, tmp_path):
    monkeypatch.setattr(memory, "CLEAR_REFS", tmp_path / "missing")
    memory.forget_peak()
    monkeypatch.setattr(memory, "CLEAR_REFS", tmp_path)
    memory.forget_peak()


@pytest.mark.parametrize(
    ("limit", "usage", "available"),
    [
        ("max", "1000", 2048 * 1024),
        ("5000", "1000", 4000),
        ("5000", "6000", 0),
        (str(2**60), "1000", 2048 * 1024),
    ],
)
def test_what_is_available_is_the_least_that_any_limit_leaves(
    tmp_path, monkeypatch, limit, usage, available
):
    meminfo, files = tmp_path / "meminfo", (tmp_path / "limit", tmp_path / "usage")
    meminfo.write_text("MemTotal:  9999 kB\nMemAvailable:    2048 kB\n")
    for file, text in zip(files, (limit, usage), strict=True):
        file.write_text(f"{text}\n")
    monkeypatch.setattr(memory, "MEMINFO", meminfo)
    monkeypatch.setattr(memory, "CGROUP_FILES", (files, (tmp_path / "no", tmp_path / "no")))
    assert memory.available_bytes() == available
    monkeypatch.setattr(memory, "MEMINFO", tmp_path / "missing")
    assert memory.available_bytes() is None
