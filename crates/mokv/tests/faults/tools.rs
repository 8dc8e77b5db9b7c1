//! Tools that faults are made with: which are there, and what happens where one is missing.
//!
//! A skipped test is not a passed one. It says so on standard error (past the test harness, which swallows what passing
//! tests print), adds a line to the file that `MOKV_FAULTS_SKIPS` names, and fails instead under `MOKV_FAULTS_STRICT=1`,
//! which belongs wherever `tests/faults/install` was run before.

use std::env;
use std::ffi::OsStr;
use std::fmt::Display;
use std::fs::File;
use std::io::{self, Write};
use std::path::PathBuf;
use std::process::Command;
use std::str::FromStr;

/// What a test needs beside the binary.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Tool {
    /// Being root, with the rights that go with it.
    Root,
    Strace,
    /// `mkfs.ext4` and loop devices.
    Ext4,
    Python,
    /// `ip` with network namespaces.
    Namespaces,
    Nft,
    Faketime,
    /// `fsfreeze`, `nsenter`, `prlimit`: of util-linux, which is everywhere, but not in every container.
    UtilLinux,
}

impl Tool {
    fn is_here(self) -> bool {
        match self {
            Self::Root => rustix::process::geteuid().is_root(),
            Self::Strace => runs("strace", ["-V"]),
            Self::Ext4 => runs("mkfs.ext4", ["-V"]) && runs("losetup", ["--find"]),
            Self::Python => runs("python3", ["-c", "import fcntl"]),
            Self::Namespaces => runs("ip", ["netns", "list"]),
            Self::Nft => runs("nft", ["--version"]),
            Self::Faketime => faketime_library().is_some(),
            Self::UtilLinux => {
                runs("fsfreeze", ["--version"]) && runs("nsenter", ["--version"]) && runs("prlimit", ["--version"])
            }
        }
    }

    fn remedy(self) -> &'static str {
        match self {
            Self::Root => "run as root",
            Self::Strace => "apt-get install strace",
            Self::Ext4 => "apt-get install e2fsprogs mount, and allow loop devices",
            Self::Python => "apt-get install python3",
            Self::Namespaces => "apt-get install iproute2",
            Self::Nft => "apt-get install nftables",
            Self::Faketime => "apt-get install faketime",
            Self::UtilLinux => "apt-get install util-linux",
        }
    }
}

/// Whether `test` can run here. If not, it was noted as skipped, or fails: see the head of this file.
#[must_use]
pub(crate) fn has(test: &str, tools: &[Tool]) -> bool {
    let Some(missing) = tools.iter().find(|tool| !tool.is_here()) else { return true };
    let line = format!("SKIPPED: {test}: no {missing:?}: {}", missing.remedy());
    say(&line);
    if let Some(path) = env::var_os("MOKV_FAULTS_SKIPS") {
        let file = File::options().create(true).append(true).open(path);
        file.and_then(|mut file| writeln!(file, "{line}")).expect("MOKV_FAULTS_SKIPS");
    }
    assert!(env::var_os("MOKV_FAULTS_STRICT").is_none_or(|strict| strict != "1"), "{line}");
    false
}

/// Tells people, whether the test passes or not.
pub(crate) fn say(what: impl Display) {
    // Nobody to tell is no reason to fail.
    drop(writeln!(io::stderr(), "faults: {what}"));
}

/// A number that the environment may change.
pub(crate) fn number<T: FromStr>(variable: &str, default: T) -> T {
    match env::var(variable) {
        Ok(text) => text.parse().unwrap_or_else(|_| panic!("{variable}={text} is no number")),
        Err(_) => default,
    }
}

/// Runs a command that has to succeed.
pub(crate) fn run<A: AsRef<OsStr>>(program: &str, args: impl IntoIterator<Item = A>) {
    let output = Command::new(program).args(args).output().unwrap_or_else(|error| panic!("{program}: {error}"));
    assert!(output.status.success(), "{program}: {}: {}", output.status, String::from_utf8_lossy(&output.stderr));
}

/// Whether a command succeeds.
pub(crate) fn runs<A: AsRef<OsStr>>(program: &str, args: impl IntoIterator<Item = A>) -> bool {
    Command::new(program).args(args).output().is_ok_and(|output| output.status.success())
}

/// The library that lies about the time, where Debian puts it.
pub(crate) fn faketime_library() -> Option<PathBuf> {
    let dirs = std::fs::read_dir("/usr/lib").ok()?;
    let candidates = dirs.flatten().map(|dir| dir.path().join("faketime/libfaketimeMT.so.1"));
    candidates.into_iter().find(|path| path.exists())
}
