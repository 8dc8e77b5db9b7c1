//! Random histories against a model that keeps every revision whole.

use std::collections::BTreeMap;
use std::rc::Rc;

use proptest::collection::vec;
use proptest::prelude::*;

use super::*;
use internal::{Answer, DeleteOutcome, OpenSessionOutcome, SetOutcome};

type Map = BTreeMap<Vec<u8>, internal::Pair>;

/// What the store is meant to be, in the plainest terms. There are never enough sessions or answers to meet a bound.
#[derive(Default)]
struct Model {
    /// The pairs at each revision.
    revisions: Vec<Map>,
    sessions: BTreeMap<u64, internal::Session>,
    uses: u64,
}

impl Model {
    fn new() -> Self {
        Self { revisions: vec![Map::new()], ..Self::default() }
    }

    fn revision(&self) -> u64 {
        self.revisions.len() as u64 - 1
    }

    fn now(&self) -> Map {
        self.revisions[self.revisions.len() - 1].clone()
    }

    fn execute(&mut self, command: &Command) -> OutcomeResult {
        let op = command.op.as_ref().expect("an operation");
        let Some(id) = &command.id else { return self.perform(op) };
        let Some(session) = self.sessions.get_mut(&id.client_id) else {
            return rejected(Rejection::SessionExpired);
        };
        self.uses += 1;
        session.last_used = self.uses;
        let first_unanswered = session.first_unanswered.max(id.first_unanswered.min(id.sequence));
        session.first_unanswered = first_unanswered;
        session.answers.retain(|answer| answer.sequence >= first_unanswered);
        if id.sequence < first_unanswered {
            return rejected(Rejection::SequenceForgotten);
        }
        if let Some(answer) = session.answers.iter().find(|answer| answer.sequence == id.sequence) {
            return answer.outcome.clone().and_then(|outcome| outcome.result).expect("an outcome");
        }
        let result = self.perform(op);
        let session = self.sessions.get_mut(&id.client_id).expect("the session");
        session.answers.push(Answer { sequence: id.sequence, outcome: Some(Outcome { result: Some(result.clone()) }) });
        session.answers.sort_by_key(|answer| answer.sequence);
        result
    }

    fn perform(&mut self, op: &Op) -> OutcomeResult {
        let mut map = self.now();
        let revision = self.revision() + 1;
        match op {
            Op::Set(set) => {
                let old = map.get(&set.key[..]);
                let create_revision = old.map_or(revision, |pair| pair.create_revision);
                let version = old.map_or(1, |pair| pair.version + 1);
                let (key, value) = (set.key.clone(), set.value.clone());
                let pair = internal::Pair {
                    key,
                    value,
                    create_revision,
                    mod_revision: revision,
                    version,
                    ..Default::default()
                };
                map.insert(set.key.to_vec(), pair);
                self.revisions.push(map);
                OutcomeResult::Set(SetOutcome {
                    revision,
                    create_revision,
                    version,
                    mod_revision: revision,
                    ..Default::default()
                })
            }
            Op::Delete(delete) => {
                let existed = map.remove(&delete.key[..]).is_some();
                if existed {
                    self.revisions.push(map);
                }
                OutcomeResult::Delete(DeleteOutcome { existed, revision: self.revision(), ..Default::default() })
            }
            Op::OpenSession(_) => {
                self.uses += 1;
                let client_id = self.sessions.len() as u64 + 1;
                let session =
                    internal::Session { client_id, last_used: self.uses, first_unanswered: 1, answers: vec![] };
                self.sessions.insert(client_id, session);
                OutcomeResult::OpenSession(OpenSessionOutcome { client_id })
            }
            _ => unreachable!("none is drawn"),
        }
    }

    fn range(&self, revision: u64, range: &KeyRange) -> Vec<internal::Pair> {
        let inside = |key: &Vec<u8>| &key[..] >= range.start() && range.end().is_none_or(|end| &key[..] < end);
        let map = &self.revisions[revision as usize];
        map.iter().filter(|(key, _)| inside(key)).map(|(_, pair)| pair.clone()).collect()
    }
}

