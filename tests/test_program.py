"""Program files: what is written comes back, and everything else is refused in one sentence."""

import contextlib
import json
import random
import struct
import tracemalloc

import numpy as np
import pytest
from safetensors import safe_open

from systolith import container
from systolith.container import HEADER_LIMIT
from systolith.errors import ProgramError
from systolith.hw.config import PRESETS
from systolith.hw.isa import encode_descriptor
from systolith.layout import TensorDescriptor
from systolith.program import KnownAnswer, LayerInfo, Program, Region, Stage, load

TINY = PRESETS["tiny"]


def example(**changes):
    source = TensorDescriptor(name="image", address=4096, shape=(3, 4, 4), layout="pixels",
                              scale=0.25, zero_point=-7, padding=(1, 1, 1, 1), tail_bytes=3)
    result = TensorDescriptor(name="logits", address=8192, shape=(10,), word_bytes=4, scale=0.1)
    rng = np.random.default_rng(1)
    fields = {
        "config": TINY,
        "image": encode_descriptor(TINY.hash32, (64,) * 5) + rng.bytes(500),
        "memory_bytes": 1 << 14,
        "inputs": (source,),
        "outputs": (result,),
        "layers": (LayerInfo(name="conv1", op="conv2d", macs=432, predicted_cycles=99, bytes=512),
                   LayerInfo(name="fc", op="linear", macs=1000, predicted_cycles=50,
                             output=result)),
        "stages": (Stage(first=0, last=1, predicted_cycles=99),
                   Stage(first=1, last=2, predicted_cycles=50)),
        "tail": ({"op": "softmax", "axis": 1},),
        "regions": (Region(name="logits", memory="main", address=8192, nbytes=12, first_layer=1,
                           last_layer=1),
                    Region(name="parameters", memory="main", address=64, nbytes=500)),
        "model": "example — naïve",
        "known_answer": KnownAnswer(
            (rng.integers(-128, 128, source.shape).astype(np.int8),),
            (rng.integers(-128, 128, result.shape).astype(np.int8),)),
        "metadata": {"bias": "exact", "rows": [1, 2.5, None]},
    }
    return Program(**(fields | changes))


def split(data):
    """The header as a dictionary, and the bytes behind it."""
    (length,) = struct.unpack("<Q", data[:8])
    return json.loads(data[8:8 + length]), data[8 + length:]


def join(header, body):
    text = json.dumps(header).encode()
    return struct.pack("<Q", len(text)) + text + body


def test_save_and_load_give_the_same_program(tmp_path):
    program = example()
    path = tmp_path / "example.systolith"
    program.save(path)
    again = load(path)
    for name in ("config", "image", "memory_bytes", "inputs", "outputs", "layers", "stages",
                 "tail", "regions", "model", "metadata"):
        assert getattr(again, name) == getattr(program, name), name
    for kind in ("inputs", "outputs"):
        for one, other in zip(getattr(program.known_answer, kind),
                              getattr(again.known_answer, kind), strict=True):
            assert one.dtype == other.dtype and (one == other).all()
    assert again.to_bytes() == program.to_bytes() == path.read_bytes()
    assert load(str(path)).macs == 1432
    assert again.predicted_cycles == 149


def test_programs_without_extras_come_back_too():
    program = example(layers=(), stages=(), tail=(), regions=(), known_answer=None, metadata={},
                      model="")
    again = Program.from_bytes(program.to_bytes())
    assert again.known_answer is None
    assert again.to_bytes() == program.to_bytes()


def test_the_file_is_an_ordinary_safetensors_container(tmp_path):
    path = tmp_path / "example.safetensors"
    program = example()
    program.save(path)
    with safe_open(path, "numpy") as file:
        assert sorted(file.keys()) == ["image", "input.0", "output.0"]
        assert file.get_tensor("image").tobytes() == program.image
        assert file.get_tensor("output.0").tolist() == program.known_answer.outputs[0].tolist()
        assert json.loads(file.metadata()["program"])["config_hash"] == TINY.hash


