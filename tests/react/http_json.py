"""JSON over HTTP/1.1 with keep-alive, for the sample services. Standard library only; knows nothing of any gateway."""

import json
import socket
import sys
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer


class Refusal(Exception):
    """An answer that is not 200."""

    def __init__(self, status, message):
        super().__init__(message)
        self.status = status


class Handler(BaseHTTPRequestHandler):
    """Answers by `answer(method, path, body)` of the subclass, which gives something that JSON can say."""

    protocol_version = "HTTP/1.1"
    # Head and body are two writes: without this the second waits for the first one's acknowledgement.
    disable_nagle_algorithm = True
    timeout = 120

    def serve(self):
        length = int(self.headers.get("Content-Length") or 0)
        text = self.rfile.read(length)
        try:
            body = json.loads(text) if text else None
            status, answer = 200, self.answer(self.command, self.path, body)
        except Refusal as refusal:
            status, answer = refusal.status, {"error": str(refusal)}
        except ValueError as error:
            status, answer = 400, {"error": f"the body is not JSON: {error}"}
        data = (json.dumps(answer, indent=2) + "\n").encode()
        self.send_response(status)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(data)))
        self.end_headers()
        self.wfile.write(data)

    do_GET = do_POST = do_PUT = do_DELETE = serve

    def log_message(self, form, *arguments):
        print(self.address_string(), form % arguments, file=sys.stderr, flush=True)


class Server(ThreadingHTTPServer):
    """Both address families on one port."""

    address_family = socket.AF_INET6
    daemon_threads = True

    def server_bind(self):
        self.socket.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 0)
        super().server_bind()


def serve(handler, port):
    """Serves until it is killed."""
    server = Server(("::", port), handler)
    print(f"listening on port {port}", file=sys.stderr, flush=True)
    server.serve_forever()
