//! The text of a transaction. What it looks like stands in the help of `mokv txn`.

use std::ffi::OsString;
use std::os::unix::ffi::OsStringExt;
use std::time::Duration;

use clap::{Args, Parser, Subcommand};
use mokv_client::{Compare, Comparing, Txn, TxnOp};
use mokv_server::config::parse_duration;

use super::words::Words;
use crate::range_args::{PrefixArgs, RangeArgs};
use crate::value;

/// Builds a transaction from lines.
pub(super) fn build<S: AsRef<str>>(compare: &[S], then: &[S], otherwise: &[S]) -> Result<Txn, String> {
    let mut txn = Txn::new();
    for line in compare {
        txn = txn.when(parse_compare(line.as_ref()).map_err(|error| format!("{}: {error}", line.as_ref()))?);
    }
    let op = |line: &S| parse_op(line.as_ref()).map_err(|error| format!("{}: {error}", line.as_ref()));
    for line in then {
        txn = txn.then(op(line)?);
    }
    for line in otherwise {
        txn = txn.otherwise(op(line)?);
    }
    Ok(txn)
}

/// Reads a script: three parts with an empty line between each two.
pub(super) fn parse(script: &str) -> Result<Txn, String> {
    let mut parts = [const { Vec::new() }; 3];
    let mut part = 0;
    for line in script.lines().map(str::trim).filter(|line| !line.starts_with('#')) {
        if !line.is_empty() {
            let lines = parts.get_mut(part).ok_or("there are more than three parts")?;
            lines.push(line);
        } else {
            part += 1;
        }
    }
    let [compare, then, otherwise] = parts;
    if then.is_empty() && otherwise.is_empty() {
        return Err("there is nothing to do: after the comparisons comes an empty line, then the operations".into());
    }
    build(&compare, &then, &otherwise)
}

fn parse_compare(line: &str) -> Result<Compare, String> {
    let mut words = Words::new(line);
    let target = text(words.next(&['('])?.ok_or("a comparison begins with what is compared")?)?;
    if !words.take('(') {
        return Err("after what is compared comes (\"KEY\")".into());
    }
    let key = text(words.next(&[',', ')'])?.ok_or("the key is missing")?)?;
    let end =
        if words.take(',') { Some(text(words.next(&[')'])?.ok_or("the end of the keys is missing")?)?) } else { None };
    if !words.take(')') {
        return Err("a ) is missing after the key".into());
    }
    let compare = match (target.as_str(), end) {
        ("present", None) => Compare::present(key),
        ("absent", None) => Compare::absent(key),
        ("value" | "val", end) => with_value(range(Compare::value(key), end), &mut words)?,
        ("version" | "ver", end) => with_number(range(Compare::version(key), end), &mut words)?,
        ("create" | "c", end) => with_number(range(Compare::create_revision(key), end), &mut words)?,
        ("mod" | "m", end) => with_number(range(Compare::mod_revision(key), end), &mut words)?,
        ("lease", end) => with_number(range(Compare::lease(key), end), &mut words)?,
        _ => {
            return Err(format!(
                "{target:?} can't be compared: value, version, create, mod, lease, present, absent can"
            ));
        }
    };
    if words.is_at_end() { Ok(compare) } else { Err("there is something after the comparison".into()) }
}

fn range<T>(comparing: Comparing<T>, end: Option<String>) -> Comparing<T> {
    match end {
        Some(end) => comparing.until(end),
        None => comparing,
    }
}

enum Operator {
    Equal,
    NotEqual,
    Greater,
    Less,
}

fn operator(words: &mut Words<'_>) -> Result<Operator, String> {
    Ok(if words.take('=') {
        // == is as good.
        words.take('=');
        Operator::Equal
    } else if words.take('!') && words.take('=') {
        Operator::NotEqual
    } else if words.take('>') {
        Operator::Greater
    } else if words.take('<') {
        Operator::Less
    } else {
        return Err("after the key comes one of = != < >".into());
    })
}

