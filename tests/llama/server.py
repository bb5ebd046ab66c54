"""A real llama.cpp server for tests: the one of `llama-cpp-python`, with a model of random weights."""

from __future__ import annotations

import json
import os
import socket
import subprocess
import time
from pathlib import Path
from types import TracebackType
from typing import Self

import httpx

from tests.gateway import ROOT

KEY = "sk-llama-server-0123456789"


class LlamaServer:
    """Serves from `with` to the end of it: `tiny` chats, `tiny-embed` is the same weights, made for embeddings."""

    def __init__(self, folder: Path, python: str = os.environ.get("UNIGATE_LLAMA_PYTHON", "")) -> None:
        self._python = python
        self._folder = folder
        with socket.socket() as free:
            free.bind(("127.0.0.1", 0))
            self._port: int = free.getsockname()[1]
        self.url = f"http://127.0.0.1:{self._port}"
        self._process: subprocess.Popen[bytes]

    @property
    def log(self) -> str:
        return (self._folder / "server.log").read_text(errors="replace")

    def __enter__(self) -> Self:
        model, settings = str(self._folder / "tiny.gguf"), self._folder / "server.json"
        subprocess.run([self._python, "-m", "tests.llama.make_model", model], cwd=ROOT, check=True, timeout=60)
        common = {"model": model, "n_ctx": 1024, "verbose": False}
        models = [{**common, "model_alias": "tiny"}, {**common, "model_alias": "tiny-embed", "embedding": True}]
        document = {
            "host": "127.0.0.1",
            "port": self._port,
            "api_key": KEY,
            "interrupt_requests": False,  # else a call breaks off the one before it
            "models": models,
        }
        settings.write_text(json.dumps(document))
        command = [self._python, "-m", "llama_cpp.server", "--config_file", str(settings)]
        with (self._folder / "server.log").open("wb") as log:
            self._process = subprocess.Popen(command, stdout=log, stderr=log)
        try:
            self._await()
        except BaseException:
            self._end()
            raise
        return self

    def _await(self) -> None:
        end = time.monotonic() + 60
        with httpx.Client(trust_env=False, headers={"authorization": f"Bearer {KEY}"}) as client:
            while True:
                assert self._process.poll() is None, f"the server ended at once:\n{self.log}"
                assert time.monotonic() < end, f"the server did not start:\n{self.log}"
                try:
                    client.get(f"{self.url}/v1/models").raise_for_status()
                except httpx.TransportError:
                    time.sleep(0.1)
                else:
                    return

    def _end(self) -> None:
        self._process.kill()
        self._process.wait(10)

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        self._end()
