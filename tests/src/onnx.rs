//! Writes small ONNX models, for cases that no file holds.

use lenslet::tensor::{DType, Tensor};

/// A protobuf message in the making.
#[derive(Default)]
pub(crate) struct Message(Vec<u8>);

impl Message {
    pub(crate) fn raw_varint(&mut self, mut value: u64) {
        while value >= 0x80 {
            self.0.push(value as u8 | 0x80);
            value >>= 7;
        }
        self.0.push(value as u8);
    }

    /// A field that is a whole number.
    pub(crate) fn int(mut self, field: u32, value: i64) -> Self {
        self.raw_varint(u64::from(field) << 3);
        self.raw_varint(value as u64);
        self
    }

    /// A field that is bytes, a string or a message.
    pub(crate) fn bytes(mut self, field: u32, value: &[u8]) -> Self {
        self.raw_varint(u64::from(field) << 3 | 2);
        self.raw_varint(value.len() as u64);
        self.0.extend_from_slice(value);
        self
    }

    /// Bytes that are fields already.
    pub(crate) fn append(&mut self, fields: &[u8]) {
        self.0.extend_from_slice(fields);
    }

    pub(crate) fn finish(self) -> Vec<u8> {
        self.0
    }
}

/// The number that ONNX gives to a type.
fn elem_type(dtype: DType) -> i64 {
    match dtype {
        DType::F32 => 1,
        DType::U8 => 2,
        DType::I8 => 3,
        DType::I32 => 6,
        DType::I64 => 7,
        DType::Bool => 9,
        DType::F16 => 10,
    }
}

/// A value that enters or leaves the graph.
fn value_info(name: &str, dtype: DType, rank: usize) -> Vec<u8> {
    // Sizes are free: every run brings its own.
    let shape = (0..rank).fold(Message::default(), |shape, axis| {
        shape.bytes(1, &Message::default().bytes(2, format!("{name}_{axis}").as_bytes()).finish())
    });
    let tensor = Message::default().int(1, elem_type(dtype)).bytes(2, &shape.finish());
    let ty = Message::default().bytes(1, &tensor.finish());
    Message::default().bytes(1, name.as_bytes()).bytes(2, &ty.finish()).finish()
}

fn initializer(name: &str, tensor: &Tensor) -> Vec<u8> {
    let dims = tensor.shape().iter().fold(Message::default(), |m, &d| m.int(1, d as i64));
    dims.int(2, elem_type(tensor.dtype())).bytes(8, name.as_bytes()).bytes(9, tensor.bytes()).finish()
}

/// An attribute of whole numbers.
pub enum Attribute {
    /// One.
    Int(i64),
    /// Several.
    Ints(Vec<i64>),
}

/// A model of one node.
pub struct OneNode<'a> {
    /// Domain of the operator; empty for ONNX's own.
    pub domain: &'a str,
    /// The operator.
    pub op: &'a str,
    /// Its inputs in order; an empty name leaves one out.
    pub inputs: &'a [&'a str],
    /// Inputs that each run brings: name and tensor (type and rank count).
    pub fed: &'a [(&'a str, &'a Tensor)],
    /// Inputs that are weights.
    pub weights: &'a [(&'a str, &'a Tensor)],
    /// Its attributes.
    pub attributes: &'a [(&'a str, Attribute)],
    /// Type and rank of its output, which is called `y`.
    pub output: (DType, usize),
}

impl OneNode<'_> {
    /// The model's bytes.
    pub fn model(&self) -> Vec<u8> {
        let mut node = Message::default();
        for input in self.inputs {
            node = node.bytes(1, input.as_bytes());
        }
        node = node.bytes(2, b"y").bytes(3, b"node").bytes(4, self.op.as_bytes()).bytes(7, self.domain.as_bytes());
        for (name, value) in self.attributes {
            let attribute = Message::default().bytes(1, name.as_bytes());
            let attribute = match value {
                Attribute::Int(i) => attribute.int(3, *i).int(20, 2),
                Attribute::Ints(list) => list.iter().fold(attribute, |a, &i| a.int(8, i)).int(20, 7),
            };
            node = node.bytes(5, &attribute.finish());
        }
        let mut graph = Message::default().bytes(1, &node.finish()).bytes(2, b"case");
        for (name, tensor) in self.weights {
            graph = graph.bytes(5, &initializer(name, tensor));
        }
        for (name, tensor) in self.fed {
            graph = graph.bytes(11, &value_info(name, tensor.dtype(), tensor.shape().len()));
        }
        let graph = graph.bytes(12, &value_info("y", self.output.0, self.output.1)).finish();
        let opset = |domain: &str, version| Message::default().bytes(1, domain.as_bytes()).int(2, version).finish();
        let model = Message::default().int(1, 8).bytes(7, &graph).bytes(8, &opset("", 17));
        model.bytes(8, &opset("com.microsoft", 1)).finish()
    }
}
