//! `mokv completion`

use std::io;

use clap::{Args, Command};
use clap_complete::Shell;

use crate::exit::Failure;

const EXAMPLES: &str = "\
Examples:
  source <(mokv completion bash)
  mokv completion zsh > ~/.zfunc/_mokv
  mokv completion fish > ~/.config/fish/completions/mokv.fish";

/// Print a script that completes mokv's commands in a shell
#[derive(Debug, Args)]
#[command(after_help = EXAMPLES)]
pub(crate) struct CompletionArgs {
    /// The shell
    shell: Shell,
}

impl CompletionArgs {
    pub(crate) fn run(self, mut command: Command) -> Result<(), Failure> {
        let mut script = Vec::new();
        clap_complete::generate(self.shell, &mut command, "mokv", &mut script);
        Ok(io::Write::write_all(&mut io::stdout(), &script)?)
    }
}
