//! Values on the command line: as they stand, from a file, or from standard input.

use std::ffi::OsString;
use std::fs;
use std::io::{self, Read};
use std::os::unix::ffi::OsStringExt;

use crate::exit::Failure;

/// The bytes of `VALUE|@FILE|-`.
pub(crate) fn read(value: OsString) -> Result<Vec<u8>, Failure> {
    if value == "-" {
        let mut bytes = Vec::new();
        let read = io::stdin().lock().read_to_end(&mut bytes);
        return read.map(|_| bytes).map_err(|error| Failure::error(format!("can't read standard input: {error}")));
    }
    let bytes = value.into_vec();
    match bytes.strip_prefix(b"@") {
        Some(file) => {
            let file = OsString::from_vec(file.to_vec());
            fs::read(&file).map_err(|error| Failure::error(format!("can't read {}: {error}", file.display())))
        }
        None => Ok(bytes),
    }
}
