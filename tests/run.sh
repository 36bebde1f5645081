#!/bin/sh
# Sets everything up in .venv, then lints, checks types and runs the tests.
set -eu
cd "$(dirname "$0")/.."
sh examples/setup.sh cpu,demo,test
.venv/bin/ruff check .
.venv/bin/ruff format --check --quiet .
.venv/bin/mypy
exec .venv/bin/pytest "$@"
