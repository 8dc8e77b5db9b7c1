//! Watches: a watcher is told of every event of its keys, in order, each once, and each revision whole.
//!
//! What it is told of a revision is complete when an answer says that it has seen all up to there; an answer that says that
//! it goes on has part of its last revision, or of the list that comes first.

use std::collections::BTreeMap;

use super::effect::Scene;
use super::judge::{Judge, Place};
use super::ledger::Ledger;
use super::lives::Lives;
use super::timeline::Timeline;
use super::violation::{Fact, Violation, describe};
use crate::answer::Pair;
use crate::calls::{Calls, Changes, Watching};
use crate::op::{List, Range};
use crate::watch::{Seen, Watch, WatchEvent, Watched};

/// Judges every watch: without commits, only whether it was told things in order.
pub(super) fn check<'a>(
    calls: &Calls<'a>,
    ledger: &Ledger<'a>,
    timeline: &Timeline<'a>,
    lives: Option<&Lives<'a>>,
) -> Result<(), Violation> {
    for watching in &calls.watches {
        let judge = Judge { calls, timeline, lives };
        Watcher { watching, judge, ledger, progress: None, pairs: Vec::new(), events: Vec::new() }.follow()?;
    }
    Ok(())
}

/// A watcher, and what it knows by now.
struct Watcher<'h, 'a> {
    watching: &'h Watching<'a>,
    judge: Judge<'h, 'a>,
    ledger: &'h Ledger<'a>,
    /// It has seen all up to here. `None`: the watch has not begun, or with a list of which there is more.
    progress: Option<u64>,
    pairs: Vec<Pair>,
    /// Of revisions after that.
    events: Vec<&'a WatchEvent>,
}

