#!/usr/bin/env bash
# Everything that must pass: lint, format, types, tests. Arguments go to pytest; -n 0 keeps the tests
# in one process.
set -euo pipefail
. "$(dirname "$0")/environment.sh" cpu,export,report,video,serve,ray,test

"$bin/ruff" check .
"$bin/ruff" format --check .
"$bin/mypy"
"$bin/python" -m pytest -m "not long and not published" \
    -n auto --maxprocesses 4 --dist loadfile "$@"
