"""Messages between the judge and a sandbox: JSON beside safetensors, checked before anything is loaded.

A frame is two lengths (big-endian, 4 bytes for the JSON, 8 for the payload), a JSON object and a safetensors payload;
nothing is pickled or evaluated. The JSON is a call {"do": name, "with": arguments}, its reply {"done": result}, or
{"error": kind, "text": message}. Calls nest strictly: who waits for a reply answers the other side's calls meanwhile,
so that a guard can ask the stage before it while it is itself being asked.
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

from benchmark.errors import message_of

META_BYTES = 1 << 21
"""Of the JSON. It holds the submission's source, of which JSON may need six bytes for one character."""
HEADER_BYTES = 1 << 20
PAYLOAD_BYTES = 1 << 30
QUERY_BYTES = 1 << 28
"""The payload of an attack's message: the judge holds several copies of a query at once."""
QUERY_IMAGES = 100_000
"""Images in one query: each costs the judge far more memory than its pixels."""
TENSORS = 10_000
"""Tensors in one payload: 200,000 empty ones would take seconds to load."""
NAME_LENGTH = 200
DEPTH = 16
"""Levels of calls within calls: a cascade needs two for each guard."""

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
    """The call failed on the other side. `kind`: the name of the exception's class; `text`: its message.

    `at` and `line`: the place in the submission (file, line, function) and the text of that line; "" if unknown.
    """

    def __init__(self, kind: str, text: str, at: str = "", line: str = "") -> None:
        super().__init__(f"{kind}: {text}" if text else kind)
        self.kind, self.text, self.at, self.line = kind, text, at, line


def pack(meta: Meta, tensors: Mapping[str, Tensor]) -> bytes:
    """One frame. Raises WireError where the limits are broken or a value is not a tensor."""
    text = json.dumps(meta, separators=(",", ":")).encode()
    if len(text) > META_BYTES:
        raise WireError(f"expected at most {META_BYTES} bytes beside the arrays, given {len(text)}")
    contiguous: Tensors = {}
    storages: set[int] = set()
    for name, value in tensors.items():
        if not isinstance(value, Tensor):
            raise WireError(f"{name}: expected a tensor, given {type(value).__name__}")
        tensor = value.detach().cpu().contiguous()
        storage = tensor.untyped_storage().data_ptr()
        contiguous[name] = tensor.clone() if storage in storages else tensor  # safetensors refuses shared memory
        storages.add(storage)
    payload = tensors_to_bytes(contiguous) if contiguous else b""
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

    def __init__(self, stream: socket.socket, max_payload: int = PAYLOAD_BYTES) -> None:
        """`max_payload`: the most bytes of tensors that are accepted in one message."""
        self.stream, self.max_payload = stream, max_payload
        self.handlers: dict[str, Handler] = {}
        self.locate: Callable[[BaseException], tuple[str, str]] = lambda error: ("", "")
        """Gives `at` and `line` (`RemoteError`) of an error that is about to be sent."""
        self._depth = 0

    def call(self, do: str, meta: Meta | None = None, tensors: Mapping[str, Tensor] | None = None) -> Message:
        """Call a handler of the other side, and answer its calls until the reply is there.

        Raises RemoteError where the call failed, Closed where the other side is gone, WireError where it breaks the
        protocol. What a handler of this side raises passes through, but for PermissionError and ValueError: these are
        mistakes of the other side and go back to it.
        """
        self._send({"do": do, "with": meta or {}}, tensors or {})
        while True:
            message, arrays = self.receive()
            if "do" not in message:
                return self._reply(message, arrays)
            self.answer(message, arrays)

    def answer(self, message: Meta, tensors: Tensors) -> None:
        """Answer one call of the other side.

        Its mistakes (PermissionError, ValueError) go back to it. Raises WireError.
        """
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
        """Reply to the current call with an error."""
        at, line = self.locate(error)
        report = {
            "error": type(error).__name__[:100],
            "text": message_of(error)[:2000],
            "at": at[:300],
            "line": line[:300],
        }
        self._send({name: text for name, text in report.items() if text or name in ("error", "text")}, {})

    def receive(self) -> Message:
        """The next frame. Raises Closed, WireError."""
        text_length, payload_length = _LENGTHS.unpack(self._read(_LENGTHS.size))
        if text_length > META_BYTES or payload_length > self.max_payload:
            raise WireError(f"expected a message of at most {self.max_payload >> 20} MiB")
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
        while len(content) < n:  # memory grows with the bytes received, not with the length announced
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
    fits = value.ndim == len(shape) and all(
        want is None or want == size for want, size in zip(shape, value.shape, strict=True)
    )
    if value.dtype != dtype or not fits:
        expected = "x".join("n" if want is None else str(want) for want in shape)
        raise ValueError(f"{name}: expected {expected} {dtype}, given {'x'.join(map(str, value.shape))} {value.dtype}")
    return value
