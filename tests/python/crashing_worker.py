"""Stands in for the decoding worker: does every job but the first one it sees at position 5, over which
it crashes each time. Writes all jobs to the file that is its argument: position and message.

As the real worker, it sends replies together when no further job is waiting.
"""

import os
import signal
import socket
import sys

sock = socket.socket(fileno=0)
socket.recv_fds(sock, 1, 1)  # the shared memory
buffered = b""


def position_of(frame):
    """Position of a job: the varint that its frame begins with."""
    value, shift = 0, 0
    for byte in frame:
        value |= (byte & 127) << shift
        shift += 7
        if byte < 128:
            return value
    raise ValueError("a job without a position")


log = open(sys.argv[1], "a+")
replies, setup = b"", True
while True:
    while len(buffered) < 4 or len(buffered) < 4 + int.from_bytes(buffered[:4], "little"):
        sock.sendall(replies)
        replies = b""
        received = sock.recv(1 << 16)
        if not received:
            raise SystemExit
        buffered += received
    end = 4 + int.from_bytes(buffered[:4], "little")
    frame, buffered = buffered[4:end], buffered[end:]
    if setup:
        setup = False
        continue
    position = position_of(frame)
    print(position, frame.hex(), file=log, flush=True)
    log.seek(0)
    first = next(line for line in log if line.startswith(f"{position} "))
    if position == 5 and first.split()[1] == frame.hex():
        os.kill(os.getpid(), signal.SIGSEGV)
    # A frame of four bytes: done, an image of 48×40 pixels, no entropy.
    replies += b"\4\0\0\0" + b"\0\x30\x28\0"
