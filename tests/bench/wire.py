"""Just enough gRPC over HTTP/2 to ask an etcd server: no dependency, one connection, requests in a pipeline.

Headers of answers are not decoded; an answer without a message is a refusal.
"""

import socket
import struct
import time

PREFACE = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n"
DATA, HEADERS, RST, SETTINGS, PING, GOAWAY, WINDOW_UPDATE = 0, 1, 3, 4, 6, 7, 8
END_STREAM, END_HEADERS, ACK = 1, 4, 1
MAX_WINDOW = 2**31 - 1
REFILL = 2**28

KV = "/etcdserverpb.KV/"
LEASE = "/etcdserverpb.Lease/"


class Refused(Exception):
    """The server did not answer a request with a message."""


# Messages ------------------------------------------------------------------------------------------------


def varint(number):
    number &= 2**64 - 1
    out = bytearray()
    while number >= 0x80:
        out.append(number & 0x7F | 0x80)
        number >>= 7
    out.append(number)
    return bytes(out)


def field(tag, value):
    """One field of a message; an empty one is left out, as proto3 has it."""
    if isinstance(value, bytes):
        return varint(tag << 3 | 2) + varint(len(value)) + value if value else b""
    return varint(tag << 3) + varint(int(value)) if value else b""


def parse(message):
    """The fields of a message: numbers of varints and bytes of the rest, by tag, in order."""
    fields, at = {}, 0

    def number():
        nonlocal at
        value = shift = 0
        while True:
            byte = message[at]
            at += 1
            value |= (byte & 0x7F) << shift
            shift += 7
            if byte < 0x80:
                return value

    while at < len(message):
        key = number()
        if key & 7 == 0:
            value = number()
        elif key & 7 == 2:
            size = number()
            value = message[at : at + size]
            at += size
        else:
            raise ValueError(f"field {key >> 3} of kind {key & 7}")
        fields.setdefault(key >> 3, []).append(value)
    return fields


def put(key, value, lease=0):
    return field(1, key) + field(2, value) + field(3, lease)


def get(key, end=b"", limit=0, revision=0, serializable=False, count_only=False):
    return (
        field(1, key) + field(2, end) + field(3, limit) + field(4, revision)
        + field(7, serializable) + field(9, count_only)
    )


def delete(key, end=b""):
    return field(1, key) + field(2, end)


def guarded_put(key, value):
    """If the key has version 0 or more, as every key has, then put, else get."""
    compare = field(1, 1) + field(3, key) + field(4, -1)
    return field(1, compare) + field(2, field(2, put(key, value))) + field(3, field(1, get(key)))


def grant(ttl, lease=0):
    return field(1, ttl) + field(2, lease)


def compaction(revision, physical):
    return field(1, revision) + field(2, physical)


def everything():
    """The bounds of the whole key space."""
    return b"\0", b"\0"


def bench_key(number, size):
    """The key that etcd's benchmark tool makes of a number."""
    return varint(number << 1).ljust(size, b"\0")


def framed(message):
    """A message as the body of a gRPC request."""
    return b"\0" + struct.pack(">I", len(message)) + message


# Connections ---------------------------------------------------------------------------------------------


def _literal(text):
    data = text.encode()
    assert len(data) < 127, text
    return bytes([len(data)]) + data


def _header_block(path, authority):
    block = b"\x83\x86" + b"\x04" + _literal(path) + b"\x01" + _literal(authority)
    block += b"\x0f\x10" + _literal("application/grpc")
    return block + b"\x00" + _literal("te") + _literal("trailers")


