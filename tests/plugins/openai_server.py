"""A server with OpenAI's protocols on one port of this machine, which misbehaves in every way that a test asks for.

It speaks tones: how high and how long depends on the text, so that pieces which are missing, doubled or swapped are
seen. What it answers in full counts as paid for. `SpeechServer` runs on a thread of its own.
"""

from __future__ import annotations

import asyncio
import base64
import hashlib
import io
import json
import socket
import struct
import threading
import time
import wave
from collections import Counter, deque
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass, field
from typing import Any

import av
import numpy as np
from websockets.frames import Frame, Opcode
from websockets.http11 import Request
from websockets.server import ServerProtocol

RATE = 24_000
CHARACTERS_PER_SECOND = 25
STALL_SECONDS = 30.0

ERRORS: dict[str, tuple[int, dict[str, Any]]] = {
    "400": (400, {"message": "Invalid value for voice.", "type": "invalid_request_error", "code": None}),
    "401": (
        401,
        {"message": "Incorrect API key provided.", "type": "invalid_request_error", "code": "invalid_api_key"},
    ),
    "501": (501, {"message": "Unsupported method.", "type": "server_error", "code": None}),
    "403": (403, {"message": "Country not supported.", "type": "request_forbidden", "code": None}),
    "404": (404, {"message": "The model does not exist.", "type": "invalid_request_error", "code": "model_not_found"}),
    "429": (429, {"message": "Rate limit reached.", "type": "requests", "code": "rate_limit_exceeded"}),
    "quota": (429, {"message": "You exceeded your quota.", "type": "insufficient_quota", "code": "insufficient_quota"}),
    "500": (500, {"message": "The server had an error.", "type": "server_error", "code": None}),
    "503": (503, {"message": "The engine is overloaded.", "type": "server_error", "code": None}),
}
HTML = b"<html><body>Please log in to this network.</body></html>"


