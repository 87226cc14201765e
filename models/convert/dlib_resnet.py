"""dlib's face recognition ResNet-29 as ONNX, from the .dat file alone: numpy and onnx, no dlib, no compiler.

usage: dlib_resnet.py MODEL.dat OUT.onnx

input   image      float32 [N, 3, 150, 150], RGB 0..255; the normalisation is inside the graph
output  embedding  float32 [N, 128], dlib's descriptor, not normalised

The network is the one of dlib's examples/dnn_face_recognition_ex.cpp (anet_type). Its affine layers follow
convolutions directly, so each is folded into the convolution before it. Weights are stored as 16-bit floats
and widened when the file is loaded: half the size, 2e-4 from the 32-bit embedding at most, same arithmetic.
"""

import hashlib
import re
import sys

import numpy
from onnx import TensorProto

from onnx_graph import Graph

MODEL_SHA256 = "55533b28a95800a551ba546ba62fe69625c7e95a7061c338adffead08719da30"

# dlib's input_rgb_image_sized<150>: per-channel mean, then 1/256.
MEAN_RGB = (122.782, 117.001, 104.298)
SCALE = 1 / 256

# A tensor follows its layer's tag: version 2, then four sizes, each as (byte count, little-endian integer).
# The dense layer writes its own output and input count (128, 256) between tag and tensor.
TENSOR = re.compile(rb"(con_4|affine_|fc_2\x01\x80\x02\x00\x01)\x01\x02")

# Tensors smaller than this stay 32-bit: they weigh nothing, and biases lose most by rounding.
HALF_ELEMENTS_MIN = 256


def read_tensors(data):
    """Every trained tensor of the file, in network order, as flat float32 arrays."""
    tensors, position = [], 0
    while tag := TENSOR.search(data, position):
        position, count = tag.end(), 1
        for _ in range(4):
            width = data[position]
            count *= int.from_bytes(data[position + 1 : position + 1 + width], "little")
            position += 1 + width
        tensors.append(numpy.frombuffer(data, "<f4", count, position))
        position += 4 * count
    return tensors


class Network:
    """Walks the network from the image on, taking the tensors as it needs them."""

    def __init__(self, tensors):
        self.graph = Graph("dlib_face_recognition_resnet_model_v1", "dlib_dat_to_onnx")
        self.tensors = iter(tensors)
        self.channels = 3
        self.convolutions = 0
        self.nodes = 0

    def node(self, operator, inputs, **attributes):
        self.nodes += 1
        return self.graph.node(operator, inputs, f"t{self.nodes}", name=f"{operator}_{self.nodes}", **attributes)

    def constant(self, name, array):
        if array.dtype != numpy.float32 or array.size < HALF_ELEMENTS_MIN:
            return self.graph.constant(name, array)
        half = self.graph.constant(name + "_h", array.astype(numpy.float16))
        return self.graph.node("Cast", [half], name, to=TensorProto.FLOAT)

    def convolution(self, x, filters, size=3, stride=1):
        """A convolution with the affine layer after it: gamma * (W x + b) + beta."""
        index, self.convolutions = self.convolutions, self.convolutions + 1
        values = next(self.tensors).astype(numpy.float64)
        gamma, beta = next(self.tensors).astype(numpy.float64).reshape(2, filters)
        weights, bias = values[:-filters].reshape(filters, self.channels, size, size), values[-filters:]
        weights = (weights * gamma[:, None, None, None]).astype(numpy.float32)
        bias = (bias * gamma + beta).astype(numpy.float32)
        self.channels = filters
        inputs = [x, self.constant(f"w{index}", weights), self.constant(f"b{index}", bias)]
        padding = 0 if stride == 2 else size // 2
        return self.node("Conv", inputs, kernel_shape=[size] * 2, strides=[stride] * 2, pads=[padding] * 4)

    def relu(self, x):
        return self.node("Relu", [x])

    def pad(self, x, channels=0, pixels=0):
        """dlib's add_prev widens the smaller operand with zeros at the END of channels, rows and columns."""
        if not (channels or pixels):
            return x
        amounts = numpy.array([0, 0, 0, 0, 0, channels, pixels, pixels], numpy.int64)
        return self.node("Pad", [x, self.graph.constant(f"pad{self.nodes}", amounts)], mode="constant")

    def residual(self, x):
        y = self.convolution(self.relu(self.convolution(x, self.channels)), self.channels)
        return self.relu(self.node("Add", [y, x]))

    def residual_down(self, x, filters, branch_pixels=0):
        """Halves rows and columns. branch_pixels: how many the convolved branch is smaller than the pooled one."""
        added = filters - self.channels
        y = self.convolution(self.relu(self.convolution(x, filters, stride=2)), filters)
        pooled = self.node("AveragePool", [x], kernel_shape=[2, 2], strides=[2, 2])
        return self.relu(self.node("Add", [self.pad(y, pixels=branch_pixels), self.pad(pooled, channels=added)]))

    def build(self):
        mean = numpy.array(MEAN_RGB, numpy.float32).reshape(1, 3, 1, 1)
        x = self.node("Sub", ["image", self.constant("mean", mean)])
        x = self.node("Mul", [x, self.constant("scale", numpy.array(SCALE, numpy.float32))])
        x = self.relu(self.convolution(x, 32, size=7, stride=2))
        x = self.node("MaxPool", [x], kernel_shape=[3, 3], strides=[2, 2])  # 72 -> 35 pixels
        # (filters, pixels by which the convolved branch is smaller, plain residual blocks after it)
        for filters, branch_pixels, repeats in [(32, None, 3), (64, 0, 3), (128, 0, 2), (256, 1, 2), (256, 1, 0)]:
            if branch_pixels is not None:
                x = self.residual_down(x, filters, branch_pixels)
            for _ in range(repeats):
                x = self.residual(x)
        x = self.node("Flatten", [self.node("GlobalAveragePool", [x])], axis=1)
        dense = next(self.tensors).reshape(256, 128)
        self.graph.node("MatMul", [x, self.constant("fc", dense)], "embedding")
        assert next(self.tensors, None) is None, "the file holds tensors that this network does not use"
        return self.graph


def main(model_path, onnx_path):
    with open(model_path, "rb") as file:
        data = file.read()
    if hashlib.sha256(data).hexdigest() != MODEL_SHA256:
        sys.exit(f"{model_path} is not the file this script was written for")
    graph = Network(read_tensors(data)).build()
    graph.save(onnx_path, {"image": ["N", 3, 150, 150]}, {"embedding": ["N", 128]})


if __name__ == "__main__":
    main(*sys.argv[1:])
