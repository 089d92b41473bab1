"""The wire: whatever crosses arrives bit for bit; whatever breaks the protocol is refused before it is loaded."""

from __future__ import annotations

import json
import math
import socket
import struct
import threading
from collections.abc import Callable, Iterator
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from benchmark.sandbox import wire
from benchmark.sandbox.wire import Channel, Closed, Message, Meta, RemoteError, Tensors, WireError, pack, unpack

DTYPES = [
    torch.bool, torch.uint8, torch.int8, torch.int16, torch.int32, torch.int64, torch.float16, torch.bfloat16,
    torch.float32, torch.float64,
]  # fmt: skip


def parts(frame: bytes) -> tuple[bytes, bytes]:
    """The JSON text and the payload of a frame."""
    text, payload = struct.unpack(">IQ", frame[:12])
    assert len(frame) == 12 + text + payload
    return frame[12 : 12 + text], frame[12 + text :]


def crossed(tensors: Tensors) -> Tensors:
    return unpack(*parts(pack({}, tensors)))[1]


def same(one: Tensor, other: Tensor) -> bool:
    """Shape, type and every bit, NaN's included."""
    equal = one.dtype == other.dtype and one.shape == other.shape
    return equal and one.contiguous().view(-1).view(torch.uint8).equal(other.contiguous().view(-1).view(torch.uint8))


# --- What may cross ---------------------------------------------------------------------------------


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("shape", [(), (1,), (0,), (3, 0, 2), (2, 3, 4, 5)])
def test_every_dtype_and_shape_arrives_bit_for_bit(dtype: torch.dtype, shape: tuple[int, ...]) -> None:
    value = (torch.randn(shape, generator=torch.Generator().manual_seed(1)) * 50).to(dtype)
    assert same(crossed({"x": value})["x"], value)


def test_numbers_that_are_none_arrive_too() -> None:
    value = torch.tensor([math.nan, math.inf, -math.inf, -0.0, 5e-324], dtype=torch.float64)
    assert same(crossed({"x": value})["x"], value)


def test_views_arrive_as_what_they_show() -> None:
    base = torch.arange(12.0).view(3, 4)
    whole: Tensors = {"base": base, "again": base, "row": base[1], "turned": base.T, "grown": base[:1].expand(3, 4)}
    arrived = crossed(whole | {"parameter": torch.nn.Parameter(base)})
    assert all(same(arrived[name], value.contiguous()) for name, value in whole.items())
    assert not arrived["parameter"].requires_grad
    arrived["base"][0, 0] = 9
    assert arrived["again"][0, 0] == 0, "shared memory does not stay shared"


def test_what_is_said_beside_the_arrays_arrives() -> None:
    meta = {"text": "ä\n\x1b", "number": 0.1, "none": None, "list": [1, [True, "x"]], "empty": {}}
    assert unpack(*parts(pack(meta, {}))) == (meta, {})