fn with_value(comparing: Comparing<bytes::Bytes>, words: &mut Words<'_>) -> Result<Compare, String> {
    let operator = operator(words)?;
    let with = words.next(&[])?.ok_or("what it is compared with is missing")?;
    Ok(match operator {
        Operator::Equal => comparing.equals(with),
        Operator::NotEqual => comparing.differs_from(with),
        Operator::Greater => comparing.greater_than(with),
        Operator::Less => comparing.less_than(with),
    })
}

fn with_number(comparing: Comparing<u64>, words: &mut Words<'_>) -> Result<Compare, String> {
    let operator = operator(words)?;
    let with = text(words.next(&[])?.ok_or("what it is compared with is missing")?)?;
    let with = with.parse().map_err(|_| format!("{with:?} is no whole number"))?;
    Ok(match operator {
        Operator::Equal => comparing.equals(with),
        Operator::NotEqual => comparing.differs_from(with),
        Operator::Greater => comparing.greater_than(with),
        Operator::Less => comparing.less_than(with),
    })
}

fn text(word: Vec<u8>) -> Result<String, String> {
    String::from_utf8(word).map_err(|_| "a key is text, UTF-8".into())
}

/// An operation's line.
#[derive(Debug, Parser)]
#[command(no_binary_name = true, disable_help_flag = true, disable_help_subcommand = true)]
struct Line {
    #[command(subcommand)]
    op: Op,
}

#[derive(Debug, Subcommand)]
enum Op {
    #[command(alias = "put")]
    Set(SetOp),
    Get {
        key: String,
    },
    #[command(alias = "del")]
    Delete(DeleteOp),
    List(ListOp),
}

#[derive(Debug, Args)]
struct SetOp {
    key: String,

    #[arg(allow_hyphen_values = true)]
    value: OsString,

    #[arg(long, value_parser = parse_duration, group = "life")]
    ttl: Option<Duration>,

    #[arg(long, group = "life")]
    lease: Option<u64>,

    #[arg(long, group = "life")]
    keep_ttl: bool,

    #[arg(long)]
    previous: bool,
}

#[derive(Debug, Args)]
struct DeleteOp {
    #[arg(conflicts_with_all = ["prefix", "start", "end", "all"], required_unless_present_any = ["prefix", "start", "end", "all"])]
    key: Option<String>,

    #[command(flatten)]
    range: RangeArgs,

    #[arg(long, conflicts_with_all = ["prefix", "start", "end"])]
    all: bool,

    #[arg(long, requires = "key")]
    previous: bool,
}

#[derive(Debug, Args)]
struct ListOp {
    #[command(flatten)]
    keys: PrefixArgs,

    #[arg(long, default_value_t = 0)]
    limit: u64,

    #[arg(long)]
    keys_only: bool,

    #[arg(long)]
    reverse: bool,
}

fn parse_op(line: &str) -> Result<TxnOp, String> {
    let mut words = Words::new(line);
    let mut args = Vec::new();
    while let Some(word) = words.next(&[])? {
        args.push(OsString::from_vec(word));
    }
    let line = Line::try_parse_from(args).map_err(|error| first_line(&error.to_string()))?;
    match line.op {
        Op::Set(set) => set.op(),
        Op::Get { key } => Ok(TxnOp::get(key)),
        Op::Delete(delete) => delete.op(),
        Op::List(list) => Ok(list.op()),
    }
}

/// Without the usage of commands, which these only resemble.
fn first_line(error: &str) -> String {
    let line = error.lines().find(|line| !line.trim().is_empty()).unwrap_or_default();
    line.trim_start_matches("error: ").to_owned()
}

impl SetOp {
    fn op(self) -> Result<TxnOp, String> {
        if self.value == "-" {
            return Err("- can't be read from standard input here: write \"-\" with a backslash, \"\\x2d\"".into());
        }
        let value = value::read(self.value).map_err(|failure| failure.to_string())?;
        let mut set = TxnOp::set(self.key, value);
        if let Some(ttl) = self.ttl {
            set = set.ttl(ttl);
        }
        if let Some(lease) = self.lease {
            set = set.lease(lease);
        }
        if self.keep_ttl {
            set = set.keep_ttl();
        }
        if self.previous {
            set = set.previous();
        }
        Ok(set.into())
    }
}

