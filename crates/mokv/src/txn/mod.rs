//! `mokv txn`

mod script;
mod words;

use std::io::{self, IsTerminal, Read, Write};

use clap::Args;
use mokv_client::{TxnAnswer, TxnResult};
use serde::Serialize;

use crate::answer::{DeleteAnswer, DeleteRangeAnswer, SetAnswer, deleted_keys};
use crate::cluster_args::ClusterArgs;
use crate::exit::Failure;
use crate::output::{self, ResultOutput, TableFormat, note};
use crate::pair::{Found, readable};

const GRAMMAR: &str = r#"Examples:
  mokv txn --if 'mod("config") = 12' --then 'set config "new"' --else 'get config'
  mokv txn --then 'set a 1' --then 'set b 2' --then 'delete c'
  mokv txn < script

Without --if, --then and --else it reads a script: comparisons, an empty line, what to do if all of them hold, an empty line, what to
do otherwise. One on a line; a line that begins with # says nothing.

Comparisons:
  TARGET("KEY") OPERATOR WITH              OPERATOR: = != < >
  TARGET("KEY", "END") OPERATOR WITH       for every key from KEY on and before END ("" is no bound)
  TARGET: value, version, create, mod (revisions), lease (an id, 0 is none)
  present("KEY")   absent("KEY")

Operations (put and del are set and delete, too):
  set KEY VALUE|@FILE [--ttl DURATION | --lease ID | --keep-ttl] [--previous]
  get KEY
  list [PREFIX | --prefix PREFIX] [--start KEY] [--end KEY] [--limit COUNT] [--keys-only] [--reverse]
  delete KEY [--previous]
  delete --prefix PREFIX | --start KEY | --end KEY | --all

Words end at a space. In "quotes" \n \t \r \0 \\ \" and \xFF stand for those bytes; in 'quotes' everything stands for itself.

It prints SUCCESS or FAILURE, and what each operation did. FAILURE, that is, a comparison did not hold, is exit code 5."#;

/// Compare, then do one of two lists of operations, all in one revision
#[derive(Debug, Args)]
#[command(after_help = GRAMMAR)]
pub(crate) struct TxnArgs {
    /// A comparison that has to hold
    #[arg(long = "if", value_name = "COMPARISON")]
    compare: Vec<String>,

    /// What to do if all of them hold
    #[arg(long, value_name = "OPERATION")]
    then: Vec<String>,

    /// What to do otherwise
    #[arg(long = "else", value_name = "OPERATION")]
    otherwise: Vec<String>,

    #[command(flatten)]
    output: ResultOutput,

    #[command(flatten)]
    cluster: ClusterArgs,
}

impl TxnArgs {
    pub(crate) async fn run(self) -> Result<(), Failure> {
        let client = self.cluster.client()?.at_most_once();
        let is_script = self.compare.is_empty() && self.then.is_empty() && self.otherwise.is_empty();
        let txn = if is_script {
            script::parse(&read_script()?)
        } else {
            script::build(&self.compare, &self.then, &self.otherwise)
        };
        let answer = client.txn(txn.map_err(Failure::usage)?).await?;
        let succeeded = answer.succeeded;
        match self.output.format {
            TableFormat::Json => output::json(&Answer::from(answer))?,
            format => print(&answer, format)?,
        }
        if succeeded { Ok(()) } else { Err(Failure::refused("a comparison did not hold")) }
    }
}

fn read_script() -> Result<String, Failure> {
    if io::stdin().is_terminal() {
        note(format_args!(
            "comparisons, an empty line, what to do if they hold, an empty line, what to do otherwise, Ctrl-D:"
        ));
    }
    let mut script = String::new();
    let read = io::stdin().lock().read_to_string(&mut script);
    read.map_err(|error| Failure::error(format!("can't read standard input: {error}")))?;
    Ok(script)
}

/// The answer as JSON has it.
#[derive(Debug, Serialize)]
struct Answer {
    succeeded: bool,
    revision: u64,
    results: Vec<ResultJson>,
}

#[derive(Debug, Serialize)]
#[serde(rename_all = "snake_case")]
enum ResultJson {
    Set(SetAnswer),
    Delete(DeleteAnswer),
    DeleteRange(DeleteRangeAnswer),
    /// `null`: the key has no value.
    Get(Option<Found>),
    List {
        pairs: Vec<Found>,
        more: bool,
    },
    Txn(Answer),
}

impl From<TxnAnswer> for Answer {
    fn from(answer: TxnAnswer) -> Self {
        let results = answer.results.into_iter().map(ResultJson::from).collect();
        Self { succeeded: answer.succeeded, revision: answer.revision, results }
    }
}

impl From<TxnResult> for ResultJson {
    fn from(result: TxnResult) -> Self {
        match result {
            TxnResult::Set(written) => Self::Set(written.into()),
            TxnResult::Delete(deleted) => Self::Delete(deleted.into()),
            TxnResult::DeleteRange(deleted) => Self::DeleteRange(deleted.into()),
            TxnResult::Get(pair) => Self::Get(pair.map(Found::from)),
            TxnResult::List { pairs, more } => Self::List { pairs: pairs.into_iter().map(Found::from).collect(), more },
            TxnResult::Txn(answer) => Self::Txn(answer.into()),
        }
    }
}

fn print(answer: &TxnAnswer, format: TableFormat) -> io::Result<()> {
    let mut out = io::stdout().lock();
    writeln!(out, "{}", if answer.succeeded { "SUCCESS" } else { "FAILURE" })?;
    let print_pair = |out: &mut io::StdoutLock<'_>, pair: &mokv_client::Pair| {
        if format == TableFormat::Table {
            return writeln!(out, "{}  {}", readable(pair.key.as_bytes()), readable(&pair.value));
        }
        out.write_all(pair.key.as_bytes())?;
        out.write_all(b"\t")?;
        out.write_all(&pair.value)?;
        out.write_all(b"\n")
    };
    for result in &answer.results {
        match result {
            TxnResult::Set(written) => {
                writeln!(out, "OK")?;
                written.previous.iter().try_for_each(|pair| print_pair(&mut out, pair))?;
            }
            TxnResult::Delete(deleted) => {
                writeln!(out, "{}", if deleted.existed { "deleted" } else { "there was no such key" })?;
                deleted.previous.iter().try_for_each(|pair| print_pair(&mut out, pair))?;
            }
            TxnResult::DeleteRange(deleted) => writeln!(out, "{}", deleted_keys(deleted.deleted))?,
            TxnResult::Get(Some(pair)) => print_pair(&mut out, pair)?,
            TxnResult::Get(None) => writeln!(out, "no value")?,
            TxnResult::List { pairs, more } => {
                pairs.iter().try_for_each(|pair| print_pair(&mut out, pair))?;
                if *more {
                    writeln!(out, "and more")?;
                }
            }
            // There is no way to ask for one.
            TxnResult::Txn(_) => {}
        }
    }
    out.flush()
}
