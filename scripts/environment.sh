# Sourced by the other scripts. Leaves the working directory at the repository's root and sets
# `bin` to the folder of commands of a virtual environment that has the extras named in $1.
#
# CONVERT_VAE_VENV  the environment's folder; default: .venv at the repository's root
# PYTHON            the interpreter that makes it; default: python3

cd "$(dirname "${BASH_SOURCE[0]}")/.."
venv=${CONVERT_VAE_VENV:-.venv}
bin=$venv/bin
python=${PYTHON:-python3}

if ! "$python" -c 'import sys; sys.exit(sys.version_info < (3, 10))' 2>/dev/null; then
    found=$("$python" --version 2>&1 || true)
    echo "error: Python 3.10 or newer is needed, but $python is: ${found:-not there}." \
        "Set PYTHON to a newer one." >&2
    exit 2
fi
if ! "$bin/python" -m pip --version >/dev/null 2>&1; then
    echo "making the virtual environment $venv"
    "$python" -m venv "$venv"
fi
echo "installing convert-vae[$1] into $venv"
pip=("$bin/python" -m pip install --quiet --disable-pip-version-check -c scripts/constraints.txt)
# The build backend comes first: an isolated build would not heed the constraints.
"${pip[@]}" hatchling editables
"${pip[@]}" --no-build-isolation --editable ".[$1]"
