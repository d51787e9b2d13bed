//! Sensible sizes for the inputs of a graph that leaves them open, for reports and measurements.

use std::collections::{BTreeMap, BTreeSet};

use lenslet::TensorInfo;
use lenslet::plan::Concrete;
use lenslet::tensor::{DType, Tensor, TensorError};

/// A token sequence when nothing else is said.
const TOKENS: i64 = 16;
/// Height and width of a picture when nothing else is said.
const PIXELS: i64 = 224;

/// Types and shapes for all inputs: those given by name, and defaults for the rest. A size that a given shape or `dims`, by
/// the size's name, fixes holds in all inputs.
///
/// # Errors
/// A sentence that names the input or the size, if a given one does not exist or does not fit.
pub fn input_shapes(
    inputs: &[TensorInfo],
    given: &BTreeMap<String, Vec<usize>>,
    dims: &BTreeMap<String, usize>,
    picture: Option<[u32; 2]>,
) -> Result<Vec<Concrete>, String> {
    let symbols = open_sizes(inputs);
    let mut sizes: BTreeMap<String, i64> = BTreeMap::new();
    for (name, &size) in dims {
        if !symbols.contains(name) {
            return Err(format!("there is no open size {name}; {}", names_of(&symbols)));
        }
        sizes.insert(name.clone(), size as i64);
    }
    for (name, shape) in given {
        let Some(info) = inputs.iter().find(|info| *info.name == **name) else {
            let known: Vec<String> = inputs.iter().map(TensorInfo::to_string).collect();
            return Err(format!("there is no input {name}; the inputs are {}", known.join(", ")));
        };
        let fits = info.shape.len() == shape.len()
            && info.shape.iter().zip(shape).all(|(dim, &size)| dim.as_const().is_none_or(|n| n == size as i64));
        if !fits {
            return Err(format!("{shape:?} does not fit {info}"));
        }
        for (dim, &size) in info.shape.iter().zip(shape) {
            if let Some(symbol) = dim.as_symbol() {
                sizes.insert(exporters_name(info, symbol).to_owned(), size as i64);
            }
        }
    }
    let shapes = inputs.iter().map(|info| {
        let shape = match given.get(&*info.name) {
            Some(shape) => shape.clone(),
            None => {
                let size = |(at, dim): (usize, &lenslet::graph::Dim)| {
                    let named = dim.as_symbol().map(|s| size_of(exporters_name(info, s), at, &sizes, picture));
                    dim.as_const().or(named).and_then(|n| usize::try_from(n).ok()).unwrap_or(1)
                };
                info.shape.iter().enumerate().map(size).collect()
            }
        };
        (info.dtype, shape)
    });
    Ok(shapes.collect())
}

/// The names of the sizes that a graph's inputs leave open, as its exporter wrote them; of a sum, those of its parts.
pub fn open_sizes(inputs: &[TensorInfo]) -> BTreeSet<String> {
    let mut names = BTreeSet::new();
    for info in inputs {
        for symbol in info.shape.iter().filter_map(|dim| dim.as_symbol()) {
            let parts = exporters_name(info, symbol).split('+').map(str::trim);
            names.extend(parts.filter(|part| part.parse::<i64>().is_err()).map(str::to_owned));
        }
    }
    names
}

/// A size's name without its input's, which import puts before it: `input_ids.sequence_length`. A size without a name is
/// called by its place, `input_ids.1`, and that stays whole.
pub fn exporters_name<'a>(info: &TensorInfo, symbol: &'a str) -> &'a str {
    let own = symbol.strip_prefix(&*info.name).and_then(|rest| rest.strip_prefix('.'));
    own.filter(|name| name.parse::<usize>().is_err()).unwrap_or(symbol)
}

fn names_of(symbols: &BTreeSet<String>) -> String {
    match symbols.is_empty() {
        true => "the inputs leave none open".into(),
        false => format!("the inputs leave open {}", symbols.iter().cloned().collect::<Vec<_>>().join(", ")),
    }
}

