# SPDX-License-Identifier: GPL-3.0-or-later
"""Starts llama.cpp's own HTTP server inside this process (package xllamacpp) and stays until it is killed.

Run as a script by whatever interpreter has xllamacpp: standard library besides, nothing of rbee. The names of
its parameters change between months: this is the one file that knows them. The key that clients must send comes in
the environment (RBEE_ENGINE_KEY). Standard output gets one line of JSON, `{"event": "listening", "address", ...}` or
`{"event": "failed", "reason"}` (exit status 3: the model cannot be loaded); llama.cpp's words go to standard error.
"""

from __future__ import annotations

import argparse
import json
import os
import signal
import socket
import sys
import time
from typing import Any
from urllib.parse import urlsplit

#: Exit status for a model that will not load however often it is tried.
UNLOADABLE = 3
#: Small, so that a request which nobody waits for any more stops early in its prompt.
BATCH = 64
#: Seconds for llama.cpp's own thread to write why it could not load: nothing tells when it has.
LAST_WORDS = 0.5


def parameters(options: argparse.Namespace, key: str) -> Any:
    """llama.cpp's parameters for a server on loopback; `context_length` is that of each slot."""
    import xllamacpp

    p = xllamacpp.CommonParams()
    p.model.path = options.model
    p.model_alias = {options.alias} if options.alias else set()
    p.hostnames = ["127.0.0.1"]
    p.port = options.port
    p.api_keys = [key] if key else []
    p.ui = False
    p.endpoint_metrics = True
    p.verbosity = 1  # errors: the reason of a failed load is written there and nowhere else
    p.n_parallel = options.parallel
    p.n_ctx = options.context_length * options.parallel
    p.n_batch = p.n_ubatch = options.batch_size
    if options.task != "generate":
        p.embedding = True
        p.pooling_type = pooling(options)
    p.fit_params = False  # what was asked for, or an error: never quietly less
    p.cache_ram_mib = 0  # the default keeps up to 8 GiB of old prompts, which no plan has room for
    p.cpuparams.n_threads = options.threads
    p.cpuparams_batch.n_threads = options.threads
    if options.device_index is None:
        p.n_gpu_layers = 0
    else:
        p.n_gpu_layers = -1
        p.main_gpu = options.device_index
        p.split_mode = xllamacpp.llama_split_mode.LLAMA_SPLIT_MODE_NONE
    return p


def pooling(options: argparse.Namespace) -> Any:
    """How one vector or score is made of an input's tokens: as asked for, else as the model's file says."""
    import xllamacpp

    kinds = xllamacpp.llama_pooling_type
    if options.task == "rerank":
        return kinds.LLAMA_POOLING_TYPE_RANK
    return getattr(kinds, f"LLAMA_POOLING_TYPE_{(options.pooling or 'unspecified').upper()}")


def properties(address: str, key: str) -> dict[str, Any]:
    """What the running server says of itself: `context_length` of a slot, `slots`, `tools` and `vision`."""
    # By hand: Python's HTTP client brings TLS and mail along, 10 MB in every worker for this one question.
    where = urlsplit(address)
    head = f"GET /props HTTP/1.0\r\nHost: localhost\r\nAuthorization: Bearer {key}\r\n\r\n"
    with socket.create_connection((where.hostname, where.port or 0), timeout=30) as connection:
        connection.sendall(head.encode())
        with connection.makefile("rb") as answer:
            props = json.loads(answer.read().partition(b"\r\n\r\n")[2])
    return {
        "context_length": props.get("default_generation_settings", {}).get("n_ctx"),
        "slots": props.get("total_slots"),
        "tools": bool(props.get("chat_template_caps", {}).get("supports_tools", False)),
        "vision": bool(props.get("modalities", {}).get("vision", False)),
    }


def tell(**event: Any) -> None:
    sys.stdout.write(json.dumps(event) + "\n")
    sys.stdout.flush()


def main() -> int:
    parser = argparse.ArgumentParser(description="llama.cpp's HTTP server on 127.0.0.1")
    parser.add_argument("--model", required=True)
    parser.add_argument("--alias", default="")
    parser.add_argument("--port", type=int, default=0)
    parser.add_argument("--context-length", type=int, default=0)
    parser.add_argument("--parallel", type=int, default=1)
    parser.add_argument("--batch-size", type=int, default=BATCH)
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--device-index", type=int)
    parser.add_argument("--task", choices=("generate", "embed", "rerank"), default="generate")
    parser.add_argument("--pooling", choices=("mean", "cls", "last"))
    options = parser.parse_args()
    # Taken out of the environment: nothing that the engine starts should inherit it.
    key = os.environ.pop("RBEE_ENGINE_KEY", "")
    try:
        import xllamacpp

        server = xllamacpp.Server(parameters(options, key))
    except ImportError as error:
        tell(event="failed", reason=f"xllamacpp cannot be imported: {error}")
        return UNLOADABLE
    except RuntimeError as error:
        tell(event="failed", reason=str(error))
        time.sleep(LAST_WORDS)
        return UNLOADABLE
    address = server.listening_address
    facts = properties(address, key)
    if options.task != "generate":  # a whole input is one step
        longest = min(facts["context_length"] or options.batch_size, options.batch_size)
        facts.update(context_length=longest, tools=False, vision=False)
    tell(event="listening", address=address, **facts)
    while True:  # the server runs in threads of its own
        signal.pause()


if __name__ == "__main__":
    status = main()
    sys.stdout.flush()
    os._exit(status)  # no destructors: deleting a server can hang
