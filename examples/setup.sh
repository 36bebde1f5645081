#!/bin/sh
# Makes .venv and installs the library with the given extras: sh examples/setup.sh cpu,demo
set -eu
cd "$(dirname "$0")/.."
python=${PYTHON:-python3}
"$python" -c 'import sys; sys.exit(sys.version_info < (3, 10))' || {
    echo "Python 3.10 or newer is needed; set PYTHON to it" >&2
    exit 1
}
if [ ! -x .venv/bin/pip ]; then
    # Debian and Ubuntu keep venv in a package of its own
    "$python" -m venv .venv || {
        rm -rf .venv
        as_root=""
        [ "$(id -u)" = 0 ] || as_root=sudo
        $as_root apt-get update
        $as_root apt-get install -y python3-venv
        "$python" -m venv .venv
    }
fi
.venv/bin/pip install --quiet --disable-pip-version-check -e ".[$1]"
