import dataclasses
import json
from pathlib import Path

import onnx
import pytest
from onnx import ModelProto

from converter import convert
from converter.choice import Choice
from converter.conv3d import Conv3D, Unread, find_conv3d
from converter.errors import UserError
from converter.plan import AUTO, Plan, make_plan, read_pins
from converter.rewrites import BY_NAME, KEEP
from converter.surgeon import open_model
from converter.weights import WeightTable
from tests import small_models


def find(proto: ModelProto) -> list[Conv3D | Unread]:
    surgery = open_model(proto)
    return find_conv3d(list(surgery.graphs()), WeightTable(), surgery.opset)


def chain(*names: str) -> ModelProto:
    """Convs of these names, one behind the other; pointwise ones, so that all strategies differ."""
    proto = small_models.conv3d(dims=(1, 8, 3, 6, 8), kernel=(1, 3, 3))
    template = proto.graph.node[0]
    del proto.graph.node[:]
    for index, name in enumerate(names):
        node = proto.graph.node.add()
        node.CopyFrom(template)
        node.name = name
        node.input[0] = f"t{index}" if index else "x"
        node.output[0] = f"t{index + 1}"
    proto.graph.node[-1].output[0] = "y"
    return proto


def strategies(plan: Plan) -> list[str]:
    return [entry.strategy for entry in plan.entries]


NAMES = ("in", "mid.0", "mid.1", "out")


@pytest.mark.parametrize(
    ("pins", "expected"),
    [
        ({}, ["unfold"] * 4),
        ({"in": "taps"}, ["taps", "unfold", "unfold", "unfold"]),
        ({"mid.*": "taps", "out": "keep"}, ["unfold", "taps", "taps", "keep"]),
        ({"*": "taps", "mid.1": "keep"}, ["taps", "taps", "keep", "taps"]),
        ({"mid.1": "keep", "*": "taps"}, ["taps"] * 4),
        ({"mid.[0-9]": "taps"}, ["unfold", "taps", "taps", "unfold"]),
        ({"?n": "pointwise"}, ["pointwise", "unfold", "unfold", "unfold"]),
    ],
)
def test_pins_are_names_or_globs_and_the_last_that_matches_decides(pins, expected):
    plan = make_plan(find(chain(*NAMES)), "unfold", pins)
    assert strategies(plan) == expected
    assert [e.node for e in plan.entries] == list(NAMES)
    for entry, strategy in zip(plan.entries, expected, strict=True):
        assert entry.reason == ("asked for" if strategy == "unfold" else "pinned")


def test_a_name_with_the_signs_of_a_glob_matches_itself():
    assert (
        strategies(make_plan(find(chain("a[0]", "a0")), "keep", {"a[0]": "taps"})) == ["taps"] * 2
    )


@pytest.mark.parametrize("pin", ["up*", "In", "mid", ""])
def test_a_pin_that_matches_nothing_is_refused(pin):
    with pytest.raises(UserError, match="matches no Conv3D"):
        make_plan(find(chain(*NAMES)), AUTO, {pin: "taps"})


@pytest.mark.parametrize(("strategy", "pins"), [("conv2d", {}), (AUTO, {"*": "fast"})])
def test_an_unknown_strategy_is_refused_with_the_known_ones(strategy, pins):
    with pytest.raises(UserError, match=r"auto, pointwise, temporal, .*, keep"):
        make_plan(find(chain(*NAMES)), strategy, pins)


@pytest.mark.parametrize("name", [*BY_NAME, KEEP])
def test_a_strategy_asked_for_is_taken_or_refused_with_its_own_reason(name):
    (conv,) = find(small_models.conv3d(kernel=(2, 3, 3), strides=[2, 1, 1]))
    (entry,) = make_plan([conv], name).entries
    refusal = None if name == KEEP else BY_NAME[name].check(conv)
    assert entry.refused is (refusal is not None)
    assert entry.strategy == (KEEP if refusal else name)
    assert entry.reason == (refusal.reason if refusal else "asked for")
    assert make_plan([conv], name).refusals == ((entry,) if refusal else ())


def test_auto_asks_the_chooser_for_what_is_not_pinned():
    asked = []

    def choose(conv: Conv3D) -> Choice:
        asked.append(conv.name)
        return Choice("taps", "because", seconds={"taps": 1.0})

    plan = make_plan(find(chain("a", "b")), AUTO, {"a": "unfold"}, choose)
    assert asked == ["b"]
    assert strategies(plan) == ["unfold", "taps"]
    assert plan.entries[1].reason == "because"
    assert plan.entries[1].seconds == {"taps": 1.0}


def test_a_pin_may_be_auto_again():
    plan = make_plan(find(chain("a", "b")), KEEP, {"b": AUTO})
    assert plan.entries[0].strategy == KEEP
    assert plan.entries[1].strategy != KEEP