/// The size that exporters mean by a name; `at` is its position in the shape.
fn size_of(symbol: &str, at: usize, sizes: &BTreeMap<String, i64>, picture: Option<[u32; 2]>) -> i64 {
    if let Some(&size) = sizes.get(symbol) {
        return size;
    }
    // Exporters write sums as names: "past_sequence_length + sequence_length".
    if symbol.contains('+') {
        let part = |part: &str| part.parse().unwrap_or_else(|_| size_of(part, at, sizes, picture));
        return symbol.split('+').map(|text| part(text.trim())).sum();
    }
    let [height, width] = picture.map_or([PIXELS; 2], |size| size.map(i64::from));
    let name = symbol.to_lowercase();
    match at {
        _ if name.contains("batch") || name.contains("num_images") => 1,
        _ if name.contains("channel") => 3,
        _ if name.contains("height") => height,
        _ if name.contains("width") => width,
        0 => 1,
        _ => TOKENS,
    }
}

/// A tensor with small numbers that no model minds: ones for integers (ids and masks), a slow wave for floats.
///
/// # Errors
/// [`TensorError`] if the shape is too large.
pub fn sample(dtype: DType, shape: &[usize]) -> Result<Tensor, TensorError> {
    let len = lenslet::tensor::element_count(shape)?;
    match dtype {
        DType::F32 => {
            let wave: Vec<f32> = (0..len).map(|i| ((i % 997) as f32 * 0.013).sin()).collect();
            Tensor::from_slice(shape, &wave)
        }
        DType::I64 => Tensor::from_slice(shape, &vec![1i64; len]),
        DType::I32 => Tensor::from_slice(shape, &vec![1i32; len]),
        _ => Tensor::from_bytes(dtype, shape, &vec![0; len * dtype.size()]),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use lenslet::graph::Dim;

    fn info(name: &str, dtype: DType, shape: Vec<Dim>) -> TensorInfo {
        TensorInfo { name: name.into(), dtype, shape }
    }

    #[test]
    fn names_say_what_sizes_mean() {
        let (batch, length) = (Dim::symbol("batch_size"), Dim::symbol("sequence_length"));
        let total = Dim::symbol("past_sequence_length + sequence_length");
        let inputs = [
            info("input_ids", DType::I64, vec![batch.clone(), length]),
            info("attention_mask", DType::I64, vec![batch.clone(), total]),
            info("pixel_values", DType::F32, vec![batch, Dim::Const(3), Dim::symbol("height"), Dim::symbol("width")]),
        ];
        let none = BTreeMap::new();
        let shapes = input_shapes(&inputs, &BTreeMap::new(), &none, Some([112, 96])).unwrap();
        assert_eq!(shapes[0].1, [1, 16]);
        assert_eq!(shapes[1].1, [1, 32]);
        assert_eq!(shapes[2].1, [1, 3, 112, 96]);
        let given = BTreeMap::from([("input_ids".to_owned(), vec![2, 7])]);
        let shapes = input_shapes(&inputs, &given, &none, None).unwrap();
        assert_eq!((&shapes[1].1[..], &shapes[2].1[..]), (&[2, 23][..], &[2, 3, 224, 224][..]));
        let wrong = BTreeMap::from([("pixel_values".to_owned(), vec![1, 4, 8, 8])]);
        assert!(input_shapes(&inputs, &wrong, &none, None).unwrap_err().contains("pixel_values"));
        let unknown = BTreeMap::from([("x".to_owned(), vec![1])]);
        assert!(input_shapes(&inputs, &unknown, &none, None).unwrap_err().contains("input_ids"));
    }

    #[test]
    fn sizes_are_set_by_name() {
        let total = Dim::symbol("attention_mask.past_sequence_length + sequence_length");
        let inputs = [
            info("input_ids", DType::I64, vec![Dim::symbol("batch_size"), Dim::symbol("input_ids.sequence_length")]),
            info("attention_mask", DType::I64, vec![Dim::symbol("batch_size"), total]),
        ];
        let set = |dims: &[(&str, usize)]| {
            let dims = dims.iter().map(|&(name, size)| (name.to_owned(), size)).collect();
            input_shapes(&inputs, &BTreeMap::new(), &dims, None)
        };
        let shapes = set(&[("batch_size", 3), ("sequence_length", 77), ("past_sequence_length", 0)]).unwrap();
        assert_eq!((&shapes[0].1[..], &shapes[1].1[..]), (&[3, 77][..], &[3, 77][..]));
        assert!(set(&[("width", 8)]).unwrap_err().contains("sequence_length"));
        let nameless = [info("x", DType::F32, vec![Dim::symbol("x.0")])];
        assert!(open_sizes(&nameless).contains("x.0"));
    }
}