impl DeleteOp {
    fn op(self) -> Result<TxnOp, String> {
        let Some(key) = self.key else {
            if self.range.is_all() && !self.all {
                return Err("say which keys: --prefix, --start, --end, or --all for every one".into());
            }
            return Ok(TxnOp::delete_range(self.range.range()));
        };
        let delete = TxnOp::delete(key);
        Ok(if self.previous { delete.previous() } else { delete }.into())
    }
}

impl ListOp {
    fn op(self) -> TxnOp {
        let mut list = TxnOp::list(self.keys.range()).limit(self.limit);
        if self.keys_only {
            list = list.keys_only();
        }
        if self.reverse {
            list = list.reverse();
        }
        list.into()
    }
}

#[cfg(test)]
mod tests {
    use mokv_client::KeyRange;

    use super::*;

    #[test]
    fn a_script_is_what_it_says() {
        let script = "\
# Takes the task, if nobody has.
mod(\"todo/7\") != 0
value('todo/7') == \"write \\\"it\\\"\"
lease(a, b) > 3
ver(\"x\",\"\")<9
absent(done/7)

put doing/7 'me and you' --ttl 10s
del todo/7 --previous
delete --prefix old/

get doing/7
list doing/ --limit 3 --reverse --keys-only
";
        let expected = Txn::new()
            .when(Compare::mod_revision("todo/7").differs_from(0))
            .when(Compare::value("todo/7").equals("write \"it\""))
            .when(Compare::lease("a").until("b").greater_than(3))
            .when(Compare::version("x").until("").less_than(9))
            .when(Compare::absent("done/7"))
            .then(TxnOp::set("doing/7", "me and you").ttl(Duration::from_secs(10)))
            .then(TxnOp::delete("todo/7").previous())
            .then(TxnOp::delete_range(KeyRange::prefix("old/")))
            .otherwise(TxnOp::get("doing/7"))
            .otherwise(TxnOp::list(KeyRange::prefix("doing/")).limit(3).reverse().keys_only());
        assert_eq!(parse(script), Ok(expected));
    }

    #[test]
    fn parts_may_be_empty() {
        assert_eq!(parse("\nset a 1"), Ok(Txn::new().then(TxnOp::set("a", "1"))));
        let otherwise = Txn::new().when(Compare::present("a")).otherwise(TxnOp::set("a", "--x"));
        assert_eq!(parse("present(a)\n\n\nset a --x\n\n"), Ok(otherwise));
    }

    #[test]
    fn what_is_wrong_is_said() {
        let table = [
            ("", "nothing to do"),
            ("absent(a)", "nothing to do"),
            ("size(a) = 1\n\nget a", "size(a) = 1: \"size\" can't be compared"),
            ("mod(a) = x\n\nget a", "no whole number"),
            ("mod(a) ~ 1\n\nget a", "one of = != < >"),
            ("mod(a = 1\n\nget a", ") is missing"),
            ("mod a = 1\n\nget a", "comes (\"KEY\")"),
            ("mod(a) = 1 2\n\nget a", "something after"),
            ("mod(a) =\n\nget a", "missing"),
            ("absent(a, b)\n\nget a", "can't be compared"),
            ("mod(\"\\xff\") = 1\n\nget a", "UTF-8"),
            ("\nfetch a", "unrecognized subcommand 'fetch'"),
            ("\nget", "required"),
            ("\nset a 1 --ttl soon", "no duration"),
            ("\nset a -", "standard input"),
            ("\nset a @/no/such/file", "/no/such/file"),
            ("\ndelete", "required"),
            ("\ndelete --prefix \"\"", "say which keys"),
            ("\nset a \"1", "\" is missing"),
            ("\nget a\n\nget b\n\nget c", "more than three"),
        ];
        for (script, expected) in table {
            let error = parse(script).expect_err(script);
            assert!(error.contains(expected), "{script:?}: {error}");
        }
    }
}
