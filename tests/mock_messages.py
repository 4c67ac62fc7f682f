"""A Messages API server on this machine for tests: real HTTP, real faults, and a record of everything it was asked.

In a test::

    with MockServer(faults=0.2, seed=3) as server:
        replier = ClaudeReplier("claude-haiku-4-5", base_url=server.url)

On its own, for tests that kill processes::

    python tests/mock_messages.py --port 0 --faults 0.2 --seed 3 --log requests.jsonl

It prints its address as the first line and serves until it is ended.
"""

from __future__ import annotations

import argparse
import datetime
import hashlib
import json
import math
import random
import socket
import struct
import sys
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterable
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

FAULTS = (
    "rate", "error", "overloaded", "slow", "drop", "truncated", "invalid", "refusal", "too_long", "wrong", "no_tool",
)  # fmt: skip
PASSING = ("rate", "error", "overloaded", "slow", "drop", "truncated")
"""Faults after which the same request asked again is answered."""
Request = dict[str, Any]


def content_digest(system: str, text: str, tool: str) -> str:
    """What requests are counted under: the same for every time that a question is asked."""
    return hashlib.sha256(json.dumps([system, text, tool]).encode()).hexdigest()[:16]


def digest_of(params: Request) -> str:
    """:func:`content_digest` of a request: its first system block, first text and first tool."""
    system = params.get("system") or [{"text": ""}]
    content = params["messages"][0]["content"]
    text = content if isinstance(content, str) else content[0]["text"]
    return content_digest(system if isinstance(system, str) else system[0]["text"], text, params["tools"][0]["name"])


def conforming(params: Request) -> dict[str, Any]:
    """A tool input that fits the schema, the same for the same text."""
    rng = random.Random(digest_of(params))
    made = fill(params["tools"][0]["input_schema"], rng)
    assert isinstance(made, dict)
    return made


def fill(schema: dict[str, Any], rng: random.Random) -> Any:
    """Any value that fits ``schema``."""
    if "const" in schema:
        return schema["const"]
    if "enum" in schema:
        return rng.choice(schema["enum"])
    if "anyOf" in schema:
        return fill(rng.choice(schema["anyOf"]), rng)
    kind = schema.get("type", "string")
    kind = rng.choice(kind) if isinstance(kind, list) else kind
    if kind == "object":
        return {name: fill(part, rng) for name, part in schema.get("properties", {}).items()}
    if kind == "array":
        count = max(schema.get("minItems", 1), min(schema.get("maxItems", 2), 2))
        return [fill(schema.get("items", {"type": "string"}), rng) for _ in range(count)]
    low, high = schema.get("minimum", 0), schema.get("maximum", 1)
    if kind == "number":
        return low + (high - low) * round(rng.random(), 3)
    if kind == "integer":
        return rng.randint(math.ceil(low), math.floor(max(low, high)))
    if kind in ("boolean", "null"):
        return rng.random() < 0.5 if kind == "boolean" else None
    text = f"word {rng.randrange(10**6)}".ljust(schema.get("minLength", 0), ".")
    return text[: schema.get("maxLength", len(text))]


def spoiled(made: dict[str, Any], schema: dict[str, Any]) -> dict[str, Any]:
    """``made`` with one value that the schema forbids: an unknown category where there is one, else a wrong type."""
    for name, part in schema.get("properties", {}).items():
        if "enum" in part:
            return made | {name: "Z.99"}
    name = next(iter(schema.get("properties", {})), "answer")
    return made | {name: {"not": "this"}}


