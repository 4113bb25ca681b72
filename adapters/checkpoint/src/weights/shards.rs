//! A folder of weights: one file, or several with an index that says which tensor lies where.

use std::{
    collections::BTreeMap,
    path::{Component, Path, PathBuf},
    sync::OnceLock,
};

use corolla_domain::ports::{FaultKind, PortError};
use serde::Deserialize;

use super::{View, Weights, safetensors::SafetensorsFile, torch::TorchFile};
use crate::fault::{bad_file, unreadable};

/// An index longer than this is no index. BLOOM's, with 72 shards, has 65 KB.
const MAX_INDEX: u64 = 64 << 20;

type Open = fn(&Path) -> Result<Box<dyn Weights>, PortError>;

/// Opens the weights in `folder`: safetensors where there are any, else pickled ones.
pub(crate) fn open_folder(folder: &Path) -> Result<Box<dyn Weights>, PortError> {
    let safetensors: Open = |path| Ok(Box::new(SafetensorsFile::open(path)?));
    let torch: Open = |path| Ok(Box::new(TorchFile::open(path)?));
    for (stem, open) in [("model.safetensors", safetensors), ("pytorch_model.bin", torch)] {
        let index = folder.join(format!("{stem}.index.json"));
        if index.exists() {
            return Ok(Box::new(Shards::open(&index, folder, open)?));
        }
        let single = folder.join(stem);
        if single.exists() {
            return open(&single);
        }
    }
    Err(PortError::new(
        FaultKind::NotFound,
        format!(
            "{} has no weights: none of model.safetensors, model.safetensors.index.json, pytorch_model.bin and \
             pytorch_model.bin.index.json is there",
            folder.display()
        ),
    ))
}

#[derive(Deserialize)]
struct Index {
    weight_map: BTreeMap<String, String>,
}

/// Several files and the index over them. A file is opened when its first tensor is wanted, so that a machine which
/// hosts a few blocks needs only the shards they lie in.
struct Shards {
    index: PathBuf,
    open: Open,
    files: Vec<(PathBuf, OnceLock<Box<dyn Weights>>)>,
    /// Tensor name -> position in `files`.
    map: BTreeMap<String, usize>,
}

impl Shards {
    fn open(index: &Path, folder: &Path, open: Open) -> Result<Self, PortError> {
        let len = std::fs::metadata(index).map_err(|e| unreadable(index, e))?.len();
        if len > MAX_INDEX {
            return Err(bad_file(index, format!("is {len} bytes long, no index is longer than {MAX_INDEX}")));
        }
        let text = std::fs::read(index).map_err(|e| unreadable(index, e))?;
        let parsed: Index = serde_json::from_slice(&text)
            .map_err(|e| bad_file(index, format!("is no intact weight index ({e}); fetch it again")).with_source(e))?;
        let mut positions: BTreeMap<String, usize> = BTreeMap::new();
        let mut files = Vec::new();
        let mut map = BTreeMap::new();
        for (tensor, file) in parsed.weight_map {
            let position = match positions.get(&file) {
                Some(position) => *position,
                None => {
                    files.push((folder.join(plain_name(index, &file)?), OnceLock::new()));
                    positions.insert(file, files.len() - 1);
                    files.len() - 1
                }
            };
            map.insert(tensor, position);
        }
        Ok(Self { index: index.to_owned(), open, files, map })
    }
}

/// `name`, if it is the name of a file right in the folder.
fn plain_name<'a>(index: &Path, name: &'a str) -> Result<&'a str, PortError> {
    let mut parts = Path::new(name).components();
    match (parts.next(), parts.next()) {
        (Some(Component::Normal(part)), None) if part == name => Ok(name),
        _ => Err(bad_file(index, format!("names {name:?}; shards must be plain file names in the model's folder"))),
    }
}

impl Weights for Shards {
    fn view(&self, name: &str) -> Result<Option<View<'_>>, PortError> {
        let Some(position) = self.map.get(name) else { return Ok(None) };
        let (path, slot) = &self.files[*position];
        let file = match slot.get() {
            Some(file) => file,
            None => {
                let file = (self.open)(path)?;
                slot.get_or_init(|| file)
            }
        };
        match file.view(name)? {
            Some(view) => Ok(Some(view)),
            None => Err(bad_file(
                path,
                format!("has no tensor {name}, though {} says so; fetch both again", self.index.display()),
            )),
        }
    }

    fn names(&self) -> Vec<String> {
        self.map.keys().cloned().collect()
    }

    fn place(&self) -> &Path {
        &self.index
    }

    fn bytes(&self) -> u64 {
        self.files.iter().filter_map(|(path, _)| std::fs::metadata(path).ok()).map(|about| about.len()).sum()
    }
}