impl<'a> Watcher<'_, 'a> {
    fn follow(mut self) -> Result<(), Violation> {
        let watch = self.watching.watch;
        if watch.start_revision > 0 {
            self.progress = Some(watch.start_revision - 1);
        }
        for (_, seen) in &self.watching.seen {
            match self.progress {
                None => self.begin(seen)?,
                Some(progress) => self.advance(seen, progress)?,
            }
        }
        Ok(())
    }

    /// The newest revision, and what there is, if that was asked for.
    fn begin(&mut self, seen: &'a Seen) -> Result<(), Violation> {
        let (watch, revision) = (self.watching.watch, seen.revision);
        if let Some(event) = seen.events.first() {
            return Err(self.out_of_order(event.revision, revision));
        }
        self.check_highest(revision)?;
        self.pairs.extend(seen.pairs.iter().cloned());
        if seen.more {
            return Ok(());
        }
        self.progress = Some(revision);
        if watch.list_first && self.ledger.complete {
            self.check_list(watch, revision)?;
        }
        Ok(())
    }

    fn check_list(&self, watch: &Watch, revision: u64) -> Result<(), Violation> {
        let at = Place { call: self.watching.id, revision };
        let scene = Scene::of(self.judge.timeline, self.judge.lives, revision, false);
        match &watch.keys {
            Watched::Range(range) => {
                let list = List { range: range.clone(), keys_only: watch.keys_only, ..List::default() };
                self.judge.check_list(at, &scene, &list, &self.pairs, false)
            }
            Watched::Key(key) => {
                let range = Range { start: key.clone(), end: format!("{key}\0"), ..Range::default() };
                let list = List { range, keys_only: watch.keys_only, ..List::default() };
                self.judge.check_list(at, &scene, &list, &self.pairs, false)
            }
        }
    }

    fn advance(&mut self, seen: &'a Seen, progress: u64) -> Result<(), Violation> {
        for event in &seen.events {
            let last = self.events.last().map_or(progress + 1, |last| last.revision);
            if event.revision < last {
                return Err(self.out_of_order(event.revision, last.max(progress)));
            }
            if event.revision > seen.revision {
                return Err(self.out_of_order(event.revision, seen.revision));
            }
            self.events.push(event);
        }
        let upto = seen.revision - u64::from(seen.more && seen.revision > 0);
        if upto < progress {
            return Err(self.out_of_order(upto, progress));
        }
        self.check_highest(upto)?;
        let rest = self.events.iter().position(|event| event.revision > upto).unwrap_or(self.events.len());
        let told: Vec<&WatchEvent> = self.events.drain(..rest).collect();
        if self.ledger.complete {
            self.check_events(progress, upto, &told)?;
        }
        self.progress = Some(upto);
        Ok(())
    }

    /// It was told of just what happened after `progress` and up to `upto`.
    fn check_events(&self, progress: u64, upto: u64, told: &[&WatchEvent]) -> Result<(), Violation> {
        let mut found: BTreeMap<u64, Vec<&WatchEvent>> = BTreeMap::new();
        for event in told {
            found.entry(event.revision).or_default().push(event);
        }
        if upto <= progress {
            return Ok(());
        }
        for (&revision, write) in self.ledger.writes.range(progress + 1..=upto) {
            let expected = self.of_interest(&write.changes);
            let events = found.remove(&revision).unwrap_or_default();
            self.check_revision(revision, &expected, &events)?;
        }
        match found.first_key_value() {
            Some((revision, events)) => self.check_revision(*revision, &Changes::new(), events),
            None => Ok(()),
        }
    }

    fn of_interest(&self, changes: &Changes<'a>) -> Changes<'a> {
        let watch = self.watching.watch;
        let is_left_out = |is_put: bool| if is_put { watch.no_puts } else { watch.no_deletes };
        let of_interest = |(key, value): &(&&'a str, &_)| watch.keys.has(key) && !is_left_out(Option::is_some(*value));
        changes.iter().filter(of_interest).map(|(key, value)| (*key, value.clone())).collect()
    }

    fn check_revision(&self, revision: u64, expected: &Changes<'_>, events: &[&WatchEvent]) -> Result<(), Violation> {
        let mut keys: Vec<(&str, bool)> = events.iter().map(|event| (&*event.key, event.pair.is_some())).collect();
        keys.sort_unstable();
        if !keys.iter().copied().eq(expected.iter().map(|(key, value)| (*key, value.is_some()))) {
            let one = |event: &&WatchEvent| match &event.pair {
                Some(pair) => format!("{:?} = {:?}", event.key, pair.value),
                None => format!("{:?} deleted", event.key),
            };
            let (watch, expected) = (self.watching.id, describe(expected));
            let found = events.iter().map(one).collect::<Vec<_>>().join(", ");
            return Err(Violation::WrongEvents { watch, revision, expected, found });
        }
        let (watch, at) = (self.watching.watch, Place { call: self.watching.id, revision });
        for event in events {
            let view = |revision| self.judge.timeline.view(&event.key, revision);
            if let Some(pair) = &event.pair {
                if pair.key != event.key {
                    return Err(at.mismatch(&event.key, Fact::Order, &event.key, &pair.key));
                }
                self.judge.check_pair(at, &event.key, &view(revision), Some(pair), watch.keys_only)?;
            }
            if watch.previous {
                let previous = event.previous.as_ref();
                self.judge.check_pair(at, &event.key, &view(revision - 1), previous, watch.keys_only)?;
            }
        }
        Ok(())
    }

    fn check_highest(&self, revision: u64) -> Result<(), Violation> {
        let highest = self.ledger.highest;
        // It has seen all up to before a revision that there is not yet.
        let begins_late = self.watching.watch.start_revision > revision;
        if self.ledger.complete && revision > highest && !begins_late {
            return Err(Violation::Future { call: self.watching.id, revision, highest });
        }
        Ok(())
    }

    fn out_of_order(&self, revision: u64, progress: u64) -> Violation {
        Violation::WatchOutOfOrder { watch: self.watching.id, revision, progress }
    }
}
