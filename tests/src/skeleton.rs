//! Full-size graphs without weights, and the recipe that gives them weights again: see the zoo's page, "Skeletons".

use std::io::Read;

use crate::onnx::Message;
use crate::random::normal;

/// Fills a skeleton, gzipped or not: the bytes of a model that runs.
///
/// # Errors
/// Says what is wrong with the skeleton.
pub fn fill(skeleton: &[u8]) -> Result<Vec<u8>, String> {
    let mut plain = Vec::new();
    let bytes = if skeleton.starts_with(&[0x1f, 0x8b]) {
        flate2::read::GzDecoder::new(skeleton).read_to_end(&mut plain).map_err(|e| e.to_string())?;
        &plain
    } else {
        skeleton
    };
    rewrite(bytes, &|field, part| match field {
        7 => rewrite(part, &graph_part).map(Some),
        _ => Ok(None),
    })
}

fn graph_part(field: u32, part: &[u8]) -> Result<Option<Vec<u8>>, String> {
    match field {
        1 => rewrite(part, &node_part).map(Some),
        5 => tensor(part),
        _ => Ok(None),
    }
}

fn node_part(field: u32, part: &[u8]) -> Result<Option<Vec<u8>>, String> {
    if field != 5 {
        return Ok(None);
    }
    rewrite(part, &|field, part| match field {
        5 => tensor(part),
        6 => rewrite(part, &graph_part).map(Some),
        _ => Ok(None),
    })
    .map(Some)
}

/// One field of a message.
struct Field<'a> {
    number: u32,
    /// Key and value as they stand in the message.
    whole: &'a [u8],
    /// A whole number, if it is one.
    int: u64,
    /// The bytes inside, if it has any.
    inside: Option<&'a [u8]>,
}

fn varint(bytes: &[u8], at: &mut usize) -> Result<u64, String> {
    let mut value = 0u64;
    for shift in (0..64).step_by(7) {
        let byte = *bytes.get(*at).ok_or("the skeleton is truncated")?;
        *at += 1;
        value |= u64::from(byte & 0x7f) << shift;
        if byte < 0x80 {
            return Ok(value);
        }
    }
    Err("the skeleton is no protobuf message".into())
}

fn fields(bytes: &[u8]) -> Result<Vec<Field<'_>>, String> {
    let (mut out, mut at) = (Vec::new(), 0);
    while at < bytes.len() {
        let start = at;
        let key = varint(bytes, &mut at)?;
        let (mut int, mut inside) = (0, None);
        let skip = match key & 7 {
            0 => {
                int = varint(bytes, &mut at)?;
                0
            }
            1 => 8,
            2 => varint(bytes, &mut at)? as usize,
            5 => 4,
            _ => return Err("the skeleton is no protobuf message".into()),
        };
        let end = at.checked_add(skip).filter(|&end| end <= bytes.len()).ok_or("the skeleton is truncated")?;
        if key & 7 == 2 {
            inside = Some(&bytes[at..end]);
        }
        at = end;
        out.push(Field { number: (key >> 3) as u32, whole: &bytes[start..end], int, inside });
    }
    Ok(out)
}

/// A message with those of its parts replaced for which `replace` has something else.
#[allow(clippy::type_complexity, reason = "one caller, one callback")]
fn rewrite(bytes: &[u8], replace: &dyn Fn(u32, &[u8]) -> Result<Option<Vec<u8>>, String>) -> Result<Vec<u8>, String> {
    let mut out = Message::default();
    for field in fields(bytes)? {
        match field.inside.map(|inside| replace(field.number, inside)).transpose()?.flatten() {
            Some(new) => out = out.bytes(field.number, &new),
            None => out.append(field.whole),
        }
    }
    Ok(out.finish())
}

const DIMS: u32 = 1;
const DATA_TYPE: u32 = 2;
const RAW_DATA: u32 = 9;
const DOC_STRING: u32 = 12;

/// A tensor with its recipe carried out, or `None` if it has none.
fn tensor(bytes: &[u8]) -> Result<Option<Vec<u8>>, String> {
    let fields = fields(bytes)?;
    let doc = fields.iter().rev().find(|f| f.number == DOC_STRING).and_then(|f| f.inside).unwrap_or_default();
    let Some(recipe) = std::str::from_utf8(doc).ok().and_then(|doc| doc.strip_prefix("fill:")) else {
        return Ok(None);
    };
    let mut dims = Vec::new();
    for field in fields.iter().filter(|f| f.number == DIMS) {
        match field.inside {
            Some(packed) => {
                let mut at = 0;
                while at < packed.len() {
                    dims.push(varint(packed, &mut at)? as usize);
                }
            }
            None => dims.push(field.int as usize),
        }
    }
    let data_type = fields.iter().find(|f| f.number == DATA_TYPE).map_or(0, |f| f.int);
    let data = carry_out(recipe, &dims, data_type)?;
    let mut out = Message::default();
    for field in &fields {
        if field.number != DOC_STRING && field.number != RAW_DATA {
            out.append(field.whole);
        }
    }
    Ok(Some(out.bytes(RAW_DATA, &data).finish()))
}

