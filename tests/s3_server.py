"""An S3 server on this machine, with a bucket, which can be told to fail."""

import logging
import random
import socket
import threading
from collections import Counter
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from typing import Any

import boto3
import pytest
from moto.backends import get_backend
from moto.server import DomainDispatcherApplication, create_backend_app
from werkzeug.serving import make_server

BUCKET = "bucket"
FAULTS = ("500", "503", "dropped", "answer lost")


class Faulty:
    """A WSGI application that fails a share of its requests, in one of FAULTS each."""

    def __init__(self, app: Any, seed: int) -> None:
        self.rate = 0.0
        self.seen: Counter[str] = Counter()
        self._app = app
        self._random = random.Random(seed)
        self._lock = threading.Lock()

    def __call__(self, environ: dict[str, Any], start_response: Any) -> Iterable[bytes]:
        with self._lock:
            fails = self._random.random() < self.rate
            fault = self._random.choice(FAULTS) if fails else "none"
            self.seen[fault] += 1
        if fault in ("500", "503"):
            _read_body(environ)  # left there, it would be taken for the next request
            start_response(f"{fault} Sorry", [("Content-Length", "0")])
            return [b""]
        if fault == "dropped":
            environ["werkzeug.socket"].shutdown(socket.SHUT_RDWR)
            start_response("500 Unheard", [])
            return [b""]
        answer = b"".join(self._app(environ, start_response))
        if fault == "answer lost":  # what was asked for is done all the same
            environ["werkzeug.socket"].shutdown(socket.SHUT_RDWR)
        return [answer]


def _read_body(environ: dict[str, Any]) -> None:
    chunked = environ.get("wsgi.input_terminated", False)
    environ["wsgi.input"].read(-1 if chunked else int(environ.get("CONTENT_LENGTH") or 0))


@contextmanager
def serve(monkeypatch: pytest.MonkeyPatch, *, seed: int = 0) -> Iterator[Faulty]:
    """Serve `s3://bucket` to this process and to those it starts."""
    logging.getLogger("werkzeug").setLevel(logging.CRITICAL)
    app = Faulty(DomainDispatcherApplication(create_backend_app), seed)
    server = make_server("127.0.0.1", 0, app, threaded=True)
    thread = threading.Thread(target=server.serve_forever, daemon=True)
    thread.start()
    for name, value in {
        "AWS_ACCESS_KEY_ID": "test",
        "AWS_SECRET_ACCESS_KEY": "test",
        "AWS_DEFAULT_REGION": "us-east-1",
        "AWS_EC2_METADATA_DISABLED": "true",
        "AWS_ENDPOINT_URL": f"http://127.0.0.1:{server.server_port}",
    }.items():
        monkeypatch.setenv(name, value)
    try:
        boto3.client("s3").create_bucket(Bucket=BUCKET)
        yield app
    finally:
        get_backend("s3").reset()  # what is stored belongs to the process, not to this server
        server.shutdown()
        thread.join()
        server.server_close()
