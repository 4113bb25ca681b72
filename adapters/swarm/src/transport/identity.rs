//! The private key of a host and the file that keeps it.

use std::{
    fs::{self, File, OpenOptions},
    io::{self, Read, Write},
    path::Path,
};

use corolla_domain::ports::PortError;
use libp2p::identity::Keypair;

/// No key is longer; a larger file is something else.
const MAX_FILE: u64 = 16 * 1024;

/// The key in the file at `path`, made when there is none; without a path a fresh key. Blocks on the file system.
pub(super) fn load(path: Option<&Path>) -> Result<Keypair, PortError> {
    let Some(path) = path else { return Ok(Keypair::generate_ed25519()) };
    match File::open(path) {
        Ok(file) => read(file, path),
        Err(error) if error.kind() == io::ErrorKind::NotFound => create(path),
        Err(error) => Err(fault(path, "cannot be read", error)),
    }
}

fn read(file: File, path: &Path) -> Result<Keypair, PortError> {
    let mut bytes = Vec::new();
    file.take(MAX_FILE + 1).read_to_end(&mut bytes).map_err(|e| fault(path, "cannot be read", e))?;
    if bytes.len() as u64 > MAX_FILE {
        return Err(PortError::invalid(format!("identity file {}: too large for a private key", path.display())));
    }
    Keypair::from_protobuf_encoding(&bytes).map_err(|e| fault(path, "holds no libp2p private key", e))
}

/// Writes a fresh key beside `path` and links it into place, so that of two starting hosts both use the same one.
fn create(path: &Path) -> Result<Keypair, PortError> {
    let key = Keypair::generate_ed25519();
    let bytes = key.to_protobuf_encoding().map_err(|e| PortError::internal("encoding a fresh key").with_source(e))?;
    let mut draft = path.as_os_str().to_owned();
    draft.push(format!(".{}", key.public().to_peer_id()));
    let draft = Path::new(&draft);
    let written = write(draft, &bytes).and_then(|()| fs::hard_link(draft, path));
    let removed = fs::remove_file(draft);
    match written {
        Ok(()) => removed.map(|()| key).map_err(|e| fault(path, "cannot be written", e)),
        Err(error) if error.kind() == io::ErrorKind::AlreadyExists => {
            read(File::open(path).map_err(|e| fault(path, "cannot be read", e))?, path)
        }
        Err(error) => Err(fault(path, "cannot be written", error)),
    }
}

fn write(path: &Path, bytes: &[u8]) -> io::Result<()> {
    let mut options = OpenOptions::new();
    options.write(true).create_new(true);
    #[cfg(unix)]
    std::os::unix::fs::OpenOptionsExt::mode(&mut options, 0o600);
    let mut file = options.open(path)?;
    file.write_all(bytes)?;
    file.sync_all()
}

fn fault(path: &Path, what: &str, error: impl std::error::Error + Send + Sync + 'static) -> PortError {
    PortError::invalid(format!("identity file {}: {what}: {error}", path.display())).with_source(error)
}

#[cfg(test)]
mod tests {
    use corolla_domain::ports::FaultKind;

    use super::*;

    #[test]
    fn a_key_survives_a_restart_and_is_private() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("identity");
        let first = load(Some(&path)).unwrap();
        let second = load(Some(&path)).unwrap();
        assert_eq!(first.public(), second.public());
        assert_eq!(fs::read_dir(folder.path()).unwrap().count(), 1);
        #[cfg(unix)]
        assert_eq!(std::os::unix::fs::PermissionsExt::mode(&fs::metadata(&path).unwrap().permissions()) & 0o777, 0o600);
    }

    #[test]
    fn a_broken_file_is_named() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("identity");
        for content in [&b""[..], b"not a key", &[8; 100_000]] {
            fs::write(&path, content).unwrap();
            let error = load(Some(&path)).unwrap_err();
            assert_eq!(error.kind(), FaultKind::InvalidInput);
            assert!(error.context().contains("identity"), "{error}");
            assert_eq!(fs::read(&path).unwrap(), content);
        }
        let error = load(Some(&folder.path().join("no/such/folder"))).unwrap_err();
        assert_eq!(error.kind(), FaultKind::InvalidInput);
    }
}
