//! The parts of ONNX's protobuf messages that a runtime needs, read in place: strings and weights are slices of the file.
//!
//! Field numbers are those of `onnx.proto3` (ONNX, Apache-2.0). A hand-made reader costs a few kilobytes of wasm; generated
//! code cost several times that and copies every weight once.

/// Why bytes are not a protobuf message.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{reason} at byte {at}")]
pub(crate) struct WireError {
    pub(crate) at: usize,
    pub(crate) reason: &'static str,
}

type Result<T> = std::result::Result<T, WireError>;

/// Subgraphs inside subgraphs deeper than this are refused, so that a hostile file cannot overflow the stack.
const MAX_DEPTH: usize = 16;

#[derive(Clone, Copy)]
enum Field<'a> {
    Int(u64),
    Fixed32(u32),
    Fixed64(u64),
    Bytes(Reader<'a>),
}

#[derive(Clone, Copy)]
struct Reader<'a> {
    bytes: &'a [u8],
    pos: usize,
    /// Where `bytes` begins in the file.
    base: usize,
}

impl<'a> Reader<'a> {
    fn error<T>(&self, reason: &'static str) -> Result<T> {
        Err(WireError { at: self.base + self.pos, reason })
    }

    fn varint(&mut self) -> Result<u64> {
        let mut value = 0u64;
        for shift in (0..64).step_by(7) {
            let Some(&byte) = self.bytes.get(self.pos) else { return self.error("the file ends inside a number") };
            self.pos += 1;
            value |= u64::from(byte & 0x7f) << shift;
            if byte < 0x80 {
                return Ok(value);
            }
        }
        self.error("a number is too long")
    }

    fn take(&mut self, len: usize) -> Result<Reader<'a>> {
        match self.pos.checked_add(len).and_then(|end| self.bytes.get(self.pos..end)) {
            Some(bytes) => {
                let base = self.base + self.pos;
                self.pos += len;
                Ok(Reader { bytes, pos: 0, base })
            }
            None => self.error("the file ends inside a field: it is truncated"),
        }
    }

    fn field(&mut self) -> Result<Option<(u32, Field<'a>)>> {
        if self.pos == self.bytes.len() {
            return Ok(None);
        }
        let key = self.varint()?;
        let field = match key & 7 {
            0 => Field::Int(self.varint()?),
            1 => Field::Fixed64(u64::from_le_bytes(self.take(8)?.bytes.try_into().expect("eight bytes were taken"))),
            2 => {
                let len = self.varint()?;
                let Ok(len) = usize::try_from(len) else { return self.error("a field is too long") };
                Field::Bytes(self.take(len)?)
            }
            5 => Field::Fixed32(u32::from_le_bytes(self.take(4)?.bytes.try_into().expect("four bytes were taken"))),
            _ => return self.error("the bytes are not a protobuf message"),
        };
        match u32::try_from(key >> 3) {
            Ok(number) if number > 0 => Ok(Some((number, field))),
            _ => self.error("the bytes are not a protobuf message"),
        }
    }

    fn text(&self) -> Result<&'a str> {
        match std::str::from_utf8(self.bytes) {
            Ok(text) => Ok(text),
            Err(_) => self.error("a name is not UTF-8"),
        }
    }
}

impl Field<'_> {
    fn int(self) -> i64 {
        match self {
            Field::Int(n) | Field::Fixed64(n) => n as i64,
            Field::Fixed32(n) => n as i64,
            Field::Bytes(_) => 0,
        }
    }
}

/// A repeated number may come packed or one by one.
fn ints(field: Field<'_>, out: &mut Vec<i64>) -> Result<()> {
    match field {
        Field::Bytes(mut r) => {
            while r.pos < r.bytes.len() {
                out.push(r.varint()? as i64);
            }
        }
        other => out.push(other.int()),
    }
    Ok(())
}

fn floats(field: Field<'_>, out: &mut Vec<f32>) -> Result<()> {
    match field {
        Field::Bytes(r) => {
            if r.bytes.len() % 4 != 0 {
                return r.error("a list of floats is cut");
            }
            out.extend(r.bytes.as_chunks::<4>().0.iter().map(|b| f32::from_le_bytes(*b)));
        }
        Field::Fixed32(bits) => out.push(f32::from_bits(bits)),
        Field::Int(_) | Field::Fixed64(_) => {}
    }
    Ok(())
}

fn doubles(field: Field<'_>, out: &mut Vec<f64>) -> Result<()> {
    match field {
        Field::Bytes(r) => {
            if r.bytes.len() % 8 != 0 {
                return r.error("a list of doubles is cut");
            }
            out.extend(r.bytes.as_chunks::<8>().0.iter().map(|b| f64::from_le_bytes(*b)));
        }
        Field::Fixed64(bits) => out.push(f64::from_bits(bits)),
        Field::Int(_) | Field::Fixed32(_) => {}
    }
    Ok(())
}

