//! The text format that Prometheus scrapes, version 0.0.4.
//!
//! A family is a name, its help and its kind, followed by its samples; the writer keeps them together, which the format
//! demands. Numbers are exact: counters and bytes are integers, and are written as such.

use std::fmt::{self, Display, Write};

use super::histogram::HistogramSnapshot;

/// What `Content-Type` says of a page.
pub const CONTENT_TYPE: &str = "text/plain; version=0.0.4; charset=utf-8";

/// What a family's samples mean.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Kind {
    /// Goes up and down.
    Gauge,
    /// Only goes up, and starts again at zero with the process. Its name ends in `_total`.
    Counter,
    /// Observations by size.
    Histogram,
}

impl Kind {
    fn as_str(self) -> &'static str {
        match self {
            Self::Gauge => "gauge",
            Self::Counter => "counter",
            Self::Histogram => "histogram",
        }
    }
}

/// A label and its value.
pub(crate) type Label<'a> = (&'static str, &'a str);

/// A page under construction.
#[derive(Debug, Default)]
pub(crate) struct Page {
    text: String,
}

impl Page {
    /// A family with one sample and no labels.
    pub(crate) fn gauge(&mut self, name: &'static str, help: &str, value: impl Display) {
        self.family(Kind::Gauge, name, help).sample(&[], value);
    }

    /// A counter with one sample and no labels.
    pub(crate) fn counter(&mut self, name: &'static str, help: &str, value: impl Display) {
        self.family(Kind::Counter, name, help).sample(&[], value);
    }

    /// A histogram without labels.
    pub(crate) fn histogram(&mut self, name: &'static str, help: &str, values: &HistogramSnapshot) {
        self.family(Kind::Histogram, name, help).histogram(&[], values);
    }

    /// Begins a family; its samples follow.
    pub(crate) fn family(&mut self, kind: Kind, name: &'static str, help: &str) -> Family<'_> {
        debug_assert!(kind != Kind::Counter || name.ends_with("_total"), "{name} is a counter");
        self.write(format_args!("# HELP {name} {help}\n# TYPE {name} {}\n", kind.as_str()));
        Family { page: self, name }
    }

    /// The finished page.
    pub(crate) fn into_text(self) -> String {
        self.text
    }

    fn write(&mut self, text: fmt::Arguments<'_>) {
        // Can't fail on a string.
        let _ = self.text.write_fmt(text);
    }
}

/// One family; takes its samples.
#[derive(Debug)]
pub(crate) struct Family<'a> {
    page: &'a mut Page,
    name: &'static str,
}

impl Family<'_> {
    /// Adds a sample.
    pub(crate) fn sample(&mut self, labels: &[Label<'_>], value: impl Display) {
        self.line("", labels, None, value);
    }

    /// Adds the samples of a histogram.
    pub(crate) fn histogram(&mut self, labels: &[Label<'_>], values: &HistogramSnapshot) {
        let mut below = 0;
        for (bound, count) in values.bounds.iter().zip(&values.counts) {
            below += count;
            self.line("_bucket", labels, Some(&bound.as_secs_f64().to_string()), below);
        }
        let all = values.count();
        self.line("_bucket", labels, Some("+Inf"), all);
        self.line("_sum", labels, None, values.sum.as_secs_f64());
        self.line("_count", labels, None, all);
    }

    fn line(&mut self, suffix: &str, labels: &[Label<'_>], bound: Option<&str>, value: impl Display) {
        self.page.write(format_args!("{}{suffix}", self.name));
        let all = labels.iter().copied().chain(bound.map(|bound| ("le", bound)));
        for (nth, (name, text)) in all.enumerate() {
            let before = if nth == 0 { '{' } else { ',' };
            self.page.write(format_args!("{before}{name}=\"{}\"", Escaped(text)));
        }
        let close = if labels.is_empty() && bound.is_none() { "" } else { "}" };
        self.page.write(format_args!("{close} {value}\n"));
    }
}

/// A label's value as the format wants it between quotes.
struct Escaped<'a>(&'a str);

impl Display for Escaped<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for c in self.0.chars() {
            match c {
                '\\' => f.write_str("\\\\")?,
                '"' => f.write_str("\\\"")?,
                '\n' => f.write_str("\\n")?,
                other => f.write_char(other)?,
            }
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;
    use crate::metrics::histogram::Histogram;

    #[test]
    fn a_page_is_what_prometheus_reads() {
        static BOUNDS: [Duration; 2] = [Duration::from_micros(250), Duration::from_secs(1)];
        let mut page = Page::default();
        page.gauge("keys", "Keys.", 3_u64);
        page.family(Kind::Counter, "calls_total", "Calls.").sample(&[("peer", "a\"b\\c\nd"), ("code", "OK")], 7);
        let seconds = Histogram::new(&BOUNDS);
        for observed in [250, 251, 2_000_000] {
            seconds.observe(Duration::from_micros(observed));
        }
        page.histogram("sync_seconds", "Syncs.", &seconds.snapshot());
        assert_eq!(
            page.into_text(),
            "# HELP keys Keys.\n\
             # TYPE keys gauge\n\
             keys 3\n\
             # HELP calls_total Calls.\n\
             # TYPE calls_total counter\n\
             calls_total{peer=\"a\\\"b\\\\c\\nd\",code=\"OK\"} 7\n\
             # HELP sync_seconds Syncs.\n\
             # TYPE sync_seconds histogram\n\
             sync_seconds_bucket{le=\"0.00025\"} 1\n\
             sync_seconds_bucket{le=\"1\"} 2\n\
             sync_seconds_bucket{le=\"+Inf\"} 3\n\
             sync_seconds_sum 2.000501\n\
             sync_seconds_count 3\n"
        );
    }
}
