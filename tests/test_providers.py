import ctypes
import os
from pathlib import Path
from types import SimpleNamespace

import pytest

from converter import providers as module
from converter.errors import UserError
from converter.providers import NAMES, PROVIDERS, Usable, choose, make_session
from converter.session import CPU_ID, SessionSettings
from tests.compare.graphs import conv3d, save

ROCM_ID = "ROCMExecutionProvider"
MIGRAPHX_ID = "MIGraphXExecutionProvider"
# As the released packages word it.
MIGRAPHX_FAILURE = (
    "/s/provider_bridge_ort.cc:1988 onnxruntime::Provider& onnxruntime::ProviderLibrary::Get() "
    "[ONNXRuntimeError] : 1 : FAIL : Failed to load library /v/capi/"
    "libonnxruntime_providers_migraphx.so with error: libmigraphx_c.so.3: cannot open shared "
    "object file: No such file or directory"
)
ROCM_LINKER = "libhipblas.so.3: cannot open shared object file: No such file or directory"


@pytest.fixture(autouse=True)
def forget():
    module._why_unusable.cache_clear()
    yield
    module._why_unusable.cache_clear()


@pytest.fixture
def runtime(monkeypatch):
    """A stand-in for onnxruntime: `landing` says where a session for a provider ends up."""
    severities = []
    fake = SimpleNamespace(
        __version__="9.9",
        __file__="/packages/onnxruntime/__init__.py",
        get_available_providers=lambda: list(fake.landing),
        set_default_logger_severity=severities.append,
        severities=severities,
        landing={CPU_ID: CPU_ID},
        sessions=0,
    )

    def session(model, provider_id):
        fake.sessions += 1
        landed = fake.landing[provider_id]
        if isinstance(landed, Exception):
            raise landed
        return SimpleNamespace(get_providers=lambda: [landed])

    monkeypatch.setattr(module, "onnxruntime", lambda: fake)
    monkeypatch.setattr(module, "inference_session", session)
    return fake


def linker(monkeypatch, error=None):
    loaded = []

    def load(path):
        loaded.append(path)
        if error:
            raise OSError(error)

    monkeypatch.setattr(ctypes, "CDLL", load)
    return loaded


def test_the_order_of_preference():
    assert NAMES == ("migraphx", "rocm", "cuda", "openvino", "cpu")


@pytest.mark.parametrize("best", range(len(PROVIDERS)))
def test_auto_takes_the_first_usable_one_and_says_why_not_the_better(runtime, best):
    runtime.landing = {provider.id: provider.id for provider in PROVIDERS[best:]}
    found = choose()
    assert (found.name, found.id) == (PROVIDERS[best].name, PROVIDERS[best].id)
    assert [reason.split(":")[0] for reason in found.why_not] == list(NAMES[:best])


def test_a_named_one_is_taken_though_a_better_one_works(runtime):
    runtime.landing = {provider.id: provider.id for provider in PROVIDERS}
    assert choose("rocm") == Usable("rocm", ROCM_ID, ())


@pytest.mark.parametrize(
    ("name", "package"),
    [
        ("migraphx", "'convert-vae[migraphx]'"),
        ("rocm", "'convert-vae[rocm]'"),
        ("cuda", "'convert-vae[cuda]'"),
        ("openvino", "onnxruntime-openvino"),
    ],
)
def test_a_missing_package_is_named(runtime, name, package):
    with pytest.raises(UserError) as caught:
        choose(name)
    message = str(caught.value)
    assert message.startswith(f"{name}: the installed onnxruntime 9.9 has no ")
    assert message.endswith(f"pip install {package}.")
    assert runtime.sessions == 0


def test_a_missing_library_is_named_when_the_session_falls_back(runtime, monkeypatch):
    runtime.landing = {ROCM_ID: CPU_ID, CPU_ID: CPU_ID}
    loaded = linker(monkeypatch, ROCM_LINKER)
    with pytest.raises(UserError, match=f"rocm: {ROCM_ID} cannot load libhipblas.so.3; install it"):
        choose("rocm")
    assert [path.rpartition("onnxruntime_providers_")[2].split(".")[0] for path in loaded] == [
        "rocm"
    ]
    assert loaded[0].startswith("/packages/onnxruntime/capi/")
    assert choose().name == "cpu"
    assert "libhipblas.so.3" in choose().why_not[1]


def test_a_missing_library_is_named_when_the_session_fails(runtime):
    runtime.landing = {MIGRAPHX_ID: RuntimeError(MIGRAPHX_FAILURE), CPU_ID: CPU_ID}
    with pytest.raises(UserError) as caught:
        choose("migraphx")
    assert str(caught.value) == (
        "migraphx: MIGraphXExecutionProvider cannot load libmigraphx_c.so.3; install it."
    )


def test_without_a_missing_library_it_is_the_device(runtime, monkeypatch):
    runtime.landing = {ROCM_ID: CPU_ID}
    linker(monkeypatch)
    with pytest.raises(UserError, match=f"rocm: {ROCM_ID} fell back to {CPU_ID}: no device"):
        choose("rocm")


