//! mökv: the server, its command line, and a whole cluster on one machine, in one binary.
//!
//! One file a command: each has its arguments with their help, and `run`. What the commands share: whom to ask
//! ([`cluster_args`]), which keys and how fresh ([`range_args`], [`read_args`]), how results look ([`output`], [`answer`],
//! [`pair`]), how a command ends ([`exit`]), and the commands of the user's that some run ([`child`]).

mod answer;
mod bench;
mod check;
mod child;
mod cluster_args;
mod completion;
mod count;
mod delete;
mod dev;
mod elect;
mod exit;
mod export;
mod facts;
mod get;
mod import;
mod incr;
mod kubernetes;
mod lease;
mod leave;
mod list;
mod lock;
mod logging;
mod member;
mod members;
mod output;
mod pair;
mod range_args;
mod read_args;
mod recover;
mod serve;
mod servers;
mod set;
mod snapshot;
mod status;
mod ttl;
mod txn;
mod value;
mod watch;

use std::process::ExitCode;

use clap::{CommandFactory, Parser, Subcommand};
use tokio::runtime::Runtime;

use exit::{EXIT_CODES, Failure};

/// The pairs are many small pieces of memory, written by one thread and read by others. The system's allocator, above all
/// that of a static binary, takes a good part of a node's time for them: see docs/performance.md.
#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

/// A distributed, strongly consistent, in-memory key-value store
///
/// Without a command it runs a node, as `mokv serve` does. `mokv dev` runs a whole cluster on this machine.
#[derive(Debug, Parser)]
#[command(name = "mokv", version, args_conflicts_with_subcommands = true, after_help = EXIT_CODES)]
struct Cli {
    #[command(flatten)]
    serve: serve::ServeArgs,

    #[command(subcommand)]
    command: Option<Command>,
}

#[derive(Debug, Subcommand)]
enum Command {
    Serve(serve::ServeArgs),
    Dev(dev::DevArgs),
    Get(get::GetArgs),
    Set(set::SetArgs),
    Delete(delete::DeleteArgs),
    List(list::ListArgs),
    Count(count::CountArgs),
    Incr(incr::IncrArgs),
    Ttl(ttl::TtlArgs),
    Txn(txn::TxnArgs),
    Watch(watch::WatchArgs),
    Lease(lease::LeaseArgs),
    Lock(lock::LockArgs),
    Elect(elect::ElectArgs),
    Servers(servers::ServersArgs),
    Status(status::StatusArgs),
    Member(member::MemberArgs),
    Members(members::MembersArgs),
    Leave(leave::LeaveArgs),
    Snapshot(snapshot::SnapshotArgs),
    Recover(recover::RecoverArgs),
    Bench(bench::BenchArgs),
    Import(import::ImportArgs),
    Export(export::ExportArgs),
    Check(check::CheckArgs),
    Kubernetes(kubernetes::KubernetesArgs),
    Completion(completion::CompletionArgs),
    /// Print the version
    Version,
}

fn main() -> ExitCode {
    let cli = Cli::parse();
    let runtime = match Runtime::new() {
        Ok(runtime) => runtime,
        Err(error) => return Failure::error(format!("can't start threads: {error}")).report(),
    };
    let ended = runtime.block_on(run(cli));
    // Without waiting for a read of standard input that may never end.
    runtime.shutdown_background();
    match ended {
        Ok(()) => ExitCode::SUCCESS,
        Err(failure) => failure.report(),
    }
}

async fn run(cli: Cli) -> Result<(), Failure> {
    match cli.command.unwrap_or(Command::Serve(cli.serve)) {
        Command::Serve(args) => args.run().await,
        Command::Dev(args) => args.run().await,
        Command::Get(args) => args.run().await,
        Command::Set(args) => args.run().await,
        Command::Delete(args) => args.run().await,
        Command::List(args) => args.run().await,
        Command::Count(args) => args.run().await,
        Command::Incr(args) => args.run().await,
        Command::Ttl(args) => args.run().await,
        Command::Txn(args) => args.run().await,
        Command::Watch(args) => args.run().await,
        Command::Lease(args) => args.run().await,
        Command::Lock(args) => args.run().await,
        Command::Elect(args) => args.run().await,
        Command::Servers(args) => args.run().await,
        Command::Status(args) => args.run().await,
        Command::Member(args) => args.run().await,
        Command::Members(args) => args.run().await,
        Command::Leave(args) => args.run().await,
        Command::Snapshot(args) => args.run().await,
        Command::Recover(args) => args.run().await,
        Command::Bench(args) => args.run().await,
        Command::Import(args) => args.run().await,
        Command::Export(args) => args.run().await,
        Command::Check(args) => args.run().await,
        Command::Kubernetes(args) => args.run().await,
        Command::Completion(args) => args.run(Cli::command()),
        Command::Version => Ok(output::line(format_args!("mokv {}", env!("CARGO_PKG_VERSION")))?),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_command_line_has_no_contradictions() {
        Cli::command().debug_assert();
    }
}
