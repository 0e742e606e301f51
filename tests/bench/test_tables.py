from dataclasses import replace

from rich.console import Console

from converter.bench import tables
from tests.bench.results import TWO, lane, result


def test_rows_say_what_was_measured():
    assert tables.headings(TWO)[1:4] == ("wall s", "min", "CPU s")
    first, second, gemm = tables.table_rows(TWO)
    # 8.59 GFLOP a run: 2 * 1024**3 * 4.
    assert first == (
        "first.onnx",
        "6.00 [5.00 7.00]",
        "4.00",
        "11.0 [9.50 13.5]",
        "1.00x [1.00 1.00]",
        "1.00x [1.00 1.00]",
        "1.43",
        "33% 36%",
        "300.0 MB",
        "2.0 GB",
        "",
    )
    assert second[4:6] == ("2.00x [2.00 2.50]", "2.00x [2.00 2.38]")
    assert second[-1] == "0.25"
    assert gemm[0] == "the GEMM"
    assert gemm[6:8] == ("4.29", "100% 100%")


def test_short_runs_are_in_milliseconds():
    short = result(lane("a", [0.012, 0.012]), lane("b", [1.5, 1.5]))
    assert tables.headings(short)[1] == "wall ms"
    a, b, _ = tables.table_rows(short)
    assert (a[1], b[1]) == ("12.0 [12.0 12.0]", "1500 [1500 1500]")


def test_what_is_not_known_is_a_dash():
    broken = result(
        lane("a", [1.0], memory=None), lane("b", [], failure="b fell."), operations=None, gemm=[]
    )
    a, b = tables.table_rows(broken)
    assert a[6:10] == ("-", "-", "-", "-")
    assert b[1:8] == ("-",) * 7


def test_conditions_name_feed_rounds_threads_and_arithmetic():
    line = tables.conditions(TWO)
    assert line == "feed x=1x2x3, seed 7; rounds: 3; threads: 2; direct arithmetic 8.59 GFLOP"
    partial = replace(TWO, rounds=9, threads=None, operations=None, feed_shapes={})
    assert tables.conditions(partial) == (
        "no inputs, seed 7; rounds: 3 of 9; threads: as the runtime chooses"
    )


def test_the_machine_is_stated():
    assert tables.machine_line(TWO) == (
        "Example CPU (avx2), 4 logical processors; 8 GiB; load average before: 0.25; Linux; "
        "python 3.11, onnx 1.19"
    )
    bare = replace(TWO, machine={**TWO.machine, "memory_bytes": None, "load_average": None})
    assert "GiB" not in tables.machine_line(bare)


def test_markdown_is_a_table_with_notes_below():
    lines = tables.markdown(replace(TWO, notes=("one is missing",))).splitlines()
    assert lines[0].startswith("|  | wall s | min |")
    assert lines[1].startswith("| --- | ---: |")
    assert lines[3].startswith("| second\\|.onnx | 2.00 [2.00 3.00] |")
    assert {line.count(" | ") for line in lines[:5]} == {10}
    assert lines[6].startswith("Feed x=1x2x3, seed 7;")
    assert lines[7] == "- one is missing"


def test_the_terminal_shows_all_of_it(capsys):
    out = Console(width=200)
    tables.print_result(out, replace(TWO, notes=("[one] is missing",)))
    shown = capsys.readouterr().out
    for words in ("second|.onnx", "2.00 [2.00 3.00]", "note: [one] is missing", "Example CPU"):
        assert words in shown


def test_of_many_inputs_three_are_shown_and_the_others_counted():
    shapes = {f"x{i}": (1, i) for i in range(5)}
    line = tables.conditions(replace(TWO, feed_shapes=shapes))
    assert line.startswith("feed x0=1x0 x1=1x1 x2=1x2 and 2 more inputs, seed 7;")
    three = dict(list(shapes.items())[:3])
    assert "more" not in tables.conditions(replace(TWO, feed_shapes=three))
