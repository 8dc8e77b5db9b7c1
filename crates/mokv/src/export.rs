//! `mokv export`

use std::fs::{self, File};
use std::io::{self, BufWriter, Write};
use std::path::{Path, PathBuf};

use clap::Args;
use mokv_client::{KeyRange, List};

use crate::cluster_args::ClusterArgs;
use crate::exit::Failure;
use crate::output;
use crate::pair::Pair;

const EXAMPLES: &str = "\
Examples:
  mokv export everything.jsonl
  mokv export --prefix users/ | gzip > users.jsonl.gz

A line is {\"key\": ..., \"value\": ...}; a value that is no text stands in \"value_base64\". `mokv import` reads it back.";

/// Write pairs as JSON Lines, as of one revision
#[derive(Debug, Args)]
#[command(after_help = EXAMPLES)]
pub(crate) struct ExportArgs {
    /// Where to; it appears when it is complete. - is standard output
    #[arg(value_name = "FILE|-", default_value = "-")]
    file: PathBuf,

    /// Only keys that begin with this
    #[arg(long, default_value = "", hide_default_value = true)]
    prefix: String,

    #[command(flatten)]
    cluster: ClusterArgs,
}

impl ExportArgs {
    pub(crate) async fn run(self) -> Result<(), Failure> {
        let client = self.cluster.client()?;
        let list = client.list(KeyRange::prefix(self.prefix)).await?;
        let revision = list.revision();
        let count = if self.file == Path::new("-") {
            write_pairs(list, BufWriter::new(io::stdout())).await?
        } else {
            write_file(list, &self.file).await.map_err(|failure| failure.of(self.file.display()))?
        };
        let revision = revision.map(|revision| format!(" as of revision {revision}")).unwrap_or_default();
        output::note(format_args!("exported {count} pairs{revision}"));
        Ok(())
    }
}

/// Under another name until it is complete, so that half an export is never taken for a whole one.
async fn write_file(list: List, file: &Path) -> Result<u64, Failure> {
    let mut partial = file.as_os_str().to_owned();
    partial.push(".partial");
    let out = File::create(&partial)?;
    let written = write_pairs(list, BufWriter::new(&out)).await;
    let finished = written.and_then(|count| {
        out.sync_all()?;
        fs::rename(&partial, file)?;
        Ok(count)
    });
    if finished.is_err() {
        // The first error is the one to tell.
        drop(fs::remove_file(&partial));
    }
    finished
}

async fn write_pairs(mut list: List, mut out: impl Write) -> Result<u64, Failure> {
    let mut count = 0;
    while let Some(found) = list.next().await? {
        let line = serde_json::to_string(&Pair::new(found.key, &found.value)).map_err(io::Error::from)?;
        writeln!(out, "{line}")?;
        count += 1;
    }
    out.flush()?;
    Ok(count)
}
