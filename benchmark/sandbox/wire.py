"""Messages between the judge and a sandbox: JSON beside safetensors, checked before anything is loaded.

A frame is two lengths, a JSON object and a safetensors payload; nothing is pickled or evaluated. Calls
nest strictly: whoever waits for a reply answers the other side's calls meanwhile, so that a guard can
ask the stage before it while it is itself being asked.
"""

from __future__ import annotations

import json
import math
import socket
import struct
from collections.abc import Callable, Mapping
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load as tensors_from_bytes
from safetensors.torch import save as tensors_to_bytes
from torch import Tensor

from benchmark.errors import words

META_BYTES = 1 << 21
"""A submission's text crosses in it, of which one character may take six."""
HEADER_BYTES = 1 << 20
PAYLOAD_BYTES = 1 << 30
QUERY_BYTES = 1 << 28
"""An attack's messages: the judge holds several copies of what it is asked."""
QUERY_IMAGES = 100_000
"""In one question: each costs the judge far more than its pixels."""
TENSORS = 10_000
"""A payload of 200,000 empty tensors takes seconds to load."""
NAME_LENGTH = 200
DEPTH = 16
"""Calls within calls: a cascade of guards needs two a guard."""

_LENGTHS = struct.Struct(">IQ")
_CHUNK = 1 << 20
_BYTES = {"BOOL": 1, "U8": 1, "I8": 1, "I16": 2, "I32": 4, "I64": 8, "F16": 2, "BF16": 2, "F32": 4, "F64": 8}

Meta = dict[str, Any]
Tensors = dict[str, Tensor]
Message = tuple[Meta, Tensors]
Handler = Callable[[Meta, Tensors], Message]


class WireError(Exception):
    """The other side sent what the protocol does not allow."""


class Closed(Exception):
    """The other side is gone."""


class RemoteError(Exception):
    """The call failed on the other side; `kind` is the name of its exception.

    `at` and `line` are where in a submission that was, and the text of the line; "" where the other side says nothing.
    """

    def __init__(self, kind: str, text: str, at: str = "", line: str = "") -> None:
        super().__init__(f"{kind}: {text}" if text else kind)
        self.kind, self.text, self.at, self.line = kind, text, at, line


def pack(meta: Meta, tensors: Mapping[str, Tensor]) -> bytes:
    """One frame. Raises WireError where the limits are broken or a value is not a tensor."""
    text = json.dumps(meta, separators=(",", ":")).encode()
    if len(text) > META_BYTES:
        raise WireError(f"expected at most {META_BYTES} bytes beside the arrays, given {len(text)}")
    own: Tensors = {}
    storages: set[int] = set()
    for name, value in tensors.items():
        if not isinstance(value, Tensor):
            raise WireError(f"{name}: expected a tensor, given {type(value).__name__}")
        tensor = value.detach().cpu().contiguous()
        storage = tensor.untyped_storage().data_ptr()
        own[name] = tensor.clone() if storage in storages else tensor  # safetensors refuses shared memory
        storages.add(storage)
    payload = tensors_to_bytes(own) if own else b""
    if len(payload) > PAYLOAD_BYTES:
        raise WireError(f"expected at most {PAYLOAD_BYTES >> 20} MiB of arrays, given {len(payload) >> 20} MiB")
    return _LENGTHS.pack(len(text), len(payload)) + text + payload


def unpack(text: bytes, payload: bytes) -> Message:
    """The JSON object and the tensors of one frame. Raises WireError."""
    try:
        meta = json.loads(text)
    except (ValueError, RecursionError) as error:
        raise WireError(f"expected JSON: {type(error).__name__}") from None
    if not isinstance(meta, dict):
        raise WireError(f"expected a JSON object, given {type(meta).__name__}")
    if not payload:
        return meta, {}
    check_header(payload)
    try:
        return meta, tensors_from_bytes(payload)
    except (SafetensorError, ValueError, RuntimeError, KeyError) as error:
        raise WireError(f"arrays can't be loaded: {type(error).__name__}") from None


def check_header(payload: bytes) -> None:
    """Hold a safetensors header to the limits before a library reads it. Raises WireError.

    Every byte after the header belongs to exactly one tensor; shapes and types add up to its length.
    """
    if len(payload) < 8:
        raise WireError("expected a safetensors header, given fewer than 8 bytes")
    length = int.from_bytes(payload[:8], "little")
    if length > HEADER_BYTES or length > len(payload) - 8:
        raise WireError(f"expected a header of at most {HEADER_BYTES} bytes, given a length of {length}")
    try:
        header = json.loads(payload[8 : 8 + length])
    except (ValueError, RecursionError):
        raise WireError("expected a header in JSON") from None
    if not isinstance(header, dict) or len(header) > TENSORS:
        raise WireError(f"expected a header that names at most {TENSORS} tensors")
    spans = sorted(_span(name, value) for name, value in header.items())
    end = 0
    for begin, stop in spans:
        if begin != end:
            raise WireError("expected tensors that lie one after another")
        end = stop
    if end != len(payload) - 8 - length:
        raise WireError("expected as many bytes as the tensors need")


