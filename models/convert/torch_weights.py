"""Reads a PyTorch state_dict saved in the old (pre-1.6) format with numpy alone, torch not needed.

The file is a row of pickles (magic number, protocol, machine, the dictionary, storage keys) and then each
storage as an element count and raw values. Unpickling can run any code a file names, so every global except
the three that such a dictionary needs is refused.
"""

import collections
import pickle
import struct

import numpy

MAGIC = 0x1950A86A20F9469CFC6C


class Tensor:
    """Where a tensor lies in its storage, until the storages have been read."""

    def __init__(self, storage, offset, size, stride, *_ignored):
        self.storage, self.offset, self.size, self.stride = storage, offset, size, stride


class Unpickler(pickle.Unpickler):
    ALLOWED = {
        ("collections", "OrderedDict"): collections.OrderedDict,
        ("torch._utils", "_rebuild_tensor_v2"): Tensor,
        ("torch", "FloatStorage"): "<f4",
    }

    def find_class(self, module, name):
        if (module, name) not in self.ALLOWED:
            raise pickle.UnpicklingError(f"refused global {module}.{name}")
        return self.ALLOWED[module, name]

    def persistent_load(self, identifier):
        _storage, dtype, key = identifier[:3]
        assert dtype == "<f4", "only 32-bit float storages are expected"
        return key


def load(path):
    """The dictionary of the file: parameter name -> float32 array."""
    with open(path, "rb") as file:
        assert Unpickler(file).load() == MAGIC, f"{path} is not a state_dict of the old format"
        Unpickler(file).load()  # protocol version
        Unpickler(file).load()  # byte order and integer sizes of the machine that wrote it
        tensors = Unpickler(file).load()
        storages = {}
        for key in Unpickler(file).load():
            (count,) = struct.unpack("<q", file.read(8))
            storages[key] = numpy.frombuffer(file.read(4 * count), "<f4")
    return {name: _array(tensor, storages[tensor.storage]) for name, tensor in tensors.items()}


def _array(tensor, storage):
    strides = [step * storage.itemsize for step in tensor.stride]
    return numpy.lib.stride_tricks.as_strided(storage[tensor.offset :], tensor.size, strides).copy()
