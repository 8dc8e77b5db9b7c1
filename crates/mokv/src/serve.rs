//! `mokv serve`, and `mokv` without a subcommand: the server.

use std::env;
use std::fs;
use std::io::{self, Read};
use std::path::{Path, PathBuf};
use std::process;
use std::thread;

use clap::{Arg, ArgAction, ArgMatches, Args, Command, FromArgMatches};
use mokv_server::config::{Config, Host, Layer, SETTINGS, Setting};
use mokv_server::server;
use tokio::signal::unix::{Signal, SignalKind, signal};
use tokio::sync::oneshot;

use crate::exit::Failure;
use crate::logging;

const EXAMPLES: &str = "\
Each setting can stand in the file under the same name without dashes before it, or in the environment: --rpc-port is
MOKV_RPC_PORT. A flag goes before the environment, that before the file.

Examples:
  mokv --bootstrap                     the first node of a new cluster
  mokv --node-name node-1 --bind-addr 10.0.0.2:8401 --start-join-addrs 10.0.0.1:8401
                                       joins it, and is taken in
  mokv --bootstrap-expect 3 --start-join-addrs node-0:8401,node-1:8401,node-2:8401 --bind-addr node-1:8401
                                       three that form a cluster together, in any order
  mokv --config-file node-1.yaml

SIGTERM and SIGINT stop the server cleanly; the second one at once.";

/// Run a node
#[derive(Debug, Args)]
#[command(after_help = EXAMPLES)]
pub(crate) struct ServeArgs {
    /// A YAML file of settings
    #[arg(long, env = "MOKV_CONFIG_FILE", value_name = "FILE")]
    config_file: Option<PathBuf>,

    /// Stop when standard input ends: `mokv dev` holds the other end.
    #[arg(long, hide = true)]
    exit_with_stdin: bool,

    #[command(flatten)]
    flags: Flags,
}

/// A flag for each setting of the server's table.
#[derive(Debug)]
struct Flags(Vec<(&'static Setting, String)>);

impl Args for Flags {
    fn augment_args(command: Command) -> Command {
        command.args(SETTINGS.iter().map(|setting| {
            let default = setting.default.map(|default| format!(" [default: {default}]")).unwrap_or_default();
            let arg = Arg::new(setting.name)
                .long(setting.name)
                .value_name(setting.value_name)
                .help(format!("{}{default}", setting.help));
            match (setting.is_switch, setting.is_list) {
                (true, _) => arg.num_args(0..=1).require_equals(true).default_missing_value("true"),
                (_, true) => arg.action(ArgAction::Append),
                _ => arg,
            }
        }))
    }

    fn augment_args_for_update(command: Command) -> Command {
        Self::augment_args(command)
    }
}

impl FromArgMatches for Flags {
    fn from_arg_matches(matches: &ArgMatches) -> Result<Self, clap::Error> {
        let given = SETTINGS.iter().filter_map(|setting| {
            let values: Vec<&str> = matches.get_many::<String>(setting.name)?.map(String::as_str).collect();
            Some((setting, values.join(",")))
        });
        Ok(Self(given.collect()))
    }

    fn update_from_arg_matches(&mut self, matches: &ArgMatches) -> Result<(), clap::Error> {
        *self = Self::from_arg_matches(matches)?;
        Ok(())
    }
}

impl ServeArgs {
    pub(crate) async fn run(self) -> Result<(), Failure> {
        let config = load(self.flags, self.config_file.as_deref())?;
        logging::start(&config.log_level)?;
        // Before the server starts, so that no signal finds nobody listening.
        let mut signals = Signals::new()?;
        let mut parent = self.exit_with_stdin.then(end_of_stdin);
        let stop = async move {
            tokio::select! {
                biased;
                () = signals.next() => {}
                () = gone(&mut parent) => tracing::info!("the parent is gone"),
            }
            tokio::spawn(async move {
                signals.next().await;
                tracing::warn!("second signal: stopping at once");
                process::exit(1);
            });
        };
        server::run(config, stop).await.map_err(Failure::error)
    }
}

fn load(flags: Flags, config_file: Option<&Path>) -> Result<Config, Failure> {
    let mut layers = vec![Layer::from_flags(flags.0)];
    let text = |value: std::ffi::OsString| value.to_string_lossy().into_owned();
    let variables = env::vars_os().map(|(name, value)| (text(name), text(value)));
    layers.push(Layer::from_env(variables).map_err(Failure::usage)?);
    // An empty MOKV_CONFIG_FILE counts as not set, like every other variable.
    if let Some(file) = config_file.filter(|file| !file.as_os_str().is_empty()) {
        let name = file.display().to_string();
        let yaml = fs::read_to_string(file).map_err(|error| Failure::usage(format!("can't read {name}: {error}")))?;
        layers.push(Layer::from_yaml(&yaml, &name).map_err(Failure::usage)?);
    }
    Config::from_layers(&layers, &host()).map_err(Failure::usage)
}

/// What this machine says, where the configuration does not.
pub(crate) fn host() -> Host {
    Host {
        hostname: rustix::system::uname().nodename().to_string_lossy().into_owned(),
        home: env::var_os("HOME").filter(|home| !home.is_empty()).map(PathBuf::from),
        xdg_state_home: env::var_os("XDG_STATE_HOME").map(PathBuf::from),
        is_root: rustix::process::geteuid().is_root(),
    }
}

/// SIGTERM and SIGINT.
pub(crate) struct Signals {
    terminate: Signal,
    interrupt: Signal,
}

impl Signals {
    pub(crate) fn new() -> Result<Self, Failure> {
        let listen = |kind| signal(kind).map_err(|error| Failure::error(format!("can't listen to signals: {error}")));
        Ok(Self { terminate: listen(SignalKind::terminate())?, interrupt: listen(SignalKind::interrupt())? })
    }

    pub(crate) async fn next(&mut self) {
        tokio::select! {
            biased;
            _ = self.terminate.recv() => {}
            _ = self.interrupt.recv() => {}
        }
    }
}

/// Completes when standard input ends.
fn end_of_stdin() -> oneshot::Receiver<()> {
    let (ended, end) = oneshot::channel();
    // A thread, not a task: the runtime could not stop while a read waits.
    thread::spawn(move || {
        // An error is an end, too.
        drop(io::copy(&mut io::stdin().lock().by_ref(), &mut io::sink()));
        drop(ended);
    });
    end
}

async fn gone(parent: &mut Option<oneshot::Receiver<()>>) {
    match parent {
        Some(end) => drop(end.await),
        None => std::future::pending().await,
    }
}