def _span(name: str, value: Any) -> tuple[int, int]:
    if len(name) > NAME_LENGTH or not name.isprintable():
        raise WireError(f"expected names of at most {NAME_LENGTH} printable characters")
    if not isinstance(value, dict) or set(value) != {"dtype", "shape", "data_offsets"}:
        raise WireError("expected dtype, shape and data_offsets of each tensor")
    dtype, shape, offsets = value["dtype"], value["shape"], value["data_offsets"]
    if not isinstance(dtype, str) or dtype not in _BYTES:
        raise WireError("expected a known dtype")
    if not _counts(shape) or len(shape) > 8 or not _counts(offsets) or len(offsets) != 2:
        raise WireError("expected a shape and offsets of whole numbers")
    if offsets[1] - offsets[0] != math.prod(shape) * _BYTES[dtype]:
        raise WireError("expected a shape that fits the bytes")
    return offsets[0], offsets[1]


def _counts(value: Any) -> bool:
    return isinstance(value, list) and all(type(v) is int and 0 <= v < 1 << 40 for v in value)


class Channel:
    """One end of a stream socket. `handlers` answer the other side's calls by name."""

    def __init__(self, stream: socket.socket, most: int = PAYLOAD_BYTES) -> None:
        """`most`: bytes of arrays that are taken in one message."""
        self.stream, self.most = stream, most
        self.handlers: dict[str, Handler] = {}
        self.locate: Callable[[BaseException], tuple[str, str]] = lambda error: ("", "")
        """`at` and `line` of an error that goes to the other side."""
        self._depth = 0

    def call(self, do: str, meta: Meta | None = None, tensors: Mapping[str, Tensor] | None = None) -> Message:
        """Have the other side do something, and answer its calls meanwhile.

        Raises RemoteError where that failed, Closed where the other side is gone, WireError where it breaks
        the protocol, and whatever a handler of our own raises that is not the caller's mistake.
        """
        self._send({"do": do, "with": meta or {}}, tensors or {})
        while True:
            message, arrays = self.receive()
            if "do" not in message:
                return self._reply(message, arrays)
            self.answer(message, arrays)

    def answer(self, message: Meta, tensors: Tensors) -> None:
        """Answer one call of the other side. Its own mistakes go back to it as errors."""
        do, arguments = message.get("do"), message.get("with")
        if not isinstance(do, str) or not isinstance(arguments, dict):
            raise WireError("expected a call with a name and arguments")
        handler = self.handlers.get(do)
        if handler is None:
            raise WireError(f"expected one of {', '.join(sorted(self.handlers)) or 'no calls'}, given {do[:40]!r}")
        if self._depth >= DEPTH:
            raise WireError(f"expected at most {DEPTH} calls within calls")
        self._depth += 1
        try:
            meta, arrays = handler(arguments, tensors)
        except (PermissionError, ValueError) as error:
            self.fail(error)
            return
        finally:
            self._depth -= 1
        self._send({"done": meta}, arrays)

    def fail(self, error: BaseException) -> None:
        """Answer the call in hand with an error."""
        at, line = self.locate(error)
        report = {"error": type(error).__name__[:100], "text": words(error)[:2000], "at": at[:300], "line": line[:300]}
        self._send({name: text for name, text in report.items() if text or name in ("error", "text")}, {})

    def receive(self) -> Message:
        """The next frame. Raises Closed, WireError."""
        text_length, payload_length = _LENGTHS.unpack(self._read(_LENGTHS.size))
        if text_length > META_BYTES or payload_length > self.most:
            raise WireError(f"expected a message of at most {self.most >> 20} MiB")
        text = self._read(text_length)
        return unpack(bytes(text), bytes(self._read(payload_length)))

    def _reply(self, message: Meta, tensors: Tensors) -> Message:
        if "error" in message:
            parts = [message.get(name, "") for name in ("error", "text", "at", "line")]
            if not all(isinstance(part, str) for part in parts):
                raise WireError("expected an error with a kind and a text")
            raise RemoteError(*parts)
        done = message.get("done")
        if not isinstance(done, dict):
            raise WireError("expected a reply or a call")
        return done, tensors

    def _send(self, message: Meta, tensors: Mapping[str, Tensor]) -> None:
        frame = pack(message, tensors)
        try:
            self.stream.sendall(frame)
        except OSError as error:
            raise Closed(str(error)) from None

    def _read(self, n: int) -> bytearray:
        content = bytearray()
        while len(content) < n:  # memory grows with what arrives, not with what was announced
            try:
                more = self.stream.recv(min(_CHUNK, n - len(content)))
            except OSError as error:
                raise Closed(str(error)) from None
            if not more:
                raise Closed("the other side is gone")
            content += more
        return content


def tensor(tensors: Tensors, name: str, dtype: torch.dtype, shape: tuple[int | None, ...]) -> Tensor:
    """A tensor of a message, held to its type and shape (None: any length). Raises ValueError."""
    value = tensors.get(name)
    if value is None:
        raise ValueError(f"expected an array {name!r}, given {', '.join(sorted(tensors)) or 'none'}")
    fits = value.ndim == len(shape) and all(e is None or e == g for e, g in zip(shape, value.shape, strict=True))
    if value.dtype != dtype or not fits:
        wanted = "x".join("n" if e is None else str(e) for e in shape)
        raise ValueError(f"{name}: expected {wanted} {dtype}, given {'x'.join(map(str, value.shape))} {value.dtype}")
    return value