def test_an_entry_says_what_was_read():
    proto = small_models.conv3d(dims=("N", 4, "T", 6, 8), strides=[2, 1, 1])
    (entry,) = make_plan(find(proto), "taps").entries
    assert (entry.node, entry.output) == ("conv", "y")
    assert entry.x_shape == ("N", 4, "T", 6, 8)
    assert entry.w_shape == (8, 4, 3, 3, 3)
    assert entry.attributes == "k3 s2x1x1 p1,1,1"


def unread() -> list[Conv3D | Unread]:
    return find(small_models.conv3d(group=3))


def test_what_cannot_be_read_is_kept_and_refused_unless_it_shall_be_kept():
    (entry,) = make_plan(unread()).entries
    assert (entry.strategy, entry.refused) == (KEEP, True)
    assert "groups" in entry.reason
    for arguments in ((KEEP, {}), (AUTO, {"conv": KEEP})):
        (entry,) = make_plan(unread(), *arguments).entries
        assert (entry.strategy, entry.refused) == (KEEP, False)


# --- saved plans --------------------------------------------------------------------------------


def write_plan(path: Path, plan: Plan) -> Path:
    path.write_text(json.dumps(plan.to_json()), encoding="utf-8")
    return path


def test_a_saved_plan_is_read_back_as_pins(tmp_path):
    names = ("a*", "b[0]", "c?", "plain", "ü")
    pins = dict(zip(names, ("taps", "unfold", "keep", "pointwise", "taps"), strict=True))
    found = find(chain(*names))
    plan = make_plan(found, AUTO, {name.replace("[", "[[]"): s for name, s in pins.items()})
    again = make_plan(found, AUTO, read_pins(write_plan(tmp_path / "plan.json", plan)))
    assert strategies(again) == list(pins.values())


def test_names_that_look_like_globs_are_not_taken_for_globs_when_read(tmp_path):
    found = find(chain("*", "other"))
    plan = make_plan(found, "taps", {"other": "unfold"})
    read = read_pins(write_plan(tmp_path / "plan.json", plan))
    assert strategies(make_plan(found, KEEP, read)) == ["taps", "unfold"]
    only_star = {k: v for k, v in read.items() if k != "other"}
    assert strategies(make_plan(found, KEEP, only_star)) == ["taps", KEEP]


def test_json_holds_every_field_of_every_entry():
    plan = make_plan(find(chain("a", "b")), "taps")
    data = json.loads(json.dumps(plan.to_json()))
    assert data["version"] == 1
    fields = {field.name for field in dataclasses.fields(plan.entries[0])}
    assert [set(entry) for entry in data["conv3d"]] == [fields] * 2


WRONG = {
    "no json": ("{", "is not JSON"),
    "no text": (b"\xff\xfe\xff", "is not JSON"),
    "list": ("[]", "not a plan"),
    "number": ("1", "not a plan"),
    "other file": ('{"name": 1}', "not a plan"),
    "no entries": ('{"version": 1}', "not a plan"),
    "odd entries": ('{"version": 1, "conv3d": [1]}', "not a plan"),
    "no strategy": ('{"version": 1, "conv3d": [{"node": "a"}]}', "not a plan"),
    "odd name": ('{"version": 1, "conv3d": [{"node": 1, "strategy": "taps"}]}', "not a plan"),
    "newer": ('{"version": 2, "conv3d": []}', "has version 2, not 1"),
}


@pytest.mark.parametrize(("text", "complaint"), WRONG.values(), ids=WRONG)
def test_a_file_that_is_no_plan_is_refused(tmp_path, text, complaint):
    path = tmp_path / "plan.json"
    path.write_bytes(text if isinstance(text, bytes) else text.encode())
    with pytest.raises(UserError, match=complaint) as caught:
        read_pins(path)
    assert str(path) in str(caught.value)


def test_a_plan_that_is_not_there_is_refused(tmp_path):
    with pytest.raises(UserError, match="does not exist"):
        read_pins(tmp_path / "plan.json")


def test_a_plan_of_another_graph_is_refused(tmp_path):
    plan = make_plan(find(chain("a")), "taps")
    pins = read_pins(write_plan(tmp_path / "plan.json", plan))
    with pytest.raises(UserError, match="matches no Conv3D"):
        make_plan(find(chain("b")), AUTO, pins)


def test_a_replayed_plan_gives_the_same_graph_byte_for_byte(tmp_path):
    source = small_models.save(small_models.two_conv3d(), tmp_path / "in.onnx")
    first = convert(source, tmp_path / "a.onnx", pins={"second": "taps"}, validate=False)
    pins = read_pins(write_plan(tmp_path / "plan.json", first.plan))
    convert(source, tmp_path / "b.onnx", pins=pins, validate=False)
    one, two = (onnx.load(tmp_path / name) for name in ("a.onnx", "b.onnx"))
    assert one.graph.SerializeToString() == two.graph.SerializeToString()


def test_the_same_conversion_gives_the_same_file_byte_for_byte(tmp_path):
    source = small_models.save(small_models.two_conv3d(), tmp_path / "in.onnx")
    for name in ("a.onnx", "b.onnx"):
        convert(source, tmp_path / name, validate=False)
    assert (tmp_path / "a.onnx").read_bytes() == (tmp_path / "b.onnx").read_bytes()