def test_memory_map_lists_regions_by_address_with_their_life():
    lines = example().memory_map().splitlines()
    assert lines[1].split() == ["main", "0x40", "500", "0-0", "parameters"]
    assert lines[2].split() == ["main", "0x2000", "12", "1-1", "logits"]
    assert lines[3] == "main memory in use: 16384 of 1048576 bytes"
    assert "image" in example(regions=()).memory_map().splitlines()[1]


def test_another_configuration_is_refused_with_both_named():
    other = TINY.replace(lanes=2)
    with pytest.raises(ProgramError, match=f"{TINY.hash} and the device has {other.hash}"):
        example().check_config(other)
    example().check_config(TINY.replace(clock_mhz=1.0))


@pytest.mark.parametrize(("changes", "message"), [
    ({"image": b"x" * 63}, "63 bytes, which must be between 64 and memory_bytes"),
    ({"image": bytes(64)}, "does not begin with a descriptor"),
    ({"image": encode_descriptor(1, (0,) * 5)}, "made for configuration 00000001"),
    ({"memory_bytes": 500}, "must be between 64 and memory_bytes"),
    ({"memory_bytes": 1 << 21}, "needs 2097152 bytes of main memory"),
    ({"memory_bytes": 8195}, "tensor 'logits' ends at byte 8204"),
    ({"inputs": ()}, "has no input"),
    ({"outputs": ()}, "has no output"),
    ({"known_answer": KnownAnswer((np.zeros(3, np.int8),), ())}, "known answer's inputs"),
])
def test_contradicting_parts_are_refused(changes, message):
    with pytest.raises(ProgramError, match=message):
        example(**changes)


def test_unreadable_and_unwritable_files_are_named(tmp_path):
    with pytest.raises(ProgramError, match=r"cannot read program .*missing: No such file"):
        load(tmp_path / "missing")
    with pytest.raises(ProgramError, match=r"cannot write program .*: Is a directory"):
        example().save(tmp_path)


def test_too_much_metadata_is_refused_when_writing():
    with pytest.raises(ProgramError, match="keep less in metadata"):
        example(metadata={"notes": "x" * HEADER_LIMIT}).to_bytes()


# Damage -----------------------------------------------------------------------------------------

def refuses(data, message="cannot use program: it"):
    with pytest.raises(ProgramError, match=message) as caught:
        Program.from_bytes(data)
    text = str(caught.value)
    assert "\n" not in text and len(text) < 400
    text.encode()
    return text


def test_every_truncation_is_refused():
    data = example().to_bytes()
    for length in range(len(data)):
        refuses(data[:length])
    refuses(data + b"\0", "copy it again")


def test_every_flipped_byte_is_noticed_or_meaningless():
    """Only white space between the header's texts and the order of its entries mean nothing."""
    program = example()
    data = bytearray(program.to_bytes())
    accepted = 0
    for position in range(len(data)):
        flipped = bytearray(data)
        flipped[position] ^= 0x01
        try:
            again = Program.from_bytes(bytes(flipped))
        except ProgramError:
            continue
        accepted += 1
        assert again.to_bytes() == bytes(data), position
    assert accepted <= 8


@pytest.mark.parametrize("mutations", [
    3_000, pytest.param(100_000, marks=pytest.mark.slow, id="fuzz")])
