//! Tensors of one `pytorch_model.bin`: a zip archive with a pickle that says which member holds which tensor.

use std::{collections::HashMap, ops::Range, path::Path};

use corolla_domain::ports::PortError;

use super::{
    View, Weights,
    pickle::{Pickle, Value},
    zip,
};
use crate::{
    fault::{bad_file, unsupported},
    mmap::Mapped,
    stored::Stored,
};

/// The pickle of a checkpoint takes some hundred bytes a tensor.
const MAX_PICKLE: usize = 64 << 20;

/// A mapped checkpoint and where its tensors lie.
pub(crate) struct TorchFile {
    file: Mapped,
    tensors: HashMap<String, Tensor>,
}

struct Tensor {
    shape: Vec<usize>,
    /// The type and the place, or why the tensor cannot be used. Only tensors that are asked for are complained about.
    data: Result<(Stored, Range<usize>), String>,
}

impl TorchFile {
    pub(crate) fn open(path: &Path) -> Result<Self, PortError> {
        let file = Mapped::open(path)?;
        if !file.bytes().starts_with(b"PK") {
            let fault = "is not in PyTorch's zip format; load and save it with a PyTorch of 2020 or later";
            return Err(bad_file(path, fault));
        }
        let members = zip::members(file.bytes()).map_err(|fault| bad_file(path, fault))?;
        let Some((folder, pickle)) =
            members.iter().find_map(|(name, place)| Some((name.strip_suffix("data.pkl")?, place.clone())))
        else {
            return Err(bad_file(path, "is a zip archive without data.pkl, so no PyTorch checkpoint"));
        };
        if members.get(&*format!("{folder}byteorder")).is_some_and(|at| file.bytes()[at.clone()] != *b"little") {
            return Err(unsupported(format!("{}: big-endian checkpoints are not supported", path.display())));
        }
        if pickle.len() > MAX_PICKLE {
            return Err(bad_file(path, format!("its pickle is {} bytes long, none needs {MAX_PICKLE}", pickle.len())));
        }
        let tensors = tensors(&file.bytes()[pickle], |key| members.get(&*format!("{folder}data/{key}")).cloned());
        let tensors =
            tensors.map_err(|fault| bad_file(path, format!("its pickle has {fault}; fetch the file again")))?;
        Ok(Self { file, tensors })
    }
}

impl Weights for TorchFile {
    fn view(&self, name: &str) -> Result<Option<View<'_>>, PortError> {
        let Some(tensor) = self.tensors.get(name) else { return Ok(None) };
        let file = self.file.path();
        match &tensor.data {
            Ok((stored, place)) => {
                let view = View::new(&self.file, tensor.shape.clone(), *stored, place.clone());
                view.map(Some).ok_or_else(|| bad_file(file, format!("ends within tensor {name}; fetch it again")))
            }
            Err(fault) => Err(bad_file(file, format!("tensor {name} {fault}"))),
        }
    }

    fn names(&self) -> Vec<String> {
        self.tensors.keys().cloned().collect()
    }

    fn place(&self) -> &Path {
        self.file.path()
    }

    fn bytes(&self) -> u64 {
        self.file.bytes().len() as u64
    }
}

fn tensors(pickle: &[u8], storage: impl Fn(&str) -> Option<Range<usize>>) -> Result<HashMap<String, Tensor>, String> {
    let (pickle, top) = Pickle::run(pickle)?;
    let entries = pickle.dict(top).ok_or("no dict of tensors")?;
    let mut tensors = HashMap::new();
    for (name, value) in entries {
        if let Value::Text(name) = name
            && let Some(tensor) = tensor(&pickle, *value, &storage)
        {
            tensors.insert((*name).to_owned(), tensor);
        }
    }
    Ok(tensors)
}

/// `_rebuild_tensor_v2((("storage", class, key, location, numbers), offset, size, stride, ...))`, maybe inside a
/// `_rebuild_parameter(tensor, ...)`.
fn tensor<'a>(pickle: &Pickle<'a>, value: Value<'a>, storage: impl Fn(&str) -> Option<Range<usize>>) -> Option<Tensor> {
    let Value::Built(class, args) = value else { return None };
    let args = pickle.tuple(Value::Tuple(args))?;
    match class {
        ("torch._utils", "_rebuild_tensor_v2") => {}
        ("torch._utils", "_rebuild_parameter") => {
            let inner = *args.first()?;
            let Value::Built(("torch._utils", "_rebuild_tensor_v2"), _) = inner else { return None };
            return tensor(pickle, inner, storage);
        }
        _ => return None,
    }
    let [Value::Outside(source), Value::Int(offset), size, stride, ..] = args else { return None };
    let [_, Value::Class(_, class), Value::Text(key), ..] = pickle.tuple(Value::Tuple(*source))? else { return None };
    let shape = sizes(pickle.tuple(*size)?)?;
    let stride = sizes(pickle.tuple(*stride)?)?;
    let data = locate(class, &shape, &stride, usize::try_from(*offset).ok()?, storage(key));
    Some(Tensor { shape, data })
}

fn locate(
    class: &str,
    shape: &[usize],
    stride: &[usize],
    offset: usize,
    storage: Option<Range<usize>>,
) -> Result<(Stored, Range<usize>), String> {
    let stored = match class {
        "FloatStorage" => Stored::F32,
        "HalfStorage" => Stored::F16,
        "BFloat16Storage" => Stored::Bf16,
        other => return Err(format!("is a {other}, which is not supported; save the model as f32, f16 or bf16")),
    };
    let mut contiguous = 1usize;
    for (side, step) in shape.iter().zip(stride).rev() {
        if *side != 1 && *step != contiguous {
            return Err("is not contiguous; save the model after calling contiguous() on its tensors".to_owned());
        }
        contiguous = contiguous.checked_mul(*side).ok_or("has an impossible size")?;
    }
    let storage = storage.ok_or("has no data in the archive; fetch the file again")?;
    let (_, width) = stored.block();
    let start = offset.checked_mul(width).and_then(|offset| storage.start.checked_add(offset));
    let end = start.zip(contiguous.checked_mul(width)).and_then(|(start, len)| start.checked_add(len));
    match start.zip(end) {
        Some((start, end)) if end <= storage.end && shape.len() == stride.len() => Ok((stored, start..end)),
        _ => Err("reaches beyond its data; fetch the file again".to_owned()),
    }
}

fn sizes(values: &[Value<'_>]) -> Option<Vec<usize>> {
    values.iter().map(|v| if let Value::Int(n) = v { usize::try_from(*n).ok() } else { None }).collect()
}