def test_a_sender_is_told_what_it_may_not_send(monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(WireError, match="scores: expected a tensor, given ndarray"):
        pack({}, {"scores": torch.zeros(2).numpy()})  # type: ignore[dict-item]
    with pytest.raises(WireError, match=f"expected at most {wire.META_BYTES} bytes beside the arrays"):
        pack({"text": "x" * wire.META_BYTES}, {})
    monkeypatch.setattr(wire, "PAYLOAD_BYTES", 1 << 20)
    with pytest.raises(WireError, match="expected at most 1 MiB of arrays, given 2 MiB"):
        pack({}, {"x": torch.zeros(1 << 21, dtype=torch.uint8)})


# --- What may not -----------------------------------------------------------------------------------


def payload(header: Any, data: bytes = b"") -> bytes:
    text = header if isinstance(header, bytes) else json.dumps(header).encode()
    return len(text).to_bytes(8, "little") + text + data


def entry(dtype: Any = "F32", shape: Any = (1,), offsets: Any = (0, 4), **more: Any) -> dict[str, Any]:
    return {"dtype": dtype, "shape": shape, "data_offsets": offsets, **more}


GOOD = payload({"a": entry(), "b": entry("U8", (2, 2), (4, 8))}, bytes(8))

BAD: dict[str, tuple[bytes, str]] = {
    "too short": (b"\0" * 7, "fewer than 8 bytes"),
    "header longer than the payload": ((99).to_bytes(8, "little") + b"{}", "given a length of 99"),
    "header too long": (payload(b"{" + b" " * wire.HEADER_BYTES + b"}"), "a header of at most"),
    "header of 2^64 bytes": (b"\xff" * 8 + b"{}", "given a length of 18446744073709551615"),
    "no JSON": (payload(b"{,}"), "a header in JSON"),
    "no UTF-8": (payload(b'{"\xff": 1}'), "a header in JSON"),
    "nested without end": (payload(b"[" * 100_000), "a header in JSON"),
    "a number without end": (payload(b'{"a": ' + b"9" * 10_000 + b"}"), "a header in JSON"),
    "a list": (payload([]), "a header that names"),
    "too many tensors": (payload({str(i): entry("U8", (0,), (0, 0)) for i in range(wire.TENSORS + 1)}), "at most 10000"),
    "metadata": (payload({"__metadata__": {"format": "pt"}}), "dtype, shape and data_offsets"),
    "more fields": (payload({"a": entry(more=1)}, bytes(4)), "dtype, shape and data_offsets"),
    "fewer fields": (payload({"a": {"dtype": "F32", "shape": [1]}}, bytes(4)), "dtype, shape and data_offsets"),
    "long name": (payload({"n" * 201: entry()}, bytes(4)), "names of at most 200 printable characters"),
    "escape in a name": (payload({"a\x1b[2J": entry()}, bytes(4)), "printable"),
    "surrogate in a name": (payload(b'{"\\ud800": {}}'), "printable"),
    "unknown dtype": (payload({"a": entry("F8_E4M3", (4,))}, bytes(4)), "a known dtype"),
    "dtype that is no text": (payload({"a": entry(["F32"])}, bytes(4)), "a known dtype"),
    "huge empty shape": (payload({"a": entry("U8", (2**40, 0), (0, 0))}), "whole numbers"),
    "negative shape": (payload({"a": entry("F32", (-1, -1))}, bytes(4)), "whole numbers"),
    "shape of floats": (payload({"a": entry("F32", (1.0,))}, bytes(4)), "whole numbers"),
    "shape of truths": (payload({"a": entry("F32", (True,))}, bytes(4)), "whole numbers"),
    "shape that is no list": (payload({"a": entry("F32", 1)}, bytes(4)), "whole numbers"),
    "nine dimensions": (payload({"a": entry("F32", (1,) * 9)}, bytes(4)), "whole numbers"),
    "shape that overflows": (payload({"a": entry("U8", (2**39, 2**39), (0, 4))}, bytes(4)), "fits the bytes"),
    "three offsets": (payload({"a": entry(offsets=(0, 4, 4))}, bytes(4)), "whole numbers"),
    "negative offset": (payload({"a": entry(offsets=(-4, 0))}, bytes(4)), "whole numbers"),
    "offsets turned round": (payload({"a": entry(offsets=(4, 0))}, bytes(4)), "fits the bytes"),
    "too few bytes for the shape": (payload({"a": entry("F64")}, bytes(4)), "fits the bytes"),
    "gap": (payload({"a": entry(), "b": entry(offsets=(5, 9))}, bytes(9)), "one after another"),
    "gap at the start": (payload({"a": entry(offsets=(1, 5))}, bytes(5)), "one after another"),
    "overlap": (payload({"a": entry(), "b": entry(offsets=(2, 6))}, bytes(6)), "one after another"),
    "the same bytes twice": (payload({"a": entry(), "b": entry()}, bytes(4)), "one after another"),
    "bytes that belong to nobody": (payload({"a": entry()}, bytes(5)), "as many bytes as the tensors need"),
    "bytes that are not there": (payload({"a": entry()}, bytes(3)), "as many bytes as the tensors need"),
    "a payload without tensors": (payload({}, bytes(1)), "as many bytes as the tensors need"),
}  # fmt: skip


@pytest.mark.parametrize("case", BAD)
def test_a_bad_header_is_refused_before_it_is_loaded(case: str, monkeypatch: pytest.MonkeyPatch) -> None:
    def loaded(_: bytes) -> Tensors:
        raise AssertionError("loaded")

    monkeypatch.setattr(wire, "tensors_from_bytes", loaded)
    content, message = BAD[case]
    with pytest.raises(WireError, match=message) as error:
        unpack(b"{}", content)
    assert len(str(error.value)) < 200 and str(error.value).isprintable()


def test_the_good_header_beside_the_bad_ones_loads() -> None:
    arrived = unpack(b"{}", GOOD)[1]
    assert {n: tuple(t.shape) for n, t in arrived.items()} == {"a": (1,), "b": (2, 2)}


def test_a_name_twice_is_one_tensor_or_none() -> None:
    """Two readers may take different ones of the two; then their sizes disagree."""
    one, two = (f'"a": {json.dumps(e)}' for e in (entry("F32", (2,), (0, 8)), entry()))
    for text in (f"{{{one}, {two}}}", f"{{{two}, {one}}}"):
        for size in (4, 8):
            try:
                arrived = unpack(b"{}", payload(text.encode(), bytes(size)))[1]
            except WireError:
                continue
            assert arrived.keys() == {"a"} and arrived["a"].numel() * 4 == size


@pytest.mark.parametrize("text", [b"", b"[]", b'"x"', b"\xff", b"[" * 60_000, b"1" * 5000, b"{"])
def test_what_is_beside_the_arrays_is_a_json_object(text: bytes) -> None:
    with pytest.raises(WireError, match="expected"):
        unpack(text, b"")


@given(at=st.integers(0, len(GOOD) - 1), byte=st.integers(0, 255), cut=st.integers(0, len(GOOD)))
@settings(max_examples=300, deadline=None)
def test_damage_is_refused_or_changes_numbers_alone(at: int, byte: int, cut: int) -> None:
    changed = bytearray(GOOD)
    changed[at] = byte
    for content in (bytes(changed), GOOD[:cut]):
        try:
            arrived = unpack(b"{}", content)[1]
        except WireError:
            continue
        assert sum(t.numel() * t.element_size() for t in arrived.values()) in (0, 8)


@pytest.mark.parametrize(
    ("name", "dtype", "shape", "message"),
    [
        ("y", torch.float32, (2, 3), "expected an array 'y', given x"),
        ("x", torch.float64, (2, 3), "x: expected 2x3 torch.float64, given 2x3 torch.float32"),
        ("x", torch.float32, (2, 4), "x: expected 2x4 torch.float32, given 2x3"),
        ("x", torch.float32, (None, None, None), "x: expected nxnxn"),
    ],
)
def test_a_tensor_is_held_to_its_type_and_shape(
    name: str, dtype: torch.dtype, shape: tuple[int | None, ...], message: str
) -> None:
    tensors = {"x": torch.zeros(2, 3)}
    assert wire.tensor(tensors, "x", torch.float32, (None, 3)) is tensors["x"]
    with pytest.raises(ValueError, match=message):
        wire.tensor(tensors, name, dtype, shape)


# --- Calls ------------------------------------------------------------------------------------------


@pytest.fixture
def ends() -> Iterator[tuple[Channel, Channel]]:
    one, other = socket.socketpair()
    one.settimeout(20)
    other.settimeout(20)
    with one, other:
        yield Channel(one), Channel(other)


def answering(channel: Channel) -> threading.Thread:
    """Answers calls as a sandbox does, until the other side hangs up."""

    def loop() -> None:
        while True:
            try:
                channel.answer(*channel.receive())
            except Closed:
                return
            except Exception as error:
                channel.fail(error)

    thread = threading.Thread(target=loop, daemon=True)
    thread.start()
    return thread


def raising(error: Exception) -> Callable[[Meta, Tensors], Message]:
    def handler(_: Meta, __: Tensors) -> Message:
        raise error

    return handler


def test_a_call_and_its_answer(ends: tuple[Channel, Channel]) -> None:
    mine, its = ends
    its.handlers["double"] = lambda meta, tensors: ({"n": meta["n"] * 2}, {"x": tensors["x"] * 2})
    answering(its)
    for n in range(3):
        assert mine.call("double", {"n": n}, {"x": torch.tensor([n])}) == ({"n": 2 * n}, {"x": torch.tensor([2 * n])})


def test_calls_nest_as_deep_as_a_cascade_and_no_deeper(ends: tuple[Channel, Channel]) -> None:
    mine, its = ends

    def ask(other: Channel) -> Callable[[Meta, Tensors], Message]:
        def handler(meta: Meta, _: Tensors) -> Message:
            if meta["left"] == 0:
                return {"reached": True}, {}
            return other.call("ask", {"left": meta["left"] - 1})

        return handler

    mine.handlers["ask"], its.handlers["ask"] = ask(mine), ask(its)
    answering(its)
    assert mine.call("ask", {"left": 2 * wire.DEPTH - 1})[0] == {"reached": True}
    with pytest.raises((RemoteError, WireError), match=f"expected at most {wire.DEPTH} calls within calls"):
        mine.call("ask", {"left": 10**6})


def test_the_other_sides_mistakes_go_back_to_it(ends: tuple[Channel, Channel]) -> None:
    mine, its = ends
    refusals: list[tuple[str, str]] = []
    mine.handlers["forbidden"] = raising(PermissionError("no"))
    mine.handlers["wrong"] = raising(ValueError("x" * 5000))

    def work(_: Meta, __: Tensors) -> Message:
        for name in ("forbidden", "wrong"):
            with pytest.raises(RemoteError) as error:
                its.call(name)
            refusals.append((error.value.kind, error.value.text))
        return {}, {}

    its.handlers["work"] = work
    answering(its)
    mine.call("work")
    assert refusals == [("PermissionError", "no"), ("ValueError", "x" * 2000)]


def test_the_judges_own_errors_are_its_own(ends: tuple[Channel, Channel]) -> None:
    mine, its = ends
    mine.handlers["store"] = raising(OSError("the disk is full"))
    its.handlers["work"] = lambda *_: its.call("store")
    answering(its)
    with pytest.raises(OSError, match="the disk is full"):
        mine.call("work")


def test_an_error_over_there_is_named_here(ends: tuple[Channel, Channel]) -> None:
    mine, its = ends
    its.handlers["work"] = raising(ZeroDivisionError("division by zero"))
    answering(its)
    with pytest.raises(RemoteError) as error:
        mine.call("work")
    assert (error.value.kind, error.value.text, str(error.value)) == (
        "ZeroDivisionError", "division by zero", "ZeroDivisionError: division by zero",
    )  # fmt: skip
    assert str(RemoteError("KeyError", "")) == "KeyError"


def frame(meta: bytes, content: bytes = b"") -> bytes:
    return struct.pack(">IQ", len(meta), len(content)) + meta + content


@pytest.mark.parametrize(
    ("sent", "message"),
    [
        (b"\xff" * 12, "a message of at most"),
        (struct.pack(">IQ", wire.META_BYTES + 1, 0), "a message of at most"),
        (struct.pack(">IQ", 2, wire.PAYLOAD_BYTES + 1), "a message of at most"),
        (frame(b"hello"), "expected JSON"),
        (frame(b"{}"), "expected a reply or a call"),
        (frame(b'{"done": []}'), "expected a reply or a call"),
        (frame(b'{"error": 1}'), "an error with a kind and a text"),
        (frame(b'{"error": "E", "text": {}}'), "an error with a kind and a text"),
        (frame(b'{"do": 1, "with": {}}'), "a call with a name and arguments"),
        (frame(b'{"do": "labels"}'), "a call with a name and arguments"),
        (frame(b'{"do": "__class__", "with": {}}'), "expected one of labels, given '__class__'"),
        (frame(b'{"done": {}}', b"PK\x03\x04 something pickled"), "expected a header"),
    ],
)
def test_what_breaks_the_protocol_is_refused(ends: tuple[Channel, Channel], sent: bytes, message: str) -> None:
    mine, its = ends
    mine.handlers["labels"] = lambda *_: ({}, {})
    its.stream.sendall(sent)
    with pytest.raises(WireError, match=message):
        mine.call("work")


@pytest.mark.parametrize("said", [b"", b"\0" * 5, frame(b'{"done": {}}')[:-3], frame(b"{}", bytes(100))[:-1]])
def test_an_end_that_closes_is_gone(ends: tuple[Channel, Channel], said: bytes) -> None:
    mine, its = ends
    its.stream.sendall(said)
    its.stream.shutdown(socket.SHUT_WR)
    with pytest.raises(Closed):
        mine.receive()
    its.stream.close()
    with pytest.raises(Closed):
        mine.call("work", {}, {"x": torch.zeros(1 << 20)})


def test_announcing_a_gigabyte_takes_no_memory(ends: tuple[Channel, Channel]) -> None:
    import tracemalloc

    mine, its = ends
    its.stream.sendall(struct.pack(">IQ", 2, wire.PAYLOAD_BYTES) + b"{}" + bytes(1000))
    its.stream.shutdown(socket.SHUT_WR)
    tracemalloc.start()
    with pytest.raises(Closed):
        mine.receive()
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < 8 << 20
