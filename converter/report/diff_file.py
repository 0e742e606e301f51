"""A comparison's result in a file; its suffix says in which form."""

from __future__ import annotations

import json
from pathlib import Path

from converter.compare.diff_result import DiffResult
from converter.errors import UserError
from converter.output_files import check_writable, write_text
from converter.report.diff_html import check_installed, to_html
from converter.report.diff_markdown import to_markdown

FORMS = (".html", ".md", ".json")


def check_report_path(path: Path) -> None:
    """Raise `UserError` unless the report can be written there in a known form."""
    if path.suffix not in FORMS:
        raise UserError(f"--report {path}: the form must be one of {', '.join(FORMS)}.")
    check_writable("--report", path)
    if path.suffix == ".html":
        check_installed()


def write_report(path: Path, result: DiffResult) -> None:
    """Write the report, whole or not at all, over an older one."""
    if path.suffix == ".html":
        text = to_html(result)
    elif path.suffix == ".md":
        text = to_markdown(result)
    else:
        text = json.dumps(result.to_json(), indent=2, allow_nan=False) + "\n"
    write_text(path, text)
