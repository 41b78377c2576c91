"""Receives signed webhooks as a stranger would: checks each by the published specification with nothing but the standard
library, and writes down what came. Answers what the file of answers says, 200 where it says nothing; with a word after it, only what has that word in it."""

import base64
import hashlib
import hmac
import json
import sys
import time
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

PORT, SECRET, SEEN, ANSWER = int(sys.argv[1]), sys.argv[2], sys.argv[3], sys.argv[4]


def is_signed(headers, body):
    key = base64.b64decode(open(SECRET).read().strip().removeprefix("whsec_"))
    signed = f'{headers["webhook-id"]}.{headers["webhook-timestamp"]}.'.encode() + body
    expected = "v1," + base64.b64encode(hmac.new(key, signed, hashlib.sha256).digest()).decode()
    fresh = abs(time.time() - int(headers["webhook-timestamp"])) < 300
    return fresh and any(hmac.compare_digest(expected, one) for one in headers["webhook-signature"].split(" "))


class Receiver(BaseHTTPRequestHandler):
    def do_POST(self):
        body = self.rfile.read(int(self.headers["content-length"]))
        # The answer is settled before anybody can know that the message came.
        try:
            said, *word = open(ANSWER).read().split()
            status = int(said) if not word or word[0].encode() in body else 200
        except (OSError, ValueError):
            status = 200
        with open(SEEN, "a") as seen:
            seen.write(json.dumps({
                "id": self.headers["webhook-id"],
                "signed": is_signed(self.headers, body),
                "type": self.headers["content-type"],
                "body": json.loads(body),
            }) + "\n")
        self.send_response(status)
        if 300 <= status < 400:
            self.send_header("Location", f"http://127.0.0.1:{PORT}/elsewhere")
        self.send_header("Content-Length", "0")
        self.end_headers()

    def log_message(self, *_):
        pass


server = ThreadingHTTPServer(("127.0.0.1", PORT), Receiver)
print("ready", flush=True)
server.serve_forever()
