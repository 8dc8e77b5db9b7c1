//! `mokv snapshot save`

use std::fs::{self, File, OpenOptions};
use std::io::{self, Write};
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};

use clap::Args;
use mokv_client::SnapshotStream;
use mokv_server::snapshot::codec::{Block, Decoder};

use crate::cluster_args::ClusterArgs;
use crate::exit::Failure;
use crate::facts::Facts;
use crate::output::{self, TableOutput};

const EXAMPLES: &str = "\
The copy has every write that was acknowledged before the command began. It comes from the first endpoint that answers,
leader or not, while writes go on; a majority has to be up.

Examples:
  mokv snapshot save backup.snap
  mokv snapshot save nightly.snap --force --endpoints 10.0.0.2:8400,10.0.0.3:8400
  kubectl exec mokv-0 -- /mokv snapshot save - > backup.snap";

/// Only the owner reads it: it has everybody's data.
const FILE_MODE: u32 = 0o600;

/// Save a copy of everything to a file, while the cluster runs
#[derive(Debug, Args)]
#[command(after_help = EXAMPLES)]
pub(crate) struct SaveArgs {
    /// Where to; it appears when it is complete and on the disk. - is standard output
    #[arg(value_name = "FILE|-")]
    file: PathBuf,

    /// Replace a file that is there
    #[arg(long)]
    force: bool,

    #[command(flatten)]
    output: TableOutput,

    #[command(flatten)]
    cluster: ClusterArgs,
}

impl SaveArgs {
    pub(crate) async fn run(self) -> Result<(), Failure> {
        if self.file == Path::new("-") {
            let mut snapshot = self.cluster.client()?.save_snapshot().await?;
            let write = |bytes: &[u8]| Ok(io::stdout().write_all(bytes)?);
            let facts = receive(&mut snapshot, write).await?;
            io::stdout().flush()?;
            // Standard output has the copy.
            output::note(format_args!("saved {facts}"));
            return Ok(());
        }
        self.check_free()?;
        let mut snapshot = self.cluster.client()?.save_snapshot().await?;
        let mut partial = Partial::create(&self.file)?;
        let facts = receive(&mut snapshot, |bytes| partial.write(bytes)).await?;
        self.check_free()?;
        partial.complete(&self.file)?;
        Ok(facts.fact("file", self.file.display()).print(self.output.format)?)
    }

    fn check_free(&self) -> Result<(), Failure> {
        match !self.force && fs::symlink_metadata(&self.file).is_ok() {
            true => Err(Failure::error(format!(
                "{} is there already: name another file, or replace it with --force",
                self.file.display()
            ))),
            false => Ok(()),
        }
    }
}

/// Writes what comes, checked, and says what it is.
async fn receive(
    snapshot: &mut SnapshotStream,
    mut write: impl FnMut(&[u8]) -> Result<(), Failure>,
) -> Result<Facts, Failure> {
    let mut decoder = Decoder::new();
    let mut facts = None;
    let mut size = 0;
    let broken = |error| Failure::error(format!("what came is no whole snapshot, {error}: nothing is kept, try again"));
    while let Some(piece) = snapshot.next().await? {
        decoder.push(&piece);
        while let Some(block) = decoder.next_block().map_err(broken)? {
            if let Block::Head(head) = block {
                let state_hash: String = head.state_hash.iter().map(|byte| format!("{byte:02x}")).collect();
                let known = Facts::default().fact("cluster_id", head.cluster_id).number("revision", head.revision);
                facts = Some(known.number("keys", head.keys).fact("state_hash", state_hash));
            }
        }
        write(&piece)?;
        size += piece.len() as u64;
    }
    decoder.finish().map_err(broken)?;
    // The decoder lets nothing end without a head.
    Ok(facts.unwrap_or_default().bytes("size", size))
}

/// The file under another name, until it is complete. Dropped before, it is removed.
struct Partial {
    path: PathBuf,
    file: File,
    is_complete: bool,
}

impl Partial {
    fn create(file: &Path) -> Result<Self, Failure> {
        let mut path = file.as_os_str().to_owned();
        path.push(".partial");
        let path = PathBuf::from(path);
        // What an earlier command has left that was killed.
        let mut options = OpenOptions::new();
        let opened = options.write(true).create(true).truncate(true).mode(FILE_MODE).open(&path);
        match opened {
            Ok(file) => Ok(Self { path, file, is_complete: false }),
            Err(error) => Err(failed(&path, &error)),
        }
    }

    fn write(&mut self, bytes: &[u8]) -> Result<(), Failure> {
        self.file.write_all(bytes).map_err(|error| failed(&self.path, &error))
    }

    /// Gives it its name, durably.
    fn complete(mut self, file: &Path) -> Result<(), Failure> {
        let dir = file.parent().filter(|dir| !dir.as_os_str().is_empty()).unwrap_or(Path::new("."));
        let named = self.file.sync_all().and_then(|()| {
            fs::rename(&self.path, file)?;
            self.is_complete = true;
            File::open(dir)?.sync_all()
        });
        named.map_err(|error| failed(file, &error))
    }
}

impl Drop for Partial {
    fn drop(&mut self) {
        if !self.is_complete {
            // The first error is the one to tell.
            drop(fs::remove_file(&self.path));
        }
    }
}

fn failed(path: &Path, error: &io::Error) -> Failure {
    let hint = match error.kind() {
        io::ErrorKind::StorageFull | io::ErrorKind::QuotaExceeded => {
            ": nothing is kept, free some room or save elsewhere"
        }
        _ => "",
    };
    Failure::error(format!("{}: {error}{hint}", path.display()))
}
