#!/bin/sh
# Sets everything up in .venv and transcribes the demo clip.
set -eu
cd "$(dirname "$0")/.."
sh examples/setup.sh cpu,demo
exec .venv/bin/mlx-speech demo "$@"