def test_mutated_files_raise_program_errors_only(mutations):
    """Random damage, also with a checksum that fits: the parser's own checks must hold."""
    seed = 20260101
    rng = random.Random(seed)
    original = example().to_bytes()
    header, body = split(original)
    text = header["__metadata__"]["program"]
    pieces = ["-1", "1e999", "null", "[]", "{}", '""', "true", "4294967296", "9" * 5000,
              '"\\ud800"', "[" * 3000]
    refused = 0
    for number in range(mutations):
        kind = number % 3
        data = bytearray(original)
        if kind == 0:
            for _ in range(rng.randint(1, 8)):
                data[rng.randrange(len(data))] = rng.randrange(256)
        elif kind == 1:
            a, b = sorted(rng.randrange(len(data)) for _ in range(2))
            data[a:b] = rng.randbytes(rng.randint(0, 40))
        else:
            data = bytearray(rechecked(header, body, mutate_json(text, pieces, rng)))
        try:
            Program.from_bytes(bytes(data))
        except ProgramError as error:
            refused += 1
            str(error).encode()
        except Exception as error:
            raise AssertionError(f"seed {seed}, input {number}: {error!r}") from error
    assert refused > mutations // 2


def mutate_json(text, pieces, rng):
    """Replace a value somewhere in a JSON text, or cut a part out."""
    values = json.loads(text)
    node = values
    while True:
        key = rng.choice(list(node) if isinstance(node, dict) else range(len(node)))
        if not isinstance(node[key], dict | list) or not node[key] or rng.random() < 0.2:
            break
        node = node[key]
    if rng.random() < 0.15:
        del node[key]
        return json.dumps(values)
    node[key] = "@@"
    return json.dumps(values).replace('"@@"', rng.choice(pieces), 1)


def rechecked(header, body, text):
    """The file with another program text and a checksum that fits it."""
    parts = {name: (entry["dtype"], tuple(entry["shape"]), body[slice(*entry["data_offsets"])])
             for name, entry in header.items() if name != "__metadata__"}
    return container.write(text, parts)


@pytest.mark.parametrize(("change", "message"), [
    (lambda v: v.update(config_hash="0" * 16), "configuration has hash"),
    (lambda v: v["config"].update(rows=5), "rows must be a power of two"),
    (lambda v: v["config"].update(wheels=4), "no field wheels"),
    (lambda v: v.update(memory_bytes=1 << 60), "bytes of main memory"),
    (lambda v: v.update(memory_bytes="1"), "'memory_bytes' is not of type int"),
    (lambda v: v.update(more=1), "entries that this version does not know"),
    (lambda v: v["inputs"][0].update(address=1 << 31), "tensor 'image' ends at byte"),
    (lambda v: v["inputs"][0].update(shape=[1 << 19] * 3), "tensor 'image' ends at byte"),
    (lambda v: v["inputs"].append(v["inputs"][0]), "lacks input 1"),
    (lambda v: v["outputs"].clear(), "tensors that do not belong"),
    (lambda v: v["stages"][1].update(last=3), "a stage spans layers 1 to 3 of 2"),
    (lambda v: v["layers"].append(3), "something else than records"),
    (lambda v: v["layers"][0].update(macs=1.5), "'macs' is not of type int"),
    (lambda v: v["layers"][0].update(output={"name": "x"}), "tensor descriptor"),
    (lambda v: v["regions"][0].pop("nbytes"), "'nbytes' is not of type int"),
    (lambda v: v["inputs"][0].update(name="\ud800", shape=[0]), "shape of tensor"),
])
def test_wrong_entries_with_a_fitting_checksum_are_refused(change, message):
    header, body = split(example().to_bytes())
    values = json.loads(header["__metadata__"]["program"])
    change(values)
    refuses(rechecked(header, body, json.dumps(values)), message)