def test_another_failure_is_quoted(runtime):
    failure = "[ONNXRuntimeError] : 6 : RUNTIME_EXCEPTION : HIP failure 100: no ROCm device"
    runtime.landing = {ROCM_ID: RuntimeError(failure)}
    with pytest.raises(UserError, match="cannot make a session: RUNTIME_EXCEPTION: HIP failure"):
        choose("rocm")


def test_the_native_log_is_quiet_only_while_probing(runtime):
    runtime.landing = {ROCM_ID: RuntimeError("no"), CPU_ID: CPU_ID}
    choose()
    assert runtime.severities == [4, 3, 4, 3]


def test_a_provider_is_probed_once(runtime):
    choose()
    choose("cpu")
    assert runtime.sessions == 1


def test_an_unknown_name_lists_the_known(runtime):
    with pytest.raises(UserError, match="unknown provider 'tpu'; choose one of auto, migraphx, "):
        choose("tpu")


def test_nothing_usable_names_everything(runtime):
    runtime.landing = {}
    with pytest.raises(UserError) as caught:
        choose()
    assert all(f"{name}: " in str(caught.value) for name in NAMES)


def test_the_probe_runs_on_the_real_cpu_provider(tmp_path):
    pytest.importorskip("onnxruntime")
    assert choose("cpu") == Usable("cpu", CPU_ID, ())
    session = make_session(save(conv3d(), tmp_path / "m.onnx"), "cpu")
    assert (session.provider, session.provider_id) == ("cpu", CPU_ID)


def test_make_session_uses_the_chosen_provider(monkeypatch, tmp_path):
    made = []
    monkeypatch.setattr(module, "user_cache_path", lambda name: tmp_path / name)
    unset_caches(monkeypatch)
    monkeypatch.setattr(module, "choose", lambda provider: Usable(provider, "Id"))
    monkeypatch.setattr(module, "Session", lambda *arguments: made.append(arguments))
    make_session("m.onnx", "rocm")
    settings = SessionSettings({"device_id": "1"}, strict=True)
    make_session("m.onnx", "rocm", settings)
    assert made == [("m.onnx", "rocm", "Id", SessionSettings()), ("m.onnx", "rocm", "Id", settings)]


CACHES = ("MIOPEN_USER_DB_PATH", "MIOPEN_CUSTOM_CACHE_DIR", "ORT_MIGRAPHX_MODEL_CACHE_PATH")


def unset_caches(monkeypatch):
    for variable in CACHES:
        monkeypatch.setenv(variable, "")  # So that what the test sets is undone.
        monkeypatch.delenv(variable)


@pytest.mark.parametrize(
    ("provider", "given", "kept"),
    [
        ("cpu", {}, ()),
        ("cuda", {}, ()),
        ("rocm", {}, CACHES[:2]),
        ("migraphx", {}, CACHES),
        ("migraphx", {"migraphx_model_cache_dir": "mine"}, CACHES[:2]),
    ],
)
def test_amds_compilers_keep_what_they_find(monkeypatch, tmp_path, provider, given, kept):
    monkeypatch.setattr(module, "user_cache_path", lambda name: tmp_path / name)
    unset_caches(monkeypatch)
    module.keep_caches(provider, given)
    assert {v for v in CACHES if v in os.environ} == set(kept)
    assert all(Path(os.environ[v]).parent == tmp_path / "convert-vae" for v in kept)
    assert all(Path(os.environ[v]).is_dir() for v in kept)


@pytest.mark.parametrize(("name", "kept"), [("rocm", CACHES[:2]), ("migraphx", CACHES[:2])])
def test_the_caches_are_known_to_the_first_session(runtime, monkeypatch, tmp_path, name, kept):
    """MIOpen may look at them once only, and the first session is the one that probes."""
    monkeypatch.setattr(module, "user_cache_path", lambda name: tmp_path / name)
    unset_caches(monkeypatch)
    provider = next(p for p in PROVIDERS if p.name == name)
    runtime.landing = {provider.id: provider.id}
    seen = {}
    make = module.inference_session
    monkeypatch.setattr(
        module, "inference_session", lambda *a: (seen.update(os.environ), make(*a))[1]
    )
    choose(name)
    assert {v for v in CACHES if v in seen} == set(kept)


def test_where_there_is_no_such_provider_no_folder_is_made(runtime, monkeypatch, tmp_path):
    monkeypatch.setattr(module, "user_cache_path", lambda name: tmp_path / name)
    unset_caches(monkeypatch)
    choose()
    assert list(tmp_path.iterdir()) == []


def test_a_cache_folder_that_the_user_chose_stays(monkeypatch, tmp_path):
    monkeypatch.setattr(module, "user_cache_path", lambda name: tmp_path / name)
    for variable in CACHES:
        monkeypatch.setenv(variable, "mine")
    module.keep_caches("migraphx", {})
    assert {os.environ[v] for v in CACHES} == {"mine"}
    assert list(tmp_path.iterdir()) == []
