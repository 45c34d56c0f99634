"""A server for what a real one does not do on request: 429, 500, a hang, a broken reply."""

import json
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from threading import Lock, Thread


class Stub:
    """What the server is to say, and what it was asked.

    `reply` takes a request's JSON object and returns a text (200), a status, (status, object,
    headers), raw bytes for the whole connection, or None to close it without a word. `listing`
    returns the page of models, as (status, object, headers).
    """

    def __init__(self, reply, listing):
        self.reply, self.listing = reply, listing
        self.requests, self.headers, self.clients = [], [], set()
        self.at_once, self.most_at_once = 0, 0
        self.lock = Lock()
        self.url = ""


def completion(text, reason="stop"):
    choice = {"index": 0, "message": {"role": "assistant", "content": text}}
    return {"choices": [{**choice, "finish_reason": reason}]}


class _Handler(BaseHTTPRequestHandler):
    def do_GET(self):
        self._send(*self.server.stub.listing())

    def do_POST(self):
        stub = self.server.stub
        body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
        with stub.lock:
            stub.requests.append(body)
            stub.headers.append(dict(self.headers))
            stub.clients.add(self.client_address)
            stub.at_once += 1
            stub.most_at_once = max(stub.most_at_once, stub.at_once)
        try:
            answer = stub.reply(body)
        finally:
            with stub.lock:
                stub.at_once -= 1
        if answer is None:
            self.close_connection = True
        elif isinstance(answer, bytes):
            self.wfile.write(answer)
            self.close_connection = True
        elif isinstance(answer, str):
            self._send(200, completion(answer), {})
        elif isinstance(answer, int):
            self._send(answer, {"error": {"message": "stub says no"}}, {})
        else:
            self._send(*answer)

    def _send(self, status, content, headers):
        data = json.dumps(content).encode()
        self.send_response(status)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(data)))
        for name, value in headers.items():
            self.send_header(name, value)
        self.end_headers()
        self.wfile.write(data)

    def log_message(self, *_):
        pass


class _Server(ThreadingHTTPServer):
    daemon_threads = True
    request_queue_size = 64

    def handle_error(self, request, client_address):
        pass  # a client that gave up is what some tests are about


class _Keeping(_Handler):
    protocol_version = "HTTP/1.1"


def list_models(*names):
    """Return the page of models, as (status, object, headers)."""
    return 200, {"object": "list", "data": [{"id": name} for name in names]}, {}


@contextmanager
def serve(reply, *, keep_alive=False, listing=lambda: list_models("stub-model")):
    """Run a stub on a free loopback port; kept connections outlive it, so few tests want them."""
    stub = Stub(reply, listing)
    server = _Server(("127.0.0.1", 0), _Keeping if keep_alive else _Handler)
    server.stub = stub
    stub.url = f"http://127.0.0.1:{server.server_port}"
    Thread(target=server.serve_forever, args=(0.01,), daemon=True).start()
    try:
        yield stub
    finally:
        server.shutdown()
        server.server_close()


def prompt_of(body):
    """Return the text of a request."""
    return next(item["text"] for item in body["messages"][0]["content"] if item["type"] == "text")