class Channel:
    """One connection. Not for more than one thread."""

    def __init__(self, port, timeout=60):
        self.socket = socket.create_connection(("127.0.0.1", port), timeout=timeout)
        self.socket.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        self.authority = f"127.0.0.1:{port}"
        self.buffer = bytearray()
        self.next_stream = 1
        self.send_window = 65535
        self.received = 0
        self.answers = {}
        settings = struct.pack(">HI", 4, MAX_WINDOW)
        self.socket.sendall(
            PREFACE + self._frame(SETTINGS, 0, 0, settings)
            + self._frame(WINDOW_UPDATE, 0, 0, struct.pack(">I", MAX_WINDOW - 65535))
        )

    def close(self):
        self.socket.close()

    @staticmethod
    def _frame(kind, flags, stream, payload):
        return struct.pack(">I", len(payload))[1:] + bytes([kind, flags]) + struct.pack(">I", stream) + payload

    def _send(self, path, message, last=True):
        body = framed(message)
        while self.send_window < len(body):
            self._receive()
        stream, self.next_stream = self.next_stream, self.next_stream + 2
        self.send_window -= len(body)
        frames = [self._frame(HEADERS, END_HEADERS, stream, _header_block(path, self.authority))]
        chunks = [body[at : at + 16384] for at in range(0, len(body), 16384)]
        for at, chunk in enumerate(chunks):
            frames.append(self._frame(DATA, END_STREAM if last and at + 1 == len(chunks) else 0, stream, chunk))
        self.socket.sendall(b"".join(frames))
        return stream

    def _receive(self):
        """Handles one frame; returns the stream that it ended, or None."""
        while len(self.buffer) < 9 or len(self.buffer) < 9 + int.from_bytes(self.buffer[:3], "big"):
            data = self.socket.recv(262144)
            if not data:
                raise ConnectionError("closed by the server")
            self.buffer += data
        size = int.from_bytes(self.buffer[:3], "big")
        kind, flags = self.buffer[3], self.buffer[4]
        stream = int.from_bytes(self.buffer[5:9], "big") & MAX_WINDOW
        payload = bytes(self.buffer[9 : 9 + size])
        del self.buffer[: 9 + size]
        if kind == DATA:
            self.answers.setdefault(stream, bytearray()).extend(payload)
            self.received += size
            if self.received > REFILL:
                self.socket.sendall(self._frame(WINDOW_UPDATE, 0, 0, struct.pack(">I", self.received)))
                self.received = 0
        elif kind == SETTINGS and not flags & ACK:
            self.socket.sendall(self._frame(SETTINGS, ACK, 0, b""))
        elif kind == PING and not flags & ACK:
            self.socket.sendall(self._frame(PING, ACK, 0, payload))
        elif kind == WINDOW_UPDATE and stream == 0:
            self.send_window += int.from_bytes(payload, "big")
        elif kind == GOAWAY:
            raise ConnectionError(f"sent away: {payload[8:]!r}")
        ended = kind == RST or kind in (DATA, HEADERS) and flags & END_STREAM
        return stream if ended else None

    def _answer(self, stream):
        body = bytes(self.answers.pop(stream, b""))
        if len(body) < 5:
            raise Refused("no message in the answer")
        return body[5:]

    def call(self, path, message):
        """Asks once and returns the message of the answer."""
        stream = self._send(path, message)
        while self._receive() != stream:
            pass
        return self._answer(stream)

    def pipeline(self, path, messages, in_flight=100):
        """Asks for each of the messages with so many under way; returns the latencies in seconds."""
        under_way, latencies = {}, []

        def take():
            stream = self._receive()
            if stream in under_way:
                latencies.append(time.perf_counter() - under_way.pop(stream))
                self._answer(stream)

        for message in messages:
            while len(under_way) >= in_flight:
                take()
            begun = time.perf_counter()
            under_way[self._send(path, message)] = begun
        while under_way:
            take()
        return latencies

    def replay(self, bounds, events):
        """Watches a range from the first revision until so many events came; returns how many did."""
        create = field(1, bounds[0]) + field(2, bounds[1]) + field(3, 1)
        stream, seen = self._send("/etcdserverpb.Watch/Watch", field(1, create), last=False), 0
        for message in self._messages(stream):
            seen += len(parse(message).get(11, []))
            if seen >= events:
                return seen

    def _messages(self, stream):
        """The messages of a stream as they come."""
        body = bytearray()
        while True:
            self._receive()
            body += self.answers.pop(stream, b"")
            while len(body) >= 5 and len(body) >= (size := 5 + int.from_bytes(body[1:5], "big")):
                yield bytes(body[5:size])
                del body[:size]

    def watch_and_stall(self, key, watchers):
        """Creates so many watchers of a key on one stream, and reads nothing after they are there."""
        create = field(1, field(1, key))
        stream = self._send("/etcdserverpb.Watch/Watch", create, last=False)
        more = framed(create)
        frames = b"".join(self._frame(DATA, 0, stream, more) for _ in range(watchers - 1))
        self.socket.sendall(frames)
        for _ in zip(range(watchers), self._messages(stream)):
            pass

    # Questions the scenarios ask.

    def revision(self):
        header = parse(self.call(KV + "Range", get(b"\0", count_only=True)))[1][0]
        return parse(header).get(3, [0])[0]

    def count(self):
        start, end = everything()
        return parse(self.call(KV + "Range", get(start, end, count_only=True))).get(4, [0])[0]
