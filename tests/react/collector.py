#!/usr/bin/env python3
"""Where an attacker collects what agents send out, by HTTP and by UDP. Prints every arrival on standard output.

    collector.py [PORT]      9000 unless told otherwise
"""

import socket
import sys
import threading

from http_json import Handler, serve


class Collector(Handler):
    def answer(self, method, path, body):
        print(f"GOT by TCP: {method} {path} {body}", flush=True)
        return {"thanks": True}


def collect_datagrams(port):
    with socket.socket(socket.AF_INET6, socket.SOCK_DGRAM) as mailbox:
        mailbox.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 0)
        mailbox.bind(("::", port))
        while True:
            data, _ = mailbox.recvfrom(65536)
            print(f"GOT by UDP: {data.decode(errors='replace').strip()}", flush=True)


if __name__ == "__main__":
    number = int(sys.argv[1]) if len(sys.argv) > 1 else 9000
    threading.Thread(target=collect_datagrams, args=(number,), daemon=True).start()
    serve(Collector, number)