/// Reads a message: `number => field` arms; a field with another wire type than the arm expects is an error.
macro_rules! message {
    ($reader:expr, $($number:literal => |$field:ident| $body:expr),* $(,)?) => {{
        let mut reader = $reader;
        while let Some((number, field)) = reader.field()? {
            match number {
                $($number => { let $field = field; $body })*
                _ => {}
            }
        }
    }};
}

fn bytes<'a>(field: Field<'a>) -> Result<Reader<'a>> {
    match field {
        Field::Bytes(reader) => Ok(reader),
        _ => Err(WireError { at: 0, reason: "the bytes are not an ONNX model" }),
    }
}

/// `TensorProto`.
#[derive(Debug, Clone, Default)]
pub(crate) struct TensorProto<'a> {
    pub(crate) name: &'a str,
    pub(crate) dims: Vec<i64>,
    pub(crate) data_type: i32,
    pub(crate) raw: Option<&'a [u8]>,
    pub(crate) ints: Vec<i64>,
    pub(crate) floats: Vec<f32>,
    pub(crate) doubles: Vec<f64>,
    /// `location`, `offset`, `length`, when the elements lie in another file.
    pub(crate) external: Vec<(&'a str, &'a str)>,
    pub(crate) is_external: bool,
}

impl<'a> TensorProto<'a> {
    fn read(reader: Reader<'a>) -> Result<Self> {
        let mut t = Self::default();
        message!(reader,
            1 => |f| ints(f, &mut t.dims)?,
            2 => |f| t.data_type = f.int() as i32,
            4 => |f| floats(f, &mut t.floats)?,
            5 => |f| ints(f, &mut t.ints)?,
            7 => |f| ints(f, &mut t.ints)?,
            8 => |f| t.name = bytes(f)?.text()?,
            9 => |f| t.raw = Some(bytes(f)?.bytes),
            10 => |f| doubles(f, &mut t.doubles)?,
            11 => |f| ints(f, &mut t.ints)?,
            13 => |f| {
                let (mut key, mut value) = ("", "");
                message!(bytes(f)?, 1 => |f| key = bytes(f)?.text()?, 2 => |f| value = bytes(f)?.text()?);
                t.external.push((key, value));
            },
            14 => |f| t.is_external = f.int() == 1,
        );
        Ok(t)
    }
}

/// `AttributeProto`, by its value.
#[derive(Debug, Clone)]
pub(crate) enum AttributeValue<'a> {
    Float(f32),
    Int(i64),
    Text(&'a [u8]),
    Tensor(TensorProto<'a>),
    Graph(GraphProto<'a>),
    Floats(Vec<f32>),
    Ints(Vec<i64>),
    Other,
}

#[derive(Debug, Clone)]
pub(crate) struct Attribute<'a> {
    pub(crate) name: &'a str,
    pub(crate) value: AttributeValue<'a>,
}

impl<'a> Attribute<'a> {
    fn read(reader: Reader<'a>, depth: usize) -> Result<Self> {
        let (mut name, mut kind) = ("", 0);
        let (mut f, mut i, mut s) = (0.0, 0, &[][..]);
        let (mut t, mut g) = (None, None);
        let (mut fs, mut is) = (Vec::new(), Vec::new());
        message!(reader,
            1 => |x| name = bytes(x)?.text()?,
            2 => |x| if let Field::Fixed32(bits) = x { f = f32::from_bits(bits) },
            3 => |x| i = x.int(),
            4 => |x| s = bytes(x)?.bytes,
            5 => |x| t = Some(TensorProto::read(bytes(x)?)?),
            6 => |x| g = Some(GraphProto::read(bytes(x)?, depth + 1)?),
            7 => |x| floats(x, &mut fs)?,
            8 => |x| ints(x, &mut is)?,
            20 => |x| kind = x.int(),
        );
        let value = match kind {
            1 => AttributeValue::Float(f),
            2 => AttributeValue::Int(i),
            3 => AttributeValue::Text(s),
            4 => AttributeValue::Tensor(t.unwrap_or_default()),
            5 => AttributeValue::Graph(g.unwrap_or_default()),
            6 => AttributeValue::Floats(fs),
            7 => AttributeValue::Ints(is),
            _ => AttributeValue::Other,
        };
        Ok(Attribute { name, value })
    }
}

/// `NodeProto`.
#[derive(Debug, Clone, Default)]
pub(crate) struct NodeProto<'a> {
    pub(crate) name: &'a str,
    pub(crate) op_type: &'a str,
    pub(crate) domain: &'a str,
    pub(crate) inputs: Vec<&'a str>,
    pub(crate) outputs: Vec<&'a str>,
    pub(crate) attributes: Vec<Attribute<'a>>,
}

/// A dimension of a `TensorShapeProto`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum DimProto<'a> {
    Value(i64),
    Param(&'a str),
    Unknown,
}