#[derive(Debug, Clone)]
enum Step {
    /// An entry of the log.
    Apply(Vec<Command>),
    Pin,
    /// Drops a pin.
    Release(prop::sample::Index),
    /// Begins a scan of a pin's range.
    Scan(prop::sample::Index, KeyRange),
    /// Takes the next chunk of a scan.
    Next(prop::sample::Index, ChunkLimit),
    /// Takes a snapshot and loads it into another store.
    Reload,
    /// Goes on with what a snapshot restored, in the same store.
    Replace,
}

/// Few keys, so that they meet; some longer than what is kept in place, some with zeros at the end.
fn keys() -> impl Strategy<Value = Bytes> {
    let long = "a key that is longer than 22 bytes";
    prop_oneof![
        4 => (b'a'..=b'e').prop_map(|byte| Bytes::from(vec![byte])),
        1 => (1..4_usize).prop_map(|zeros| [&b"a"[..], &[0; 4][..zeros]].concat().into()),
        1 => (0..3_usize).prop_map(move |cut| Bytes::from(&long[cut..])),
    ]
}

fn commands() -> impl Strategy<Value = Command> {
    let op = prop_oneof![
        6 => (keys(), vec(any::<u8>(), 0..40)).prop_map(|(key, value)| command::set(key, value)),
        3 => keys().prop_map(command::delete),
        1 => Just(command::open_session()),
    ];
    let id = (1..5_u64, 0..12_u64, 0..12_u64).prop_map(|(client_id, sequence, first_unanswered)| RequestId {
        client_id,
        sequence,
        first_unanswered,
    });
    (prop::option::of(id), op).prop_map(|(id, command)| Command { id, ..command })
}

fn ranges() -> impl Strategy<Value = KeyRange> {
    let bounds = prop_oneof![2 => Just(Bytes::new()), 3 => keys()];
    prop_oneof![
        3 => Just(KeyRange::all()),
        1 => keys().prop_map(KeyRange::prefix),
        2 => (bounds, keys()).prop_map(|(start, end)| KeyRange::all().starting_at(start).ending_before(end)),
    ]
}

fn steps() -> impl Strategy<Value = Step> {
    let limits = (0..4_usize, 0..60_usize).prop_map(|(entries_max, bytes_max)| ChunkLimit { entries_max, bytes_max });
    prop_oneof![
        20 => vec(commands(), 0..8).prop_map(Step::Apply),
        1 => vec(commands(), 65..140).prop_map(Step::Apply),
        8 => Just(Step::Pin),
        6 => any::<prop::sample::Index>().prop_map(Step::Release),
        6 => (any::<prop::sample::Index>(), ranges()).prop_map(|(pin, range)| Step::Scan(pin, range)),
        12 => (any::<prop::sample::Index>(), limits).prop_map(|(scan, limit)| Step::Next(scan, limit)),
        1 => Just(Step::Reload),
        1 => Just(Step::Replace),
    ]
}

/// A scan on its way: what it still has to bring.
struct Scan {
    pin: Rc<Pin>,
    rest: KeyRange,
    expected: Vec<internal::Pair>,
}

struct Run {
    log: Log,
    model: Model,
    pins: Vec<Rc<Pin>>,
    scans: Vec<Scan>,
}

impl Run {
    fn step(&mut self, step: Step) {
        match step {
            Step::Apply(commands) => self.apply(&commands),
            Step::Pin => {
                let pin = self.log.store.pin();
                assert_eq!(pin.revision(), self.model.revision());
                self.pins.push(pin.into());
            }
            Step::Release(pin) if !self.pins.is_empty() => drop(self.pins.remove(pin.index(self.pins.len()))),
            Step::Scan(pin, rest) if !self.pins.is_empty() => {
                let pin = Rc::clone(pin.get(&self.pins));
                let expected = self.model.range(pin.revision(), &rest);
                self.scans.push(Scan { pin, rest, expected });
            }
            Step::Next(scan, limit) if !self.scans.is_empty() => {
                let index = scan.index(self.scans.len());
                if !self.scans[index].next(limit) {
                    self.scans.swap_remove(index);
                }
            }
            Step::Release(_) | Step::Scan(..) | Step::Next(..) => {}
            Step::Reload => {
                let copy = Store::new();
                copy.replace(self.reload());
                check_counters(&copy);
                let memory_bytes = copy.stats().memory_bytes;
                assert_eq!(copy.stats(), Stats { memory_bytes, pins: 0, ..self.log.store.stats() });
            }
            Step::Replace => {
                let loaded = self.reload();
                self.log.store.replace(loaded);
            }
        }
        check_counters(&self.log.store);
    }

