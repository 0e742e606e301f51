from models import catalog
from models.cogvideox import COGVIDEOX
from models.wan import WAN


def test_entries_say_what_a_preset_needs_and_makes(monkeypatch):
    monkeypatch.setattr(catalog, "FAMILIES", (WAN, COGVIDEOX))
    wan, _, cogvideox, trained = catalog.entries()
    assert wan == catalog.Entry(
        preset="wan2.1",
        family="Wan",
        channels=16,
        least=1,
        frames="(T - 1) * 4 + 1",
        space=8,
        stream=True,
        encoder=True,
        parameters=73_295_603,
    )
    assert cogvideox.frames == "(T - 1) * 4 + 1 where T is odd, else T * 4"
    assert cogvideox.stream
    assert cogvideox.parameters == 123_368_451
    assert (trained.preset, trained.family, trained.channels) == ("tiny-wan", "Wan", 16)
    assert trained.stream