def tone(text: str, speed: float = 1.0) -> np.ndarray:
    """What the server speaks for a text, 16 bit, 24 kHz; loud from the first sample to the last."""
    number = int.from_bytes(hashlib.sha256(text.encode()).digest()[:4])
    samples = int((1000 + RATE * len(text) // CHARACTERS_PER_SECOND) / speed)
    wavelength = 24 + number % 211
    return np.where(np.arange(samples) % wavelength < wavelength // 2, 7000 + number % 499, -7000).astype("<i2")


def encoded(samples: np.ndarray, form: str) -> bytes:
    """The samples as a file of this format."""
    if form == "pcm":
        return samples.tobytes()
    buffer = io.BytesIO()
    if form == "wav":
        with wave.open(buffer, "wb") as file:
            file.setnchannels(1)
            file.setsampwidth(2)
            file.setframerate(RATE)
            file.writeframes(samples.tobytes())
        return buffer.getvalue()
    with av.open(buffer, "w", format={"aac": "adts", "opus": "ogg"}.get(form, form)) as container:
        stream = container.add_stream({"mp3": "mp3", "opus": "libopus"}.get(form, form), rate=RATE, layout="mono")
        planar = {"flac": "s16", "mp3": "s16p", "opus": "s16"}.get(form)
        frame = av.AudioFrame.from_ndarray(samples[None, :], format="s16", layout="mono")
        frame.sample_rate = RATE
        for resampled in av.AudioResampler(planar or "fltp", "mono", RATE).resample(frame):
            container.mux(stream.encode(resampled))
        container.mux(stream.encode())
    return buffer.getvalue()


@dataclass
class SpeechServer:
    """Use it as a context manager.

    Attributes:
        plan: what to do with a text at its n-th request (from 0); the name of a behaviour, "ok" for none.
        script: behaviours for the next requests, whatever their text; goes before `plan`.
        handshakes: the same for WebSocket handshakes: names of `ERRORS`.
        retry_after: the header of a 429.
        models: what `GET /v1/models` lists.
        voices: what `GET /v1/audio/voices` lists; None: there is no such list.
        listing: what it does instead of listing: one of `ERRORS`, "html", "redirect", "reset", or a JSON text.
        key: the only one that it takes for a list; None: any.
        port: of this machine; 0: one that is free.
        slow_seconds: between the eight pieces of an answer that is "slow".
        paid: how often each text was spoken in full.
        requests: the bodies of all requests for speech, in order.
        authorizations: every value of that header.
        connections: how many WebSocket connections were opened.
        sessions: every session.update that came in.
        begun: told each request.
        released: set it to let requests with the behaviour "hold" go on, to a 503.
    """

    plan: Callable[[str, int], str] = lambda text, attempt: "ok"
    script: deque[str] = field(default_factory=deque)
    handshakes: deque[str] = field(default_factory=deque)
    retry_after: str = "0"
    models: list[dict[str, Any]] = field(default_factory=list)
    voices: list[Any] | None = None
    listing: str = "ok"
    key: str | None = None
    session_seconds: float = 3600.0
    port: int = 0
    slow_seconds: float = 0.05
    paid: Counter[str] = field(default_factory=Counter)
    requests: list[dict[str, Any]] = field(default_factory=list)
    seen: Counter[str] = field(default_factory=Counter)
    authorizations: set[str] = field(default_factory=set)
    connections: int = 0
    open: int = 0
    most_open: int = 0
    sessions: list[dict[str, Any]] = field(default_factory=list)
    begun: threading.Event = field(default_factory=threading.Event)
    released: threading.Event = field(default_factory=threading.Event)

    def __enter__(self) -> SpeechServer:
        started = threading.Event()
        self._thread = threading.Thread(target=lambda: asyncio.run(self._serve(started)))
        self._thread.start()
        started.wait()
        return self

    def __exit__(self, *_: object) -> None:
        self.released.set()
        self._loop.call_soon_threadsafe(self._end.set)
        self._thread.join()

    @property
    def base_url(self) -> str:
        return f"http://127.0.0.1:{self.port}/v1"

    async def _serve(self, started: threading.Event) -> None:
        self._loop = asyncio.get_running_loop()
        self._end = asyncio.Event()
        tasks: set[asyncio.Task[None]] = set()

        async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
            tasks.add(task := asyncio.current_task())
            try:
                await _Connection(self, reader, writer).serve()
            except (asyncio.CancelledError, OSError, EOFError):
                pass
            finally:
                tasks.discard(task)
                writer.close()

        server = await asyncio.start_server(serve, "127.0.0.1", self.port)
        self.port = server.sockets[0].getsockname()[1]
        started.set()
        await self._end.wait()
        server.close()
        for task in list(tasks):
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)

    def behaviour(self, body: dict[str, Any], text: str) -> str:
        self.requests.append(body)
        attempt = self.seen[text]
        self.seen[text] += 1
        self.begun.set()
        return self.script.popleft() if self.script else self.plan(text, attempt)


class _Connection:
    def __init__(self, server: SpeechServer, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.server = server
        self.reader = reader
        self.writer = writer

    async def serve(self) -> None:
        while True:
            head = await self.reader.readuntil(b"\r\n\r\n")
            request, *lines = head.decode().split("\r\n")
            headers = dict(line.lower().split(": ", 1) for line in lines if line)
            self.authorization = next(line[15:] for line in lines if line.lower().startswith("authorization: "))
            self.server.authorizations.add(self.authorization)
            if "websocket" in headers.get("upgrade", ""):
                await self.realtime(head)
                return
            body = await self.reader.readexactly(int(headers.get("content-length", 0)))
            if request.startswith("GET "):
                await self.list(request.split()[1])
            else:
                self.server.open += 1
                self.server.most_open = max(self.server.most_open, self.server.open)
                try:
                    await self.speech(json.loads(body))
                finally:
                    self.server.open -= 1

    async def answer(self, status: int, body: bytes, kind: str = "application/json", extra: str = "") -> None:
        head = f"HTTP/1.1 {status} x\r\nContent-Type: {kind}\r\nContent-Length: {len(body)}\r\n{extra}\r\n"
        self.writer.write(head.encode() + body)
        await self.writer.drain()

    def reset(self) -> None:
        raw = self.writer.get_extra_info("socket")
        raw.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        self.writer.transport.abort()
        raise EOFError

    async def stall(self) -> None:
        """Until the client hangs up."""
        await asyncio.wait_for(self.reader.read(1), STALL_SECONDS)
        raise EOFError

    async def list(self, path: str) -> None:
        server = self.server
        lists = {"/v1/models": {"object": "list", "data": server.models}, "/v1/audio/voices": {"voices": server.voices}}
        what = "401" if server.key not in {None, self.authorization.removeprefix("Bearer ")} else server.listing
        if what == "ok" and (path not in lists or lists[path] == {"voices": None}):
            what = "404"
        if what in ERRORS:
            status, error = ERRORS[what]
            said = f"{error['message'].rstrip('.')}: {self.authorization}."  # some quote what they were sent
            await self.answer(status, json.dumps({"error": {**error, "message": said}}).encode())
        elif what == "html":
            await self.answer(200, HTML, "text/html; charset=utf-8")
        elif what == "redirect":
            await self.answer(307, b"", extra="Location: http://127.0.0.1:1/elsewhere\r\n")
        elif what == "reset":
            self.reset()
        else:
            await self.answer(200, json.dumps(lists[path]).encode() if what == "ok" else what.encode())

    async def speech(self, body: dict[str, Any]) -> None:  # noqa: PLR0912 - one branch for each behaviour
        text = body["input"]
        what = self.server.behaviour(body, text)
        form = body.get("response_format", "mp3")
        sound = encoded(tone(text, body.get("speed", 1.0)), form)
        if what in ERRORS:
            status, error = ERRORS[what]
            extra = f"Retry-After: {self.server.retry_after}\r\n" if what == "429" else ""
            await self.answer(status, json.dumps({"error": error}).encode(), extra=extra)
        elif what == "echo":
            error = {"message": f"Who is {self.authorization}?", "type": "invalid_request_error", "code": None}
            await self.answer(400, json.dumps({"error": error}).encode())
        elif what == "fastapi":
            await self.answer(400, b'{"detail": "Voice nobody not found"}')
        elif what == "redirect":
            await self.answer(307, b"", extra="Location: http://127.0.0.1:1/elsewhere\r\n")
        elif what == "reset":
            self.reset()
        elif what in {"cut", "stall-body"}:
            head = f"HTTP/1.1 200 OK\r\nContent-Type: audio/{form}\r\nContent-Length: {len(sound)}\r\n\r\n"
            self.writer.write(head.encode() + sound[: len(sound) // 2])
            await self.writer.drain()
            if what == "stall-body":
                await self.stall()
            raise EOFError
        elif what == "stall-headers":
            await self.stall()
        elif what == "hold":
            while not self.server.released.is_set():  # noqa: ASYNC110 - it is set by another thread
                await asyncio.sleep(0.02)
            await self.answer(503, json.dumps({"error": ERRORS["503"][1]}).encode())
        elif what == "html":
            await self.answer(200, HTML, "text/html; charset=utf-8")
        elif what == "html-as-audio":
            await self.answer(200, HTML, f"audio/{form}")
        elif what == "json":
            await self.answer(200, b"{}")
        elif what == "empty":
            await self.answer(200, b"", f"audio/{form}")
        elif what == "short":
            await self.answer(200, encoded(tone(text)[:2400], form), f"audio/{form}")
        elif what == "silent":
            await self.answer(200, encoded(tone(text) * 0, form), f"audio/{form}")
        else:
            if what.startswith("size "):  # which a server that streams does not know
                sound = sound[:40] + bytes.fromhex(what[5:]) + sound[44:]
            await self.chunked(sound, form, slow=what == "slow")
            self.server.paid[text] += 1

    async def chunked(self, sound: bytes, form: str, *, slow: bool) -> None:
        self.writer.write(
            f"HTTP/1.1 200 OK\r\nContent-Type: audio/{form}\r\nTransfer-Encoding: chunked\r\n\r\n".encode()
        )
        size = len(sound) // 8 + 1
        for start in range(0, len(sound), size):
            chunk = sound[start : start + size]
            self.writer.write(f"{len(chunk):x}\r\n".encode() + chunk + b"\r\n")
            await self.writer.drain()
            if slow:
                await asyncio.sleep(self.server.slow_seconds)
        self.writer.write(b"0\r\n\r\n")
        await self.writer.drain()

    async def realtime(self, head: bytes) -> None:
        if self.server.handshakes and (what := self.server.handshakes.popleft()) != "ok":
            status, error = ERRORS[what]
            extra = f"Retry-After: {self.server.retry_after}\r\n" if what == "429" else ""
            await self.answer(status, json.dumps({"error": error}).encode(), extra=extra)
            return
        self.server.connections += 1
        self.protocol = ServerProtocol(max_size=None)
        self.protocol.receive_data(head)
        (request,) = self.protocol.events_received()
        assert isinstance(request, Request)
        self.protocol.send_response(self.protocol.accept(request))
        session = {"type": "realtime", "id": "sess_1", "object": "realtime.session"}
        session["expires_at"] = int(time.time() + self.server.session_seconds)
        await self.send("session.created", session=session)
        while data := await self.reader.read(65536):
            self.protocol.receive_data(data)
            for event in self.protocol.events_received():
                if isinstance(event, Frame) and event.opcode is Opcode.TEXT:
                    await self.hear(json.loads(event.data), session)
            await self.flush()

    async def flush(self) -> None:
        for data in self.protocol.data_to_send():
            if data:
                self.writer.write(data)
            else:
                with suppress(OSError):
                    self.writer.write_eof()
        await self.writer.drain()

    async def send(self, kind: str, **values: Any) -> None:
        self.protocol.send_text(json.dumps({"type": kind, "event_id": "event_1", **values}).encode())
        await self.flush()

    async def hear(self, event: dict[str, Any], session: dict[str, Any]) -> None:
        if event["type"] == "session.update":
            self.speed = event["session"]["audio"]["output"].get("speed", 1.0)
            self.server.sessions.append(event["session"])
            await self.send("session.updated", session={**session, **event["session"]})
        elif event["type"] == "response.create":
            await self.respond(event["response"])

    async def fail(self, kind: str, code: str, message: str) -> None:
        error = {"type": kind, "code": code, "message": message, "param": None, "event_id": None}
        await self.send("error", error=error)

    async def respond(self, wanted: dict[str, Any]) -> None:
        text = wanted["input"][0]["content"][0]["text"]
        what = self.server.behaviour(wanted, text)
        sound = tone(text, self.speed).tobytes()
        place = {"response_id": "resp_1", "item_id": "item_1", "output_index": 0, "content_index": 0}
        await self.send("response.created", response={"id": "resp_1", "status": "in_progress"})
        if what == "rate-limits":
            limits = [{"name": "requests", "limit": 10, "remaining": 0, "reset_seconds": 0.5}]
            await self.send("rate_limits.updated", rate_limits=limits)
        half = len(sound) // 4 * 2
        if what != "text-only":
            await self.send("response.output_audio.delta", delta=base64.b64encode(sound[:half]).decode(), **place)
        if what == "expired":
            await self.fail("invalid_request_error", "session_expired", "Your session hit the maximum duration.")
            raise EOFError
        if what == "expired-close":
            self.protocol.send_close(1001, "Your session hit the maximum duration of 60 minutes.")
            await self.flush()
            return
        if what == "drop":
            self.reset()
        if what == "stall":
            await self.stall()
        if what == "invalid":
            await self.fail("invalid_request_error", "invalid_value", "Invalid voice.")
            return
        if what == "server-error":
            await self.fail("server_error", "", "Sorry about that.")
            return
        if what in {"quota", "429", "content-filter", "cut"}:
            await self.send("response.done", response={"id": "resp_1", **_unfinished(what)})
            return
        if what != "text-only":
            await self.send("response.output_audio.delta", delta=base64.b64encode(sound[half:]).decode(), **place)
        transcript = f"Sure! Here you go: {text}" if what == "reword" else text
        await self.send("response.output_audio_transcript.done", transcript=transcript, **place)
        await self.send("response.done", response={"id": "resp_1", "status": "completed"})
        self.server.paid[text] += 1


def _unfinished(what: str) -> dict[str, Any]:
    if what == "content-filter":
        return {"status": "incomplete", "status_details": {"type": "incomplete", "reason": "content_filter"}}
    if what == "cut":
        return {"status": "incomplete", "status_details": {"type": "incomplete", "reason": "max_output_tokens"}}
    error = ERRORS[what][1]
    message = error["message"] + (" Please try again in 20ms." if what == "429" else "")
    return {"status": "failed", "status_details": {"type": "failed", "error": {**error, "message": message}}}
