//! The file that keeps a swarm's secret: 64 hexadecimal digits, or base64.

use std::{
    fs::{self, OpenOptions},
    io::{self, Read, Write},
    path::Path,
};

use crate::wiring::SwarmSecret;

/// No secret is longer; a larger file is something else.
const MAX_FILE: u64 = 1024;

/// The secret in the file at `path`.
///
/// # Errors
/// A sentence that names the file.
pub(crate) fn read(path: &Path) -> Result<SwarmSecret, String> {
    let mut text = String::new();
    let file = fs::File::open(path).map_err(|fault| said(path, "cannot be read", &fault))?;
    file.take(MAX_FILE).read_to_string(&mut text).map_err(|fault| said(path, "cannot be read", &fault))?;
    text.trim()
        .parse()
        .map_err(|fault: corolla_domain::ports::PortError| said(path, "holds no secret", fault.context()))
}

/// The same, made where there is none.
///
/// # Errors
/// A sentence that names the file.
pub(crate) fn read_or_make(path: &Path) -> Result<SwarmSecret, String> {
    let secret = SwarmSecret::generate().map_err(|fault| fault.to_string())?;
    let mut options = OpenOptions::new();
    options.write(true).create_new(true);
    #[cfg(unix)]
    std::os::unix::fs::OpenOptionsExt::mode(&mut options, 0o600);
    match options.open(path).and_then(|mut file| writeln!(file, "{}", secret.to_hex()).and_then(|()| file.sync_all())) {
        Ok(()) => Ok(secret),
        Err(fault) if fault.kind() == io::ErrorKind::AlreadyExists => read(path),
        Err(fault) => Err(said(path, "cannot be written", &fault)),
    }
}

fn said(path: &Path, what: &str, why: impl std::fmt::Display) -> String {
    format!("secret file {}: {what}: {why}", path.display())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_secret_is_made_once_and_is_private() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("swarm.key");
        assert!(read(&path).unwrap_err().contains("swarm.key: cannot be read"));
        let made = read_or_make(&path).unwrap();
        assert!(read_or_make(&path).unwrap() == made && read(&path).unwrap() == made);
        #[cfg(unix)]
        assert_eq!(std::os::unix::fs::PermissionsExt::mode(&fs::metadata(&path).unwrap().permissions()) & 0o777, 0o600);
        fs::write(&path, "no secret").unwrap();
        assert!(read(&path).unwrap_err().contains("holds no secret"));
    }
}
