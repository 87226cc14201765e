"""The three MTCNN networks of facenet-pytorch as ONNX.

usage: mtcnn.py DATA_FOLDER OUT_FOLDER      (DATA_FOLDER holds pnet.pt, rnet.pt, onet.pt)

input   x          float32 [N, 3, H, W], RGB, (pixel - 127.5) / 128; H x W free for pnet, 24 x 24 rnet, 48 x 48 onet
output  reg        box corrections dx1, dy1, dx2, dy2
        prob       [.., 2], index 1 = face
        landmarks  onet only: x of left eye, right eye, nose, mouth left, mouth right, then their y

Layers are those of facenet_pytorch/models/mtcnn.py.
"""

import sys

import torch_weights
from onnx_graph import Graph


class Network:
    def __init__(self, name, weights):
        self.graph = Graph(name, "mtcnn_to_onnx")
        self.weights = weights
        self.x = "x"

    def conv(self, layer, output=None):
        weight = self.weights[f"{layer}.weight"]
        inputs = [self.x, *self._weight_and_bias(layer)]
        return self.graph.node("Conv", inputs, output or layer, kernel_shape=list(weight.shape[2:]))

    def dense(self, layer, output=None):
        return self.graph.node("Gemm", [self.x, *self._weight_and_bias(layer)], output or layer, transB=1)

    def prelu(self, layer, per_pixel=True):
        slope = self.weights[f"{layer}.weight"]
        slope = self.graph.constant(f"{layer}.a", slope.reshape(-1, 1, 1) if per_pixel else slope)
        return self.graph.node("PRelu", [self.x, slope], layer)

    def pool(self, layer, size):
        return self.graph.node("MaxPool", [self.x], layer, kernel_shape=[size] * 2, strides=[2, 2], ceil_mode=1)

    def flatten(self):
        """In the order width, height, channels: the dense layers were trained that way round."""
        turned = self.graph.node("Transpose", [self.x], "perm", perm=[0, 3, 2, 1])
        return self.graph.node("Flatten", [turned], "flat", axis=1)

    def body(self, convolutions, pools):
        """conv1, prelu1, pool1, conv2 ...; the last convolutions have no pool after them."""
        for number in range(1, convolutions + 1):
            self.x = self.conv(f"conv{number}")
            self.x = self.prelu(f"prelu{number}")
            if number <= len(pools):
                self.x = self.pool(f"pool{number}", pools[number - 1])

    def dense_body(self, number):
        self.x = self.flatten()
        self.x = self.dense(f"dense{number}")
        self.x = self.prelu(f"prelu{number}", per_pixel=False)

    def heads(self, kind, probability, **others):
        logit = kind(probability, "prob_logit")
        self.graph.node("Softmax", [logit], "prob", axis=1)
        for output, layer in others.items():
            kind(layer, output)

    def _weight_and_bias(self, layer):
        weight, bias = self.weights[f"{layer}.weight"], self.weights[f"{layer}.bias"]
        return self.graph.constant(f"{layer}.w", weight), self.graph.constant(f"{layer}.b", bias)


def pnet(weights):
    net = Network("pnet", weights)
    net.body(convolutions=3, pools=[2])
    net.heads(net.conv, "conv4_1", reg="conv4_2")
    return net.graph, {"x": ["N", 3, "H", "W"]}, {"reg": ["N", 4, "h", "w"], "prob": ["N", 2, "h", "w"]}


def rnet(weights):
    net = Network("rnet", weights)
    net.body(convolutions=3, pools=[3, 3])
    net.dense_body(4)
    net.heads(net.dense, "dense5_1", reg="dense5_2")
    return net.graph, {"x": ["N", 3, 24, 24]}, {"reg": ["N", 4], "prob": ["N", 2]}


def onet(weights):
    net = Network("onet", weights)
    net.body(convolutions=4, pools=[3, 3, 2])
    net.dense_body(5)
    net.heads(net.dense, "dense6_1", reg="dense6_2", landmarks="dense6_3")
    return net.graph, {"x": ["N", 3, 48, 48]}, {"reg": ["N", 4], "landmarks": ["N", 10], "prob": ["N", 2]}


def main(data_folder, out_folder):
    for build in (pnet, rnet, onet):
        name = build.__name__
        graph, inputs, outputs = build(torch_weights.load(f"{data_folder}/{name}.pt"))
        graph.save(f"{out_folder}/mtcnn_{name}.onnx", inputs, outputs)


if __name__ == "__main__":
    main(*sys.argv[1:])