class MockServer:
    """The server. Everything can be set while it runs.

    Args:
        answer: makes the tool input for a request's parameters.
        faults: part of requests that get a random fault of ``kinds``.
        script: faults of the coming requests, one each ("ok" for none); then ``faults`` count again. Or a function of
            (parameters, how often this question was asked before), giving a fault or None.
        rate: requests a second, in a bucket that holds ``burst``; beyond it 429. None for no limit.
        headers: whether rate-limit headers are sent.
        key: the only key that is taken; None takes any.
        models: the only models that there are; None for all.
        credit: messages that are answered before the money is gone.
        forced_tool: False refuses requests that name the tool to use.
        latency: seconds for an answer; ``slow_seconds`` for a slow one.
        batch_polls: how often a batch says "in progress". ``batch_fault`` gives a fault for a custom id: errored,
            expired, canceled, missing, or one of :data:`FAULTS`.
        log: a file that gets one JSON line for each request.
    """

    def __init__(
        self,
        *,
        answer: Callable[[Request], dict[str, Any]] = conforming,
        faults: float = 0.0,
        kinds: Iterable[str] = FAULTS,
        seed: int = 0,
        script: list[str] | Callable[[Request, int], str | None] | None = None,
        rate: float | None = None,
        burst: int | None = None,
        headers: bool = True,
        key: str | None = None,
        models: set[str] | None = None,
        credit: int | None = None,
        forced_tool: bool = True,
        latency: float = 0.0,
        slow_seconds: float = 1.0,
        retry_after: float = 0.05,
        batch_polls: int = 1,
        batch_fault: Callable[[str], str | None] | None = None,
        log: Path | None = None,
        port: int = 0,
    ) -> None:
        self.answer = answer
        self.faults, self.kinds, self.script = faults, tuple(kinds), script
        self.rate, self.burst, self.headers = rate, burst or max(1, math.ceil(rate or 1)), headers
        self.key, self.models, self.credit, self.forced_tool = key, models, credit, forced_tool
        self.latency, self.slow_seconds, self.retry_after = latency, slow_seconds, retry_after
        self.batch_polls, self.batch_fault = batch_polls, batch_fault
        self.requests: list[dict[str, Any]] = []
        """One record for each request: ``digest``, ``path``, ``fault``, ``status``, ``time``."""
        self.params: list[Request] = []
        """The parameters of each request for a message."""
        self.answered: Counter[str] = Counter()
        """Good answers by digest, those of batches when they are fetched."""
        self.batches: dict[str, dict[str, Any]] = {}
        self._rng = random.Random(seed)
        self._bucket, self._filled = float(self.burst), time.monotonic()
        self._lock = threading.Lock()
        self._log = log.open("a", encoding="utf-8") if log else None
        self._port = port
        self._server: ThreadingHTTPServer | None = None
        self._cached: set[str] = set()

    @property
    def asked(self) -> Counter[str]:
        """How often each question was asked, whatever came back."""
        return Counter(r["digest"] for r in self.requests if r["digest"])

    @property
    def url(self) -> str:
        assert self._server is not None
        return f"http://127.0.0.1:{self._server.server_address[1]}"

    def __enter__(self) -> MockServer:
        self._server = _Server(("127.0.0.1", self._port), type("Handler", (_Handler,), {"mock": self}))
        threading.Thread(target=self._server.serve_forever, kwargs={"poll_interval": 0.05}, daemon=True).start()
        return self

    def __exit__(self, *_: object) -> None:
        assert self._server is not None
        self._server.shutdown()
        self._server.server_close()
        if self._log:
            self._log.close()

    def record(self, **entry: Any) -> None:
        with self._lock:
            self.requests.append({"time": time.monotonic(), "digest": None, "fault": None} | entry)
            if self._log:
                self._log.write(json.dumps(self.requests[-1]) + "\n")
                self._log.flush()

    def next_fault(self, params: Request) -> str | None:
        if callable(self.script):
            return self.script(params, self.asked[digest_of(params)])
        with self._lock:
            if self.script:
                fault = self.script.pop(0)
                return None if fault == "ok" else fault
            return self._rng.choice(self.kinds) if self._rng.random() < self.faults else None

    def take(self) -> tuple[bool, dict[str, str]]:
        """Whether the rate limit lets one more request in, and the headers that tell."""
        if self.rate is None:
            return True, {}
        with self._lock:
            now = time.monotonic()
            self._bucket = min(self.burst, self._bucket + (now - self._filled) * self.rate)
            self._filled = now
            allowed = self._bucket >= 1.0
            self._bucket -= allowed
            left, full = int(self._bucket), (self.burst - self._bucket) / self.rate
        if not self.headers:
            return allowed, {}
        reset = datetime.datetime.now(datetime.UTC) + datetime.timedelta(seconds=full)
        return allowed, {
            "anthropic-ratelimit-requests-limit": str(round(self.rate * 60)),
            "anthropic-ratelimit-requests-remaining": str(left),
            "anthropic-ratelimit-requests-reset": reset.isoformat(),
        }

    def message(self, params: Request, fault: str | None) -> dict[str, Any]:
        """A message of the API, spoiled by a fault where there is one."""
        tool = params["tools"][0]
        made = self.answer(params)
        stop, details = "tool_use", None
        content: list[dict[str, Any]] = [{"type": "tool_use", "id": "toolu_1", "name": tool["name"], "input": made}]
        if fault == "wrong":
            content[0]["input"] = spoiled(made, tool["input_schema"])
        elif fault == "no_tool":
            content, stop = [{"type": "text", "text": "I would rather talk about it."}], "end_turn"
        elif fault == "refusal":
            content, stop, details = (
                [],
                "refusal",
                {"type": "refusal", "category": "general_harms", "explanation": None},
            )
        elif fault == "too_long":
            content[0]["input"] = dict(list(made.items())[:1])
            stop = "max_tokens"
        prefix = json.dumps([params.get("system"), params["tools"]])
        shared = len(prefix) // 4
        text = len(json.dumps(params["messages"], ensure_ascii=False).encode()) // 4
        marked = "cache_control" in prefix
        with self._lock:
            known = prefix in self._cached
            self._cached.add(prefix)
        usage = {
            "input_tokens": text if marked else text + shared,
            "output_tokens": params["max_tokens"] if fault == "too_long" else len(json.dumps(content)) // 4,
            "cache_creation_input_tokens": shared if marked and not known else 0,
            "cache_read_input_tokens": shared if marked and known else 0,
        }
        return {
            "id": "msg_1", "type": "message", "role": "assistant", "model": params["model"], "content": content,
            "stop_reason": stop, "stop_details": details, "stop_sequence": None, "usage": usage,
        }  # fmt: skip

    def batch_line(self, request: Request) -> str | None:
        """The line of results for one request of a batch; None where it goes missing."""
        name = request["custom_id"]
        fault = self.batch_fault(name) if self.batch_fault else None
        result: dict[str, Any]
        if fault == "missing":
            return None
        if fault in ("expired", "canceled"):
            result = {"type": fault}
        elif fault == "errored":
            result = {"type": "errored", "error": error_body("api_error", "Internal server error")}
        else:
            result = {"type": "succeeded", "message": self.message(request["params"], fault)}
            if fault is None:
                self.answered[digest_of(request["params"])] += 1
        return json.dumps({"custom_id": name, "result": result})


