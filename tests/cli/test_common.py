import click
import pytest
from click.testing import CliRunner

from converter.cli.common import exit_codes, merge_pins, parse_pairs, parse_shapes
from converter.errors import UserError


def command(body) -> click.Command:
    @click.command()
    @click.option("--debug", is_flag=True)
    @exit_codes
    def main(debug: bool) -> int:
        return body()

    return main


def raising(error: BaseException):
    def body() -> int:
        raise error

    return body


@pytest.mark.parametrize("code", [0, 1, 2])
def test_what_the_body_returns_is_the_exit_code(code):
    result = CliRunner().invoke(command(lambda: code))
    assert (result.exit_code, result.stderr) == (code, "")


@pytest.mark.parametrize(
    ("error", "sentence"),
    [
        (UserError("a.onnx is empty."), "a.onnx is empty."),
        (UserError("a name\nwith a line break."), "a name with a line break."),
        (KeyboardInterrupt(), "interrupted; nothing was written."),
        (MemoryError(), "out of memory; nothing was written."),
        (
            OSError(28, "No space left on device"),
            "No space left on device; nothing was written.",
        ),
        (
            PermissionError(13, "Permission denied", "/x/y"),
            "Permission denied (/x/y); nothing was written.",
        ),
        (OSError("odd"), "internal error, please report it with what --debug shows: OSError: odd"),
        (
            KeyError("key"),
            "internal error, please report it with what --debug shows: KeyError: 'key'",
        ),
    ],
)
def test_an_error_is_one_sentence_and_exit_code_2(error, sentence):
    result = CliRunner().invoke(command(raising(error)))
    assert result.exit_code == 2
    assert result.stdout == ""
    assert result.stderr == f"error: {sentence}\n"


@pytest.mark.parametrize("error", [UserError("bad"), KeyboardInterrupt(), ValueError("bad")])
def test_debug_shows_the_traceback_too(error):
    result = CliRunner().invoke(command(raising(error)), ["--debug"])
    assert result.exit_code == 2
    assert result.stderr.startswith("Traceback (most recent call last)")
    assert type(error).__name__ in result.stderr
    assert result.stderr.splitlines()[-1].startswith("error: ")


def test_clicks_own_errors_are_left_to_click():
    result = CliRunner().invoke(command(raising(click.UsageError("odd"))))
    assert result.exit_code == 2
    assert "Usage:" in result.stderr


def test_pairs_are_divided_at_the_last_sign():
    assert parse_pairs("--pin", ["a=b=taps", "c=keep"]) == {"a=b": "taps", "c": "keep"}


@pytest.mark.parametrize("text", ["", "a", "=a", "a=", "="])
def test_what_is_no_pair_is_refused(text):
    with pytest.raises(UserError, match=r"--pin .* is not of the form NAME=VALUE"):
        parse_pairs("--pin", [text])


def test_a_name_given_twice_stands_where_it_was_given_last():
    pairs = parse_pairs("--pin", ["a=taps", "*=unfold", "a=keep"])
    assert list(pairs.items()) == [("*", "unfold"), ("a", "keep")]


def test_pins_by_hand_come_after_those_of_a_plan():
    merged = merge_pins({"a": "taps", "b": "taps"}, {"*": "unfold", "a": "keep"})
    assert list(merged.items()) == [("b", "taps"), ("*", "unfold"), ("a", "keep")]


def test_shapes_are_read_by_name():
    assert parse_shapes(["x=1x16x3", "y=2X4", "z=7"]) == {"x": (1, 16, 3), "y": (2, 4), "z": (7,)}


@pytest.mark.parametrize("text", ["x=1x", "x=ax1", "x=0x1", "x=-1x2", "x=1.5", "x=1,2", "x=x"])
def test_what_is_no_shape_is_refused(text):
    with pytest.raises(UserError, match="is not a shape such as 1x16x3x8x8"):
        parse_shapes([text])
