//! What commands print: results on standard output, everything else on standard error. Decoration is for terminals only.

use std::env;
use std::fmt::Arguments;
use std::io::{self, IsTerminal, Write};

use clap::{Args, ValueEnum};
use serde::Serialize;

use crate::pair::readable;

/// How to print one result.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub(crate) enum ValueFormat {
    /// As short as it gets
    Plain,
    /// One JSON object
    Json,
}

/// How to print several.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub(crate) enum TableFormat {
    /// One line each, fields separated by tabs
    Plain,
    /// JSON, for machines
    Json,
    /// Aligned, for people
    Table,
}

/// `-o` of commands with one result.
#[derive(Debug, Args)]
pub(crate) struct ValueOutput {
    /// How to print the result
    #[arg(short = 'o', long = "output", value_name = "FORMAT", default_value = "plain")]
    pub(crate) format: ValueFormat,
}

/// `-o` of commands whose result is for scripts first.
#[derive(Debug, Args)]
pub(crate) struct ResultOutput {
    /// How to print the result
    #[arg(short = 'o', long = "output", value_name = "FORMAT", default_value = "plain")]
    pub(crate) format: TableFormat,
}

/// `-o` of commands that show a table.
#[derive(Debug, Args)]
pub(crate) struct TableOutput {
    /// How to print the result
    #[arg(short = 'o', long = "output", value_name = "FORMAT", default_value = "table")]
    pub(crate) format: TableFormat,
}

/// Prints a value as JSON, on one line.
pub(crate) fn json(value: &impl Serialize) -> io::Result<()> {
    let mut out = io::stdout().lock();
    serde_json::to_writer(&mut out, value)?;
    out.write_all(b"\n")?;
    out.flush()
}

/// Prints one result: `plain` as it is, the others by the names of the fields.
pub(crate) fn answer(format: TableFormat, plain: Arguments<'_>, answer: &impl Serialize) -> io::Result<()> {
    if format == TableFormat::Plain { line(plain) } else { document(format, answer) }
}

/// Prints one result by the names of its fields: as one JSON object, or as a table with one row.
pub(crate) fn document(format: TableFormat, answer: &impl Serialize) -> io::Result<()> {
    if format == TableFormat::Json {
        return json(answer);
    }
    let fields = serde_json::to_value(answer)?;
    let fields = fields.as_object().into_iter().flatten();
    let (headings, cells): (Vec<_>, Vec<_>) =
        fields.map(|(name, value)| (name.to_uppercase().replace('_', " "), cell(value))).unzip();
    let headings: Vec<_> = headings.iter().map(String::as_str).collect();
    let mut out = io::stdout().lock();
    out.write_all(table(&headings, &[cells], use_colour(&io::stdout())).as_bytes())?;
    out.flush()
}

fn cell(value: &serde_json::Value) -> String {
    match value {
        serde_json::Value::String(text) => readable(text.as_bytes()),
        other => other.to_string(),
    }
}

/// Prints a line of the result.
pub(crate) fn line(text: Arguments<'_>) -> io::Result<()> {
    let mut out = io::stdout().lock();
    out.write_fmt(text)?;
    out.write_all(b"\n")?;
    out.flush()
}

/// Tells people something beside the result.
pub(crate) fn note(text: Arguments<'_>) {
    let mut err = io::stderr().lock();
    // Without standard error there is nobody to tell.
    drop(err.write_fmt(text).and_then(|()| err.write_all(b"\n")));
}

/// Prints rows, aligned under their headings or separated by tabs.
pub(crate) fn rows<const N: usize>(headings: [&str; N], rows: &[[String; N]], format: TableFormat) -> io::Result<()> {
    let mut out = io::stdout().lock();
    if format == TableFormat::Table {
        let rows: Vec<_> = rows.iter().map(|row| row.to_vec()).collect();
        out.write_all(table(&headings, &rows, use_colour(&io::stdout())).as_bytes())?;
    } else {
        for row in rows {
            writeln!(out, "{}", row.join("\t"))?;
        }
    }
    out.flush()
}

fn table(headings: &[&str], rows: &[Vec<String>], bold: bool) -> String {
    let width = |column: usize| {
        let cells = rows.iter().map(|row| row[column].chars().count());
        cells.chain([headings[column].chars().count()]).max().unwrap_or(0)
    };
    let widths: Vec<usize> = (0..headings.len()).map(width).collect();
    let aligned = |cells: Vec<&str>| {
        let padded = cells.iter().zip(&widths).map(|(cell, width)| format!("{cell:width$}"));
        padded.collect::<Vec<_>>().join("  ").trim_end().to_owned()
    };
    let heading = aligned(headings.to_vec());
    let mut text = if bold { format!("\x1b[1m{heading}\x1b[0m\n") } else { format!("{heading}\n") };
    for row in rows {
        text.push_str(&aligned(row.iter().map(String::as_str).collect()));
        text.push('\n');
    }
    text
}

/// Whether to decorate what goes to `stream`.
pub(crate) fn use_colour(stream: &impl IsTerminal) -> bool {
    stream.is_terminal() && env::var_os("NO_COLOR").is_none_or(|value| value.is_empty())
}

/// Bytes for people: `12.5 MiB`.
pub(crate) fn bytes(bytes: u64) -> String {
    const UNITS: [&str; 5] = ["B", "KiB", "MiB", "GiB", "TiB"];
    let mut amount = bytes as f64;
    let mut unit = 0;
    while amount >= 1024.0 && unit + 1 < UNITS.len() {
        amount /= 1024.0;
        unit += 1;
    }
    if unit == 0 { format!("{bytes} B") } else { format!("{amount:.1} {}", UNITS[unit]) }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn tables_are_as_wide_as_they_need_to_be() {
        let rows = [vec!["a".to_owned(), "1".to_owned()], vec!["bökv".to_owned(), String::new()]];
        assert_eq!(table(&["NAME", "N"], &rows, false), "NAME  N\na     1\nbökv\n");
        assert!(table(&["NAME", "N"], &rows, true).starts_with("\x1b[1mNAME  N\x1b[0m\n"));
    }

    #[test]
    fn bytes_have_units() {
        let table = [(0, "0 B"), (1023, "1023 B"), (1536, "1.5 KiB"), (5 << 30, "5.0 GiB"), (1 << 60, "1048576.0 TiB")];
        for (number, text) in table {
            assert_eq!(bytes(number), text);
        }
    }
}
