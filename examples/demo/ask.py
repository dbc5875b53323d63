# SPDX-License-Identifier: GPL-3.0-or-later
"""Ask the demo fleet one streamed question, as any OpenAI client would, and say who answered and how fast."""

from __future__ import annotations

import os
import sys
import time

from openai import APIConnectionError, OpenAI

QUESTION = "What is rbee?"
URL = os.environ.get("RBEE_QUEEN_URL", "http://127.0.0.1:7833") + "/v1"


def main() -> int:
    # The queen listens on loopback, where no key is asked; the client library wants some text all the same.
    client = OpenAI(base_url=URL, api_key=os.environ.get("OPENAI_API_KEY", "not-needed-on-loopback"))
    print(f"\nAsking {URL}: {QUESTION}\n")
    tokens, began = 0, time.perf_counter()
    try:
        with client.chat.completions.with_streaming_response.create(
            model="bee-tiny",
            messages=[{"role": "user", "content": QUESTION}],
            temperature=0,
            max_tokens=120,
            stream=True,
            stream_options={"include_usage": True},
        ) as answer:
            headers = answer.headers
            for chunk in answer.parse():
                if chunk.usage:
                    tokens = chunk.usage.completion_tokens
                text = chunk.choices[0].delta.content if chunk.choices else None
                if text:
                    print(text, end="", flush=True)
    except APIConnectionError as e:
        print(f"The queen does not answer at {URL}: {e}. Is the demo applied? (make demo)", file=sys.stderr)
        return 1
    took = time.perf_counter() - began
    print(
        f"\n\n{tokens} tokens in {took * 1000:.0f} ms ({tokens / took:.0f} tokens/s, the request's way included), "
        f"worker {headers.get('x-rbee-worker')} on hive {headers.get('x-rbee-hive')}\n"
    )
    print("Look at it:      .venv/bin/rbee status")
    print(f"Use it:          any OpenAI client at {URL}")
    print("A real model:    change one line, `source:`, in examples/demo/rbee.yaml, then make demo")
    print("Stop it:         make demo-stop")
    return 0


if __name__ == "__main__":
    sys.exit(main())