fn carry_out(recipe: &str, dims: &[usize], data_type: u64) -> Result<Vec<u8>, String> {
    let bad = || format!("cannot carry out fill:{}", &recipe[..recipe.len().min(60)]);
    let count: usize = dims.iter().product();
    let mut words = recipe.split_whitespace();
    let kind = words.next().unwrap_or_default();
    let words: Vec<&str> = words.collect();
    let text = |key: &str| words.iter().find_map(|w| w.strip_prefix(key)?.strip_prefix('='));
    let number = |key: &str| text(key).and_then(|t| t.parse::<f64>().ok()).ok_or_else(bad);
    match kind {
        "normal" => {
            let seed = text("seed").and_then(|t| t.parse::<u64>().ok()).ok_or_else(bad)?;
            let (mean, std) = (number("mean")?, number("std")?);
            let mut values: Vec<f32> = (0..count as u64).map(|i| normal(seed, i, mean, std)).collect();
            for item in text("set").unwrap_or_default().split(',').filter(|item| !item.is_empty()) {
                let (at, value) = item.split_once(':').ok_or_else(bad)?;
                let at: usize = at.parse().map_err(|_| bad())?;
                *values.get_mut(at).ok_or_else(bad)? = value.parse().map_err(|_| bad())?;
            }
            if words.contains(&"t") {
                let &[rows, columns] = dims else { return Err(bad()) };
                // Made as [columns, rows], then transposed.
                values = (0..count).map(|i| values[i % columns * rows + i / columns]).collect();
            }
            encode(values.iter().map(|&v| f64::from(v)), count, data_type).ok_or_else(bad)
        }
        "const" => {
            let value = number("value")?;
            encode(std::iter::repeat_n(value, count), count, data_type).ok_or_else(bad)
        }
        "arange" => {
            let (start, step) = (number("start")?, number("step")?);
            encode((0..count).map(|i| start + step * i as f64), count, data_type).ok_or_else(bad)
        }
        "zlib" => {
            let packed = base64(text("data").ok_or_else(bad)?).ok_or_else(bad)?;
            let mut out = Vec::new();
            flate2::read::ZlibDecoder::new(&packed[..]).read_to_end(&mut out).map_err(|e| e.to_string())?;
            Ok(out)
        }
        _ => Err(bad()),
    }
}

/// Numbers as ONNX keeps them.
fn encode(values: impl Iterator<Item = f64>, count: usize, data_type: u64) -> Option<Vec<u8>> {
    let mut out = Vec::new();
    match data_type {
        1 => {
            out.reserve(count * 4);
            values.for_each(|v| out.extend_from_slice(&(v as f32).to_le_bytes()));
        }
        6 => values.for_each(|v| out.extend_from_slice(&(v as i32).to_le_bytes())),
        7 => values.for_each(|v| out.extend_from_slice(&(v as i64).to_le_bytes())),
        2 | 9 => values.for_each(|v| out.push(v as u8)),
        3 => values.for_each(|v| out.push(v as i8 as u8)),
        11 => values.for_each(|v| out.extend_from_slice(&v.to_le_bytes())),
        _ => return None,
    }
    Some(out)
}

fn base64(text: &str) -> Option<Vec<u8>> {
    let mut out = Vec::with_capacity(text.len() / 4 * 3);
    let (mut bits, mut held) = (0u32, 0);
    for byte in text.bytes().filter(|&b| b != b'=') {
        let six = match byte {
            b'A'..=b'Z' => byte - b'A',
            b'a'..=b'z' => byte - b'a' + 26,
            b'0'..=b'9' => byte - b'0' + 52,
            b'+' => 62,
            b'/' => 63,
            _ => return None,
        };
        bits = bits << 6 | u32::from(six);
        held += 6;
        if held >= 8 {
            held -= 8;
            out.push((bits >> held) as u8);
        }
    }
    Some(out)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn recipes_are_carried_out_and_the_rest_stays() {
        let tensor = |dims: [i64; 2], recipe: &str| {
            let message = Message::default().int(DIMS, dims[0]).int(DIMS, dims[1]).int(DATA_TYPE, 1);
            message.bytes(8, b"w").bytes(DOC_STRING, recipe.as_bytes()).finish()
        };
        let model = |tensor: &[u8]| {
            let graph = Message::default().bytes(2, b"name").bytes(5, tensor).finish();
            Message::default().int(1, 8).bytes(7, &graph).finish()
        };
        let floats = |recipe: &str| -> Vec<f32> {
            let filled = fill(&model(&tensor([2, 3], recipe))).unwrap();
            // The data is the last field of the last message.
            filled[filled.len() - 24..].chunks(4).map(|b| f32::from_le_bytes(b.try_into().unwrap())).collect()
        };
        assert_eq!(floats("fill:const value=2.5"), [2.5; 6]);
        assert_eq!(floats("fill:arange start=1 step=2"), [1., 3., 5., 7., 9., 11.]);
        let straight = floats("fill:normal mean=0 std=1 seed=7 set=4:9.0");
        assert_eq!(straight[4], 9.0);
        let turned = floats("fill:normal mean=0 std=1 seed=7 set=4:9.0 t");
        // [3,2] made, [2,3] kept.
        assert_eq!(turned, [0, 2, 4, 1, 3, 5].map(|i| straight[i]));
        let untouched = model(&tensor([2, 3], "a remark"));
        assert_eq!(fill(&untouched).unwrap(), untouched);
        assert!(fill(&model(&tensor([2, 3], "fill:what"))).is_err());
        assert!(fill(&untouched[..untouched.len() - 1]).is_err());
    }
}