@pytest.mark.parametrize(("change", "message"), [
    (lambda h: h.pop("image"), "overlap or leave gaps"),
    (lambda h: h["image"].update(dtype="F32"), "data type other than"),
    (lambda h: h["image"].update(dtype="I8"), "checksum does not match"),
    (lambda h: h["image"].update(shape=[282, 2]), "checksum does not match"),
    (lambda h: h["image"].update(shape=[1 << 62, 1 << 62]), "shape and offsets"),
    (lambda h: h["image"].update(shape=[-564, -1]), "shape and offsets"),
    (lambda h: h["image"].update(shape=[True] * 5), "shape and offsets"),
    (lambda h: h["image"].update(data_offsets=[0, 1, 2]), "shape and offsets"),
    (lambda h: h["image"].update(more=1), "entry in its header is incomplete"),
    (lambda h: h.update(more={"dtype": "U8", "shape": [0], "data_offsets": [0, 0]}), "checksum"),
    (lambda h: h.pop("__metadata__"), "no program metadata"),
    (lambda h: h["__metadata__"].update(more=""), "no program metadata"),
    (lambda h: h["__metadata__"].update(program=1), "no program metadata"),
    (lambda h: h["__metadata__"].update(format="\ud800"), "its format is"),
    (lambda h: h["__metadata__"].update(program="\ud800"), "not valid Unicode"),
    (lambda h: h["__metadata__"].update(checksum="0"), "checksum does not match"),
    (lambda h: h["__metadata__"].update(program="[]"), "checksum does not match"),
])
def test_hostile_headers_are_refused(change, message):
    header, body = split(example().to_bytes())
    change(header)
    refuses(join(header, body), message)


@pytest.mark.parametrize(("text", "message"), [
    (b"[]", "header is not a JSON object"),
    (b'{"a": 1, "a": 2}', "header names something twice"),
    (b'{"a": NaN}', "header contains NaN"),
    (b'{"a": 1e999}', "header contains 1e999"),
    (b"[" * 100_000, "header is not JSON"),
    (b'{"a": ' + b"9" * 10_000 + b"}", "header is not JSON"),
    (b"\xff\xfe{}", "header is not JSON"),
])
def test_hostile_json_is_refused(text, message):
    refuses(struct.pack("<Q", len(text)) + text, message)


def test_an_image_of_another_shape_or_missing_is_refused():
    header, body = split(example(known_answer=None).to_bytes())
    text = header["__metadata__"]["program"]
    refuses(container.write(text, {}), "has no image")
    refuses(container.write(text, {"image": ("U8", (5,), b"12345")}), "image has 5 bytes")
    image = ("U8", (len(body),), body)
    full, rest = split(example().to_bytes())
    values = {name: (entry["dtype"], tuple(entry["shape"]), rest[slice(*entry["data_offsets"])])
              for name, entry in full.items() if name != "__metadata__"}
    values["output.0"] = ("U8", *values["output.0"][1:])
    refuses(container.write(full["__metadata__"]["program"], values), "output 0 is not int8")
    refuses(container.write(text, {"image": image, "more": ("U8", (1,), b"1")}), "lacks input 0")


def test_headers_longer_than_the_limit_are_refused_unread():
    refuses(struct.pack("<Q", HEADER_LIMIT + 1) + bytes(64), "may have 1048576")
    refuses(struct.pack("<Q", 1 << 63) + bytes(64), "may have 1048576")
    refuses(struct.pack("<Q", 1000) + bytes(64), "ends inside its header")


def peak_memory(data):
    """Bytes allocated at most while a file's contents are read, good or bad."""
    tracemalloc.start()
    try:
        with contextlib.suppress(ProgramError):
            Program.from_bytes(data)
        return tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()


def test_loading_copies_the_image_once():
    config = PRESETS["small"]
    image = encode_descriptor(config.hash32, (64,) * 5).ljust(8 << 20, b"\1")
    data = example(config=config, image=image, memory_bytes=16 << 20).to_bytes()
    assert peak_memory(data) < len(data) + (1 << 20)
    assert peak_memory(data[:-1]) < 1 << 20


def test_headers_of_empty_lists_cannot_exhaust_memory():
    bomb = b'{"a":[' + b"[]," * ((HEADER_LIMIT - 16) // 3) + b"[]]}"
    assert peak_memory(struct.pack("<Q", len(bomb)) + bomb) < 48 << 20