def error_body(kind: str, message: str) -> dict[str, Any]:
    """An error as the API words it."""
    return {"type": "error", "error": {"type": kind, "message": message}, "request_id": "req_1"}


class _Server(ThreadingHTTPServer):
    daemon_threads = True
    request_queue_size = 256

    def handle_error(self, request: Any, client_address: Any) -> None:
        """Clients that are killed are part of the tests."""


class _Handler(BaseHTTPRequestHandler):
    mock: MockServer
    protocol_version = "HTTP/1.1"
    wbufsize = -1
    disable_nagle_algorithm = True

    def log_message(self, format: str, *args: Any) -> None:
        pass

    def send(self, status: int, body: Any, headers: dict[str, str] | None = None) -> None:
        data = body if isinstance(body, bytes) else json.dumps(body).encode()
        self.send_response(status)
        for name, value in ({"content-type": "application/json"} | (headers or {})).items():
            self.send_header(name, value)
        self.send_header("content-length", str(len(data)))
        self.end_headers()
        self.wfile.write(data)
        self.wfile.flush()

    def fail(self, status: int, kind: str, message: str, headers: dict[str, str] | None = None) -> None:
        self.mock.record(path=self.path, status=status, digest=None)
        self.send(status, error_body(kind, message), headers)

    def hang_up(self) -> None:
        """Close with a reset, as a dead router does."""
        self.connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        self.close_connection = True
        self.connection.close()

    def allowed(self) -> bool:
        bearer = self.headers.get("authorization", "").removeprefix("Bearer ")
        key = self.headers.get("x-api-key") or bearer
        if self.mock.key is None or key == self.mock.key:
            return True
        self.fail(401, "authentication_error", f"invalid x-api-key: {key}")
        return False

    def do_POST(self) -> None:
        body = json.loads(self.rfile.read(int(self.headers.get("content-length", 0))) or b"{}")
        if not self.allowed():
            return
        if self.path == "/v1/messages":
            self.one_message(body)
        elif self.path == "/v1/messages/batches":
            self.new_batch(body)
        elif self.path.endswith("/cancel"):
            batch = self.mock.batches[self.path.split("/")[-2]]
            batch["polls"] = 0
            self.send(200, self.batch_record(batch))
        else:
            self.fail(404, "not_found_error", f"no route {self.path}")

    def one_message(self, params: Request) -> None:
        mock, digest = self.mock, digest_of(params)
        let_in, headers = mock.take()
        if not let_in:
            mock.record(path=self.path, status=429, digest=digest, fault="limit")
            wait = headers | {"retry-after": "1"}
            return self.send(429, error_body("rate_limit_error", "This would exceed the rate limit."), wait)
        if mock.models is not None and params["model"] not in mock.models:
            return self.fail(404, "not_found_error", f"model: {params['model']}")
        if not mock.forced_tool and params["tool_choice"]["type"] not in ("auto", "none"):
            said = 'tool_choice: type "tool" and "any" are not supported for this model.'
            return self.fail(400, "invalid_request_error", said)
        if mock.credit is not None and mock.answered.total() >= mock.credit:
            return self.fail(400, "invalid_request_error", "Your credit balance is too low to access the API.")
        fault = mock.next_fault(params)
        mock.params.append(params)
        status = {"rate": 429, "error": 500, "overloaded": 529}.get(fault or "", 200)
        mock.record(path=self.path, status=status, digest=digest, fault=fault)
        time.sleep(mock.slow_seconds if fault == "slow" else mock.latency)
        if fault == "rate":
            wait = headers | {"retry-after": str(mock.retry_after)}
            return self.send(429, error_body("rate_limit_error", "Slow down."), wait)
        if fault in ("error", "overloaded"):
            kind = "api_error" if fault == "error" else "overloaded_error"
            return self.send(status, error_body(kind, "Not now."), {"retry-after": str(mock.retry_after)})
        if fault in ("drop", "truncated"):
            data = json.dumps(mock.message(params, None)).encode()
            if fault == "truncated":
                self.send_response(200)
                self.send_header("content-type", "application/json")
                self.send_header("content-length", str(len(data)))
                self.end_headers()
                self.wfile.write(data[: len(data) // 2])
                self.wfile.flush()
            return self.hang_up()
        if fault == "invalid":
            return self.send(200, b'{"type": "message", "content": [{"type": "tool_', headers)
        if fault in (None, "slow"):
            mock.answered[digest] += 1
        return self.send(200, mock.message(params, fault), headers)

    def new_batch(self, body: Request) -> None:
        mock, requests = self.mock, body["requests"]
        names = [r["custom_id"] for r in requests]
        if len(set(names)) < len(names) or not names:
            return self.fail(400, "invalid_request_error", "requests: custom_id must be unique")
        fault = mock.next_fault(requests[0]["params"])
        if fault in ("error", "overloaded", "rate"):
            status = {"rate": 429, "error": 500, "overloaded": 529}[fault]
            return self.fail(status, "api_error", "Not now.", {"retry-after": str(mock.retry_after)})
        for request in requests:
            mock.record(path=self.path, status=200, digest=digest_of(request["params"]), fault=None)
        with mock._lock:
            name = f"msgbatch_{len(mock.batches):04d}"
            mock.batches[name] = {"id": name, "requests": requests, "polls": mock.batch_polls, "at": now()}
        if fault == "drop":
            return self.hang_up()
        return self.send(200, self.batch_record(mock.batches[name]))

    def batch_record(self, batch: dict[str, Any]) -> dict[str, Any]:
        ended, count = batch["polls"] <= 0, len(batch["requests"])
        counts = {"processing": 0 if ended else count, "succeeded": count if ended else 0}
        return {
            "id": batch["id"], "type": "message_batch", "processing_status": "ended" if ended else "in_progress",
            "request_counts": counts | {"errored": 0, "canceled": 0, "expired": 0}, "created_at": batch["at"],
            "expires_at": batch["at"], "ended_at": batch["at"] if ended else None, "archived_at": None,
            "cancel_initiated_at": None,
            "results_url": f"{self.mock.url}/v1/messages/batches/{batch['id']}/results" if ended else None,
        }  # fmt: skip

    def do_GET(self) -> None:
        mock, path = self.mock, self.path.partition("?")[0]
        if not self.allowed():
            return None
        parts = path.strip("/").split("/")
        if parts == ["v1", "messages", "batches"]:
            newest = [self.batch_record(b) for b in reversed(mock.batches.values())]
            return self.send(200, {"data": newest, "has_more": False, "first_id": None, "last_id": None})
        batch = mock.batches.get(parts[3]) if parts[:3] == ["v1", "messages", "batches"] and len(parts) > 3 else None
        if batch is None:
            return self.fail(404, "not_found_error", f"no such batch: {path}")
        mock.record(path=path, status=200)
        if parts[-1] == "results":
            lines = [line for line in map(mock.batch_line, reversed(batch["requests"])) if line]
            return self.send(
                200, "".join(f"{line}\n" for line in lines).encode(), {"content-type": "application/x-jsonl"}
            )
        self.send(200, self.batch_record(batch))
        batch["polls"] -= 1
        return None


def now() -> str:
    return datetime.datetime.now(datetime.UTC).isoformat()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--port", type=int, default=0)
    parser.add_argument("--faults", type=float, default=0.0)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--rate", type=float)
    parser.add_argument("--latency", type=float, default=0.0)
    parser.add_argument("--log", type=Path)
    given = parser.parse_args()
    with MockServer(
        faults=given.faults, seed=given.seed, rate=given.rate, latency=given.latency, log=given.log, port=given.port
    ) as server:
        print(server.url, flush=True)
        try:
            threading.Event().wait()
        except KeyboardInterrupt:
            sys.exit(0)


if __name__ == "__main__":
    main()
