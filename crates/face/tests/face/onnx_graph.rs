//! Writes a small ONNX graph by hand: mean over 8x8 pixels, then a 588 x 512 matrix. Protobuf (proto3) is a list of fields:
//! a key (number * 8 + wire type), then a varint, or a length and bytes. Field numbers from onnx.proto, IR version 8.

use velum_face::pixels::RgbImage;

pub const DIMENSION: usize = 512;
const SIDE: usize = 112;
const POOL: usize = 8;
const POOLED: usize = SIDE / POOL;
const FEATURES: usize = 3 * POOLED * POOLED;

const FLOAT: u64 = 1;

#[derive(Default)]
struct Message(Vec<u8>);

impl Message {
    fn varint(mut self, mut value: u64) -> Self {
        while value >= 0x80 {
            self.0.push(value as u8 | 0x80);
            value >>= 7;
        }
        self.0.push(value as u8);
        self
    }

    fn number(self, field: u64, value: u64) -> Self {
        self.varint(field << 3).varint(value)
    }

    fn bytes(self, field: u64, bytes: &[u8]) -> Self {
        let mut message = self.varint(field << 3 | 2).varint(bytes.len() as u64);
        message.0.extend_from_slice(bytes);
        message
    }

    fn text(self, field: u64, text: &str) -> Self {
        self.bytes(field, text.as_bytes())
    }

    fn message(self, field: u64, message: Message) -> Self {
        self.bytes(field, &message.0)
    }
}

/// NodeProto: input 1, output 2, op_type 4, attribute 5.
fn node(operation: &str, inputs: &[&str], output: &str) -> Message {
    let node = inputs.iter().fold(Message::default(), |node, input| node.text(1, input));
    node.text(2, output).text(4, operation)
}

/// AttributeProto: name 1, ints 8, type 20 (7: INTS).
fn pair_attribute(name: &str, value: usize) -> Message {
    Message::default().text(1, name).number(8, value as u64).number(8, value as u64).number(20, 7)
}

/// ValueInfoProto: name 1, type 2; TypeProto: tensor_type 1; Tensor: elem_type 1, shape 2; shape: dim 1, dim_value 1.
fn value(name: &str, shape: &[usize]) -> Message {
    let shape = shape
        .iter()
        .fold(Message::default(), |shape, &side| shape.message(1, Message::default().number(1, side as u64)));
    let tensor = Message::default().number(1, FLOAT).message(2, shape);
    Message::default().text(1, name).message(2, Message::default().message(1, tensor))
}

/// TensorProto: dims 1, data_type 2, name 8, raw_data 9.
fn constant(name: &str, shape: &[usize], values: &[f32]) -> Message {
    let tensor = shape.iter().fold(Message::default(), |tensor, &side| tensor.number(1, side as u64));
    let raw: Vec<u8> = values.iter().flat_map(|value| value.to_le_bytes()).collect();
    tensor.number(2, FLOAT).text(8, name).bytes(9, &raw)
}

/// Pseudo-random numbers in -0.5..0.5 (Numerical Recipes' generator).
pub fn weights() -> Vec<f32> {
    let mut state = 1_u32;
    let mut next = || {
        state = state.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
        (state >> 8) as f32 / (1 << 24) as f32 - 0.5
    };
    (0..FEATURES * DIMENSION).map(|_| next()).collect()
}

/// ModelProto: ir_version 1, graph 7, opset_import 8; GraphProto: node 1, name 2, initializer 5, input 11, output 12.
pub fn pool_and_project(weights: &[f32]) -> Vec<u8> {
    let pool = node("AveragePool", &["pixels"], "pooled")
        .message(5, pair_attribute("kernel_shape", POOL))
        .message(5, pair_attribute("strides", POOL));
    let graph = Message::default()
        .message(1, pool)
        .message(1, node("Flatten", &["pooled"], "flat"))
        .message(1, node("MatMul", &["flat", "weights"], "projected"))
        .text(2, "synthetic")
        .message(5, constant("weights", &[FEATURES, DIMENSION], weights))
        .message(11, value("pixels", &[1, 3, SIDE, SIDE]))
        .message(12, value("projected", &[1, DIMENSION]));
    let opset = Message::default().text(1, "").number(2, 13);
    Message::default().number(1, 8).message(7, graph).message(8, opset).0
}

/// What the graph should give for this chip with pixels scaled to -1..1, at unit length.
pub fn expected(chip: &RgbImage, weights: &[f32]) -> Vec<f64> {
    let mut features = vec![0.0; FEATURES];
    for (position, pixel) in chip.expose_data().chunks_exact(3).enumerate() {
        let (x, y) = (position % SIDE, position / SIDE);
        for (channel, &value) in pixel.iter().enumerate() {
            let feature = (channel * POOLED + y / POOL) * POOLED + x / POOL;
            features[feature] += (f64::from(value) / 127.5 - 1.0) / (POOL * POOL) as f64;
        }
    }
    let mut projected = vec![0.0; DIMENSION];
    for (feature, row) in features.iter().zip(weights.chunks_exact(DIMENSION)) {
        for (sum, &weight) in projected.iter_mut().zip(row) {
            *sum += feature * f64::from(weight);
        }
    }
    let norm = projected.iter().map(|value| value * value).sum::<f64>().sqrt();
    projected.iter().map(|value| value / norm).collect()
}
