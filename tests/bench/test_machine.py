import platform

from converter.bench import machine

INTEL = "processor\t: 0\nmodel name\t: Some CPU @ 2 GHz\nflags\t\t: fpu avx2 amx_bf16 sse\n"
ARM = "processor\t: 0\nFeatures\t: fp asimd bf16 sve2\n"


def described(monkeypatch, tmp_path, text):
    path = tmp_path / "cpuinfo"
    path.write_text(text)
    monkeypatch.setattr(machine, "CPU_INFO", path)
    return machine.describe_machine()


def test_the_processor_and_what_makes_it_fast(monkeypatch, tmp_path):
    found = described(monkeypatch, tmp_path, INTEL)
    assert found["cpu"] == "Some CPU @ 2 GHz"
    assert found["vectors"] == ["avx2", "amx_bf16"]
    assert found["cpus"] == machine.usable_cpus() >= 1


def test_a_processor_without_a_name(monkeypatch, tmp_path):
    found = described(monkeypatch, tmp_path, ARM)
    assert found["cpu"] == platform.processor() or platform.machine()
    assert found["vectors"] == ["asimd", "bf16"]


def test_versions_are_of_what_is_installed(monkeypatch):
    monkeypatch.setattr(machine, "PACKAGES", ("numpy", "no-such-package"))
    versions = machine.describe_machine()["versions"]
    assert versions["python"] == platform.python_version()
    assert "numpy" in versions
    assert "no-such-package" not in versions
