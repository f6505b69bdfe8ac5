"""The peer of benchmarks/serving.py: plain FastAPI and transformers' `generate`, one request at a time.

transformers' GPT-1 has no KV cache. Run as: python -m benchmarks.serving_peer MODEL_FOLDER
"""

from __future__ import annotations

import socket
import sys
import threading
from collections.abc import Iterator
from typing import Any

import torch


def make_app(model: Any) -> Any:
    from fastapi import FastAPI
    from fastapi.responses import StreamingResponse
    from transformers.generation.streamers import BaseStreamer

    app, lock = FastAPI(), threading.Lock()

    class FirstToken(BaseStreamer):
        """Notes when the first new token is there."""

        def __init__(self) -> None:
            self.values, self.ready = 0, threading.Event()

        def put(self, value: Any) -> None:
            self.values += 1
            if self.values == 2:  # the first value is the prompt
                self.ready.set()

        def end(self) -> None:
            self.ready.set()

    @app.post("/v1/completions")
    def completions(body: dict[str, Any]) -> Any:
        ids, new = torch.tensor([body["prompt"]]), body["max_tokens"]

        def events() -> Iterator[bytes]:
            streamer, found = FirstToken(), []
            options = {"max_new_tokens": new, "do_sample": False, "pad_token_id": 0, "streamer": streamer}

            def work() -> None:
                with lock, torch.inference_mode():
                    found.append(model.generate(ids, attention_mask=torch.ones_like(ids), **options))

            thread = threading.Thread(target=work)
            thread.start()
            streamer.ready.wait()
            yield b"data: first token\n\n"
            thread.join()
            yield f"data: {found[0][0, ids.shape[1] :].tolist()}\n\n".encode()

        return StreamingResponse(events(), media_type="text/event-stream")

    return app


def main() -> None:
    import uvicorn
    from transformers import OpenAIGPTLMHeadModel

    model = OpenAIGPTLMHeadModel.from_pretrained(sys.argv[1]).eval()
    listener = socket.socket()
    listener.bind(("127.0.0.1", 0))
    listener.listen()
    print(f"peer at http://127.0.0.1:{listener.getsockname()[1]};", file=sys.stderr, flush=True)
    uvicorn.Server(uvicorn.Config(make_app(model), log_level="critical")).run([listener])


if __name__ == "__main__":
    main()
