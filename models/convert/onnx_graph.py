"""A small writer of ONNX graphs: constants and nodes are kept in the order in which they are added.

Nothing here depends on the clock, the machine or a hash order, so the same weights give the same bytes.
"""

import numpy
import onnx
from onnx import TensorProto, helper, numpy_helper

# Old enough for every runtime we use (ONNX Runtime and tract), new enough for each operator below.
OPSET = 13
IR_VERSION = 8


class Graph:
    def __init__(self, name, producer):
        self.name = name
        self.producer = producer
        self.constants = []
        self.nodes = []

    def constant(self, name, array):
        """Store an array; answers the name under which nodes read it."""
        self.constants.append(numpy_helper.from_array(numpy.ascontiguousarray(array), name))
        return name

    def node(self, operator, inputs, output, **attributes):
        """Append one operator; answers the name of its output."""
        self.nodes.append(helper.make_node(operator, inputs, [output], **attributes))
        return output

    def save(self, path, inputs, outputs):
        """Check and write the graph. Inputs and outputs map a name to its shape; a letter is a free dimension."""
        graph = helper.make_graph(self.nodes, self.name, _values(inputs), _values(outputs), self.constants)
        opset = helper.make_opsetid("", OPSET)
        model = helper.make_model(graph, opset_imports=[opset], ir_version=IR_VERSION, producer_name=self.producer)
        onnx.checker.check_model(model)
        onnx.save(model, path)


def _values(shapes):
    return [helper.make_tensor_value_info(name, TensorProto.FLOAT, shape) for name, shape in shapes.items()]
