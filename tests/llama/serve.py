"""`python -m tests.llama.serve MODEL`: llama.cpp's own server, as the wheel `xllamacpp` carries it, on a free port of loopback.

Prints its address once it serves, and ends when its standard input does.
"""

from __future__ import annotations

import sys

import xllamacpp

from tests.llama.gguf import CONTEXT_TOKENS

SLOTS = 4


def main() -> None:
    params = xllamacpp.CommonParams()
    params.model.path = sys.argv[1]
    params.n_parallel = SLOTS
    params.n_ctx = SLOTS * CONTEXT_TOKENS
    params.n_gpu_layers = 0
    # Such a model is done sooner than a second thread is woken.
    params.cpuparams.n_threads = 1
    server = xllamacpp.Server(params)
    print(server.listening_address, flush=True)
    sys.stdin.read()


if __name__ == "__main__":
    main()
