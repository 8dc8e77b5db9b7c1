//! What the operating system says of this process.

// Read when somebody looks at the metrics, and nothing is decided by it: no seam is needed.
#![allow(clippy::disallowed_methods)]

use std::fs;

/// What the process uses. Each value is missing where the system does not tell.
#[derive(Debug, Clone, Default, PartialEq)]
pub(crate) struct ProcessStats {
    /// Memory in use, in bytes.
    pub(crate) resident_bytes: Option<u64>,
    /// Processor time used, in seconds.
    pub(crate) cpu_seconds: Option<f64>,
    /// Open files and sockets.
    pub(crate) open_fds: Option<u64>,
    /// Threads.
    pub(crate) threads: Option<u64>,
}

impl ProcessStats {
    /// Asks the system.
    pub(crate) fn read() -> Self {
        let status = fs::read_to_string("/proc/self/status").unwrap_or_default();
        let stat = fs::read_to_string("/proc/self/stat").unwrap_or_default();
        Self {
            resident_bytes: field(&status, "VmRSS:").map(|kibibytes| kibibytes * 1024),
            cpu_seconds: cpu_ticks(&stat).map(|ticks| ticks as f64 / rustix::param::clock_ticks_per_second() as f64),
            open_fds: fs::read_dir("/proc/self/fd").ok().map(|fds| fds.count() as u64),
            threads: field(&status, "Threads:"),
        }
    }
}

/// The number behind a name in /proc/self/status.
fn field(status: &str, name: &str) -> Option<u64> {
    status.lines().find_map(|line| line.strip_prefix(name))?.split_whitespace().next()?.parse().ok()
}

/// Time in user and kernel mode from /proc/self/stat: fields 14 and 15. The second field, the process's name, is in
/// parentheses and may hold anything, so counting begins behind it.
fn cpu_ticks(stat: &str) -> Option<u64> {
    let (_, rest) = stat.rsplit_once(')')?;
    let mut times = rest.split_whitespace().skip(11).map(str::parse::<u64>);
    Some(times.next()?.ok()? + times.next()?.ok()?)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn fields_are_found_behind_any_process_name() {
        let stat = "42 (a ) (b) S 1 42 42 0 -1 4194560 100 0 0 0 250 50 0 0 20 0 8 0 100 1 1";
        assert_eq!(cpu_ticks(stat), Some(300));
        assert_eq!(cpu_ticks(""), None);
        assert_eq!(field("Name:\tmokv\nVmRSS:\t    2048 kB\nThreads:\t8\n", "VmRSS:"), Some(2048));
    }

    #[cfg(target_os = "linux")]
    #[test]
    fn this_process_has_memory_and_files() {
        let stats = ProcessStats::read();
        assert!(stats.resident_bytes > Some(1 << 16), "{stats:?}");
        assert!(stats.open_fds > Some(2) && stats.threads >= Some(1) && stats.cpu_seconds.is_some(), "{stats:?}");
    }
}