/// `ValueInfoProto` of a tensor; `shape` is `None` when even the rank is open.
#[derive(Debug, Clone, Default)]
pub(crate) struct ValueInfo<'a> {
    pub(crate) name: &'a str,
    pub(crate) elem_type: i32,
    pub(crate) shape: Option<Vec<DimProto<'a>>>,
}

impl<'a> ValueInfo<'a> {
    fn read(reader: Reader<'a>) -> Result<Self> {
        let mut v = Self::default();
        message!(reader,
            1 => |f| v.name = bytes(f)?.text()?,
            2 => |f| message!(bytes(f)?, 1 => |f| message!(bytes(f)?,
                1 => |f| v.elem_type = f.int() as i32,
                2 => |f| {
                    let mut shape = Vec::new();
                    message!(bytes(f)?, 1 => |f| {
                        let mut dim = DimProto::Unknown;
                        message!(bytes(f)?,
                            1 => |f| dim = DimProto::Value(f.int()),
                            2 => |f| dim = DimProto::Param(bytes(f)?.text()?),
                        );
                        shape.push(dim);
                    });
                    v.shape = Some(shape);
                },
            )),
        );
        Ok(v)
    }
}

/// `GraphProto`.
#[derive(Debug, Clone, Default)]
pub(crate) struct GraphProto<'a> {
    pub(crate) nodes: Vec<NodeProto<'a>>,
    pub(crate) initializers: Vec<TensorProto<'a>>,
    pub(crate) inputs: Vec<ValueInfo<'a>>,
    pub(crate) outputs: Vec<ValueInfo<'a>>,
    pub(crate) has_sparse: bool,
}

impl<'a> GraphProto<'a> {
    fn read(reader: Reader<'a>, depth: usize) -> Result<Self> {
        if depth > MAX_DEPTH {
            return reader.error("subgraphs are nested too deeply");
        }
        let mut g = Self::default();
        message!(reader,
            1 => |f| {
                let mut n = NodeProto::default();
                message!(bytes(f)?,
                    1 => |f| n.inputs.push(bytes(f)?.text()?),
                    2 => |f| n.outputs.push(bytes(f)?.text()?),
                    3 => |f| n.name = bytes(f)?.text()?,
                    4 => |f| n.op_type = bytes(f)?.text()?,
                    5 => |f| n.attributes.push(Attribute::read(bytes(f)?, depth)?),
                    7 => |f| n.domain = bytes(f)?.text()?,
                );
                g.nodes.push(n);
            },
            5 => |f| g.initializers.push(TensorProto::read(bytes(f)?)?),
            11 => |f| g.inputs.push(ValueInfo::read(bytes(f)?)?),
            12 => |f| g.outputs.push(ValueInfo::read(bytes(f)?)?),
            15 => |f| { let _ = f; g.has_sparse = true },
        );
        Ok(g)
    }
}

/// `ModelProto`.
#[derive(Debug, Clone, Default)]
pub(crate) struct ModelProto<'a> {
    pub(crate) ir_version: i64,
    pub(crate) producer: &'a str,
    /// Domain (empty for ONNX's own) and version.
    pub(crate) opsets: Vec<(&'a str, i64)>,
    pub(crate) graph: Option<GraphProto<'a>>,
}

impl<'a> ModelProto<'a> {
    /// Reads a model file.
    pub(crate) fn read(file: &'a [u8]) -> Result<Self> {
        let mut m = Self::default();
        message!(Reader { bytes: file, pos: 0, base: 0 },
            1 => |f| m.ir_version = f.int(),
            2 => |f| m.producer = bytes(f)?.text()?,
            7 => |f| m.graph = Some(GraphProto::read(bytes(f)?, 0)?),
            8 => |f| {
                let (mut domain, mut version) = ("", 0);
                message!(bytes(f)?, 1 => |f| domain = bytes(f)?.text()?, 2 => |f| version = f.int());
                m.opsets.push((domain, version));
            },
        );
        Ok(m)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn truncated_and_foreign_bytes_are_errors() {
        // A model with one node, written by hand: graph { node { input "x" output "y" op_type "Relu" } }.
        let node = [0x0a, 1, b'x', 0x12, 1, b'y', 0x22, 4, b'R', b'e', b'l', b'u'];
        let mut graph = vec![0x0a, node.len() as u8];
        graph.extend(node);
        let mut file = vec![0x08, 8, 0x3a, graph.len() as u8];
        file.extend(graph);
        let model = ModelProto::read(&file).unwrap();
        assert_eq!(model.graph.unwrap().nodes[0].op_type, "Relu");
        for len in 3..file.len() {
            assert!(ModelProto::read(&file[..len]).is_err(), "{len} bytes were accepted");
        }
        assert!(ModelProto::read(b"\x89PNG\r\n\x1a\n").is_err());
        assert!(ModelProto::read(&[0x3a, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0x7f]).is_err());
    }
}
