"""Tensors between arrays and device bytes, against index arithmetic written out."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from systolith.errors import InputError, ProgramError
from systolith.layout import TensorDescriptor


@st.composite
def tensors(draw):
    """A descriptor of either layout, and the bytes that one pixel's channels start at."""
    channels, height, width = (draw(st.integers(1, 6)) for _ in range(3))
    padding = tuple(draw(st.integers(0, 3)) for _ in range(4))
    fields = {"name": "x", "address": 64, "shape": (channels, height, width), "padding": padding,
              "zero_point": draw(st.integers(-128, 127)), "tail_bytes": draw(st.integers(0, 5))}
    if draw(st.booleans()):
        pitch = (width + padding[2] + padding[3]) * channels + draw(st.integers(0, 4))
        return TensorDescriptor(layout="pixels", row_pitch=pitch, **fields)
    return TensorDescriptor(layout="grouped", word_bytes=draw(st.sampled_from([1, 2, 4])), **fields)


def byte_of(tensor, channel, y, x):
    """Position of an element, from the definition of the layouts."""
    top, bottom, left, right = tensor.padding
    _, height, width = tensor.shape
    y, x, height, width = y + top, x + left, height + top + bottom, width + left + right
    if tensor.layout == "pixels":
        return y * tensor.row_pitch + x * tensor.shape[0] + channel
    group, byte = divmod(channel, tensor.word_bytes)
    return ((group * height + y) * width + x) * tensor.word_bytes + byte


@given(tensors(), st.integers(0, 1 << 32))
def test_pack_puts_every_element_where_the_layout_says(tensor, seed):
    values = np.random.default_rng(seed).integers(-128, 128, tensor.shape).astype(np.int8)
    data = tensor.pack(values)
    expected = np.full(tensor.nbytes, tensor.zero_point, np.int8)
    for channel, y, x in np.ndindex(tensor.shape):
        expected[byte_of(tensor, channel, y, x)] = values[channel, y, x]
    assert data == expected.tobytes()
    assert len(data) == tensor.nbytes == tensor.end - tensor.address
    assert (tensor.unpack(data) == values).all()
    assert tensor.pack(values[None]) == data


@given(tensors(), st.integers(0, 1 << 32))
def test_unpack_ignores_everything_but_the_elements(tensor, seed):
    data = np.random.default_rng(seed).integers(-128, 128, tensor.nbytes).astype(np.int8)
    values = tensor.unpack(data.tobytes())
    assert values.shape == tensor.shape
    for channel, y, x in np.ndindex(tensor.shape):
        assert values[channel, y, x] == data[byte_of(tensor, channel, y, x)]


def test_vectors_lie_as_one_pixel():
    tensor = TensorDescriptor(name="v", address=0, shape=(5,), word_bytes=4, zero_point=7)
    data = tensor.pack(np.arange(5, dtype=np.int8))
    assert data == bytes([0, 1, 2, 3, 4, 7, 7, 7])
    assert tensor.unpack(data).tolist() == [0, 1, 2, 3, 4]


def test_wrong_arrays_are_refused_in_one_sentence():
    tensor = TensorDescriptor(name="image", address=0, shape=(3, 2, 2), layout="pixels")
    with pytest.raises(InputError, match=r"'image' has shape \(3, 2, 2\), not \(2, 2, 3\)"):
        tensor.pack(np.zeros((2, 2, 3), np.int8))
    with pytest.raises(InputError, match="takes int8 values, not uint8: quantize them"):
        tensor.pack(np.zeros((3, 2, 2), np.uint8))
    with pytest.raises(InputError, match="'image' has 12 bytes, not 11: read it whole"):
        tensor.unpack(bytes(11))


def test_quantize_saturates_rounds_half_to_even_and_refuses_nan():
    tensor = TensorDescriptor(name="x", address=0, shape=(6,), scale=0.5, zero_point=3)
    values = np.array([0.25, 0.75, -0.25, np.inf, -np.inf, 1e30])
    assert tensor.quantize(values).tolist() == [3, 5, 3, 127, -128, 127]
    assert tensor.dequantize(np.array([3, 5, -128], np.int8)).tolist() == [0.0, 1.0, -65.5]
    with pytest.raises(InputError, match="input 'x' contains NaN"):
        tensor.quantize(np.array([np.nan]))


@pytest.mark.parametrize(("field", "value"), [
    ("name", ""), ("address", -1), ("address", 1 << 32), ("address", 1.0), ("shape", (1, 2)),
    ("shape", (0,)), ("shape", [1]), ("scale", 0.0), ("scale", float("inf")),
    ("scale", float("nan")), ("scale", 1), ("zero_point", 128), ("zero_point", True),
    ("layout", "planar"), ("word_bytes", 0), ("padding", (0, 0, 0)), ("padding", (0, 0, 0, -1)),
    ("row_pitch", 3), ("tail_bytes", -1),
])
def test_descriptors_of_no_tensor_are_refused(field, value):
    fields = {"name": "x", "address": 0, "shape": (4,), "layout": "pixels"} | {field: value}
    with pytest.raises(ProgramError, match=f"{field} |name"):
        TensorDescriptor(**fields)


def test_a_gap_between_rows_needs_layout_pixels():
    with pytest.raises(ProgramError, match="row_pitch of tensor 'x' must be 0 in layout grouped"):
        TensorDescriptor(name="x", address=0, shape=(4,), row_pitch=8)


@given(tensors())
def test_plain_values_give_the_descriptor_back(tensor):
    assert TensorDescriptor.from_dict(tensor.to_dict()) == tensor


@pytest.mark.parametrize("values", [
    None, [], {}, {"name": "x", "address": 0}, {"name": "x", "address": 0, "shape": [1], "more": 1},
    {"name": "x", "address": 0, "shape": 4}, {"name": {}, "address": 0, "shape": [1]},
])
def test_other_plain_values_are_refused(values):
    with pytest.raises(ProgramError):
        TensorDescriptor.from_dict(values)
