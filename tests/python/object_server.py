"""An HTTP server over the files of a folder that fails on request.

`/NAME` is the file. `/FAULT.COUNT/NAME` is the same file, but the first COUNT `GET`s of this path
suffer the fault. `/log` lists the `GET`s of files so far: path and range, a line each.
Prints its address, then serves until its standard input ends. With `--tls`, it speaks HTTPS.
"""

import http.server
import os
import sys
import threading
import time
import zlib

folder = sys.argv[1]
lock = threading.Lock()
log = []
faults = {}


def next_fault(path):
    """The fault that this request suffers, and the file's name."""
    parts = path.strip("/").split("/", 1)
    if len(parts) < 2:
        return None, parts[0]
    name, count = parts[0].split(".")
    with lock:
        faults[path] = faults.get(path, 0) + 1
        return (name if faults[path] <= int(count) else None), parts[1]


class Handler(http.server.BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"

    def log_message(self, *arguments):
        pass

    def do_HEAD(self):
        path = self.path.split("?")[0]
        name = path.rsplit("/", 1)[-1]
        if path.startswith("/nohead"):
            return self.answer(405)
        if not os.path.isfile(os.path.join(folder, name)):
            return self.answer(404)
        size, tag = self.state(name)
        self.send_response(200)
        self.send_header("Content-Length", str(size))
        self.send_header("ETag", tag)
        self.end_headers()

    def do_GET(self):
        path = self.path.split("?")[0]
        if path == "/log":
            with lock:
                body = "\n".join(log).encode()
            return self.answer(200, body)
        fault, name = next_fault(path)
        with lock:
            log.append(f"{path} {self.headers.get('Range')}")
        if not os.path.isfile(os.path.join(folder, name)):
            return self.answer(404)
        if fault and fault.isdigit():
            return self.answer(int(fault), b"not now")
        if fault == "moved":
            return self.answer(302, headers={"Location": f"/{name}"})
        self.send_file(name, fault)

    def answer(self, status, body=b"", headers={}):
        self.send_response(status)
        self.send_header("Content-Length", str(len(body)))
        for key, value in headers.items():
            self.send_header(key, value)
        self.end_headers()
        self.wfile.write(body)

    def state(self, name):
        with open(os.path.join(folder, name), "rb") as file:
            data = file.read()
        return len(data), f'"{zlib.crc32(data):08x}"'

    def send_file(self, name, fault):
        size, tag = self.state(name)
        asked = self.headers.get("Range")
        if asked and fault != "norange":
            first, last = asked.removeprefix("bytes=").split("-")
            start, end = int(first), min(int(last) + 1, size)
            if start >= size:
                return self.answer(416)
            self.send_response(206)
            self.send_header("Content-Range", f"bytes {start}-{end - 1}/{size}")
        else:
            start, end = 0, size
            self.send_response(200)
        self.send_header("ETag", tag)
        with open(os.path.join(folder, name), "rb") as file:
            file.seek(start)
            body = file.read(end - start)
        self.send_body(body, fault)

    def send_body(self, body, fault):
        half = len(body) // 2
        announced = {"announcesmore": 2 * len(body), "announcesless": half}
        if fault in ("endsearly", "goeson"):
            # Chunks instead of a length: only what comes tells how much it is.
            self.send_header("Transfer-Encoding", "chunked")
            self.end_headers()
            part = body[:half] if fault == "endsearly" else body + b"more"
            self.wfile.write(b"%x\r\n%s\r\n0\r\n\r\n" % (len(part), part))
            return
        self.send_header("Content-Length", str(announced.get(fault, len(body))))
        self.end_headers()
        if fault == "cut":
            self.wfile.write(body[:half])
            self.close_connection = True
        elif fault == "stalls":
            self.wfile.write(body[:half])
            self.wfile.flush()
            time.sleep(4)
            self.close_connection = True
        elif fault == "trickles":
            self.close_connection = True
            for place in range(0, len(body), 2):
                self.wfile.write(body[place : place + 2])
                self.wfile.flush()
                time.sleep(0.05)
        elif fault == "slow":
            for place in range(0, len(body), 1 + len(body) // 8):
                self.wfile.write(body[place : place + 1 + len(body) // 8])
                self.wfile.flush()
                time.sleep(0.1)
        else:
            self.wfile.write(body)
            self.close_connection = fault in announced


class Server(http.server.ThreadingHTTPServer):
    daemon_threads = True

    def handle_error(self, request, address):
        """A client that hangs up is part of the tests."""


server = Server(("127.0.0.1", 0), Handler)
scheme = "http"
if "--tls" in sys.argv:
    from certificate import server_context

    scheme = "https"
    server.socket = server_context(folder).wrap_socket(server.socket, server_side=True)
threading.Thread(target=server.serve_forever, daemon=True).start()
print(f"{scheme}://127.0.0.1:{server.server_port}", flush=True)
sys.stdin.read()