    fn apply(&mut self, commands: &[Command]) {
        let outcomes = self.log.apply(commands);
        let expected = commands.iter().map(|command| self.model.execute(command));
        assert!(expected.eq(outcomes.iter().map(|outcome| outcome.result.clone().expect("a result"))));
        let now = self.model.now();
        for command in commands {
            if let Some(Op::Set(internal::Set { key, .. }) | Op::Delete(internal::Delete { key, .. })) = &command.op {
                let lookup = self.log.store.get(key);
                let pair = lookup.record.map(|record| Pair { key: key.clone(), record }.into());
                assert_eq!((lookup.revision, pair.as_ref()), (self.model.revision(), now.get(&key[..])));
            }
        }
    }

    fn reload(&mut self) -> Loaded {
        self.apply(&[]);
        let checkpoint = self.log.checkpoint();
        assert_eq!(checkpoint.keys(), self.model.now().len() as u64);
        assert!(checkpoint.sessions().eq(self.model.sessions.values().cloned()));
        reload(&checkpoint).expect("a good snapshot")
    }
}

impl Scan {
    /// Takes a chunk and compares it; `false` when the scan is done.
    fn next(&mut self, limit: ChunkLimit) -> bool {
        let chunk = self.pin.scan(&self.rest, limit);
        assert!(chunk.pairs.len() <= limit.entries_max.max(1));
        let came = self.expected.drain(..chunk.pairs.len().min(self.expected.len()));
        assert!(came.eq(chunk.pairs.into_iter().map(internal::Pair::from)));
        let Some(next) = chunk.next else {
            assert!(self.expected.is_empty(), "the scan ended early");
            return false;
        };
        self.rest = self.rest.clone().starting_at(next);
        true
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(1000))]

    #[test]
    fn the_store_is_what_the_model_is(steps in vec(steps(), 1..60)) {
        let mut run = Run { log: Log::new(), model: Model::new(), pins: Vec::new(), scans: Vec::new() };
        steps.into_iter().for_each(|step| run.step(step));
        while let Some(mut scan) = run.scans.pop() {
            while scan.next(ChunkLimit { entries_max: 3, bytes_max: 100 }) {}
        }
        // Without pins and pairs nothing is left but the sessions.
        run.pins.clear();
        run.log.apply(&run.model.now().into_keys().map(command::delete).collect::<Vec<_>>());
        let state = run.log.store.shared.read();
        prop_assert_eq!(state.memory_bytes(), state.sessions.memory_bytes());
    }

    #[test]
    fn equal_states_have_equal_hashes(
        writes in vec((keys(), vec(any::<u8>(), 0..3)), 0..12).prop_shuffle(),
        shift in any::<bool>(),
    ) {
        // The same commands in entries of another size, read and pinned meanwhile, are the same state...
        let commands: Vec<_> = writes.iter().map(|(key, value)| command::set(key.clone(), value.clone())).collect();
        let (mut one, mut other) = (Log::new(), Log::new());
        one.apply(&commands);
        let _pin = other.store.pin();
        commands.chunks(2).for_each(|entry| drop(other.apply(entry)));
        prop_assert_eq!(one.store.stats().state_hash, other.store.stats().state_hash);
        // ... and any other command, or order of commands, is another one.
        if shift {
            other.one(command::set("a", "1"));
            one.one(command::set("a", "2"));
        } else {
            one.apply(&[command::set("a", "1"), command::set("b", "1")]);
            other.apply(&[command::set("b", "1"), command::set("a", "1")]);
        }
        prop_assert_ne!(one.store.stats().state_hash, other.store.stats().state_hash);
    }
}
