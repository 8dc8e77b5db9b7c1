//! Watching keys: [`WatchKeys`] asks, [`Watch`] is what changes, revision by revision, whatever becomes of single nodes.
//!
//! [`Cursor`] is the part that decides: answers and failures go in; items, and the request with which to go on, come out.
//! It promises that each revision comes whole, once and in order, through any number of nodes that die, hang or restart,
//! or else an item or an error that says what was missed. [`Watch`] is the shell: the stream, and how long to wait for it.

use std::collections::VecDeque;
use std::future::IntoFuture;
use std::mem;
use std::time::Duration;

use mokv_proto::api::watch_event::Kind;
use mokv_proto::api::{Consistency, WatchRequest, WatchResponse};
use tokio::time::{Instant, sleep_until, timeout};
use tonic::{Code, Request, Status, Streaming};

use crate::calls::Opened;
use crate::client::{Client, Sent, millis};
use crate::error::Error;
use crate::pair::Pair;
use crate::range::KeyRange;
use crate::retry::Limit;
use crate::routes::NodeRef;

/// How long a node may say nothing. It is asked for a mark of its progress several times within that.
const SILENCE: Duration = Duration::from_secs(10);
/// Marks of progress within the time of silence: one that is late, or two, are no reason to leave a node.
const MARKS_PER_SILENCE: u32 = 3;
/// The least that a server takes between two marks.
const MARK_INTERVAL_MIN: Duration = Duration::from_millis(100);

/// The pause after the second failure in a row; each further one is twice as long.
const PAUSE_MIN: Duration = Duration::from_millis(50);
/// About the time that an election takes.
const PAUSE_MAX: Duration = Duration::from_secs(1);

/// What changed in one revision, of the keys that are watched.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Changes {
    /// The revision of the store.
    pub revision: u64,
    /// Each key that changed, in the order of the changes.
    pub events: Vec<Event>,
}

/// What became of a key.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Event {
    /// The key.
    pub key: String,
    /// What the key has now; `None` if it was deleted, by whomever: a caller, its ttl, its lease.
    pub pair: Option<Pair>,
    /// What the key had before, if that was asked for and there was a value.
    pub previous: Option<Pair>,
}

/// What a [`Watch`] has to tell.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum WatchItem {
    /// A revision in which something changed.
    Changes(Changes),
    /// With [`WatchKeys::list_first`]: all that there is, as of a revision; what changes afterwards follows. What was known
    /// before is void.
    Listed {
        /// The revision.
        revision: u64,
        /// In the order of their keys.
        pairs: Vec<Pair>,
        /// Not the first one: changes were missed, because they came faster than they were read or the watch was away for
        /// too long. What is not among the pairs was deleted meanwhile.
        again: bool,
    },
}

/// A watch of a key or a range. See [`Client::watch`].
#[derive(Debug, Clone)]
#[must_use = "a watch begins when it is awaited"]
pub struct WatchKeys {
    client: Client,
    request: WatchRequest,
    /// Not of a range.
    is_of_key: bool,
    silence: Duration,
}

impl Client {
    /// What becomes of a key from now on.
    ///
    /// ```no_run
    /// # async fn example(client: mokv_client::Client) -> Result<(), mokv_client::Error> {
    /// use mokv_client::WatchItem;
    ///
    /// let mut watch = client.watch("config").list_first().await?;
    /// loop {
    ///     match watch.next().await? {
    ///         WatchItem::Listed { pairs, .. } => println!("it is {:?}", pairs.first().map(|pair| &pair.value)),
    ///         WatchItem::Changes(changes) => println!("it became {:?} at {}", changes.events, changes.revision),
    ///     }
    /// }
    /// # }
    /// ```
    ///
    /// # Errors
    ///
    /// See [`Watch::next`].
    pub fn watch(&self, key: impl Into<String>) -> WatchKeys {
        let watch = WatchKeys::new(self, WatchRequest { key: key.into(), ..WatchRequest::default() });
        WatchKeys { is_of_key: true, ..watch }
    }

    /// What becomes of the keys of a range from now on.
    ///
    /// # Errors
    ///
    /// See [`Watch::next`].
    pub fn watch_range(&self, range: KeyRange) -> WatchKeys {
        let KeyRange { prefix, start, end } = range;
        WatchKeys::new(self, WatchRequest { prefix, start, end, ..WatchRequest::default() })
    }
}

impl WatchKeys {
    fn new(client: &Client, request: WatchRequest) -> Self {
        Self { client: client.clone(), request, is_of_key: false, silence: SILENCE }
    }

    /// Begin with the changes of this revision, which may be past; 0 is the default, from now on.
    /// [`Error::Compacted`] if no node remembers it any more.
    pub fn from_revision(mut self, revision: u64) -> Self {
        self.request.start_revision = revision;
        self
    }

    /// First all that there is, then what changes after that, with no gap between. Where changes are missed all the same,
    /// it begins anew. Not together with [`WatchKeys::from_revision`].
    pub fn list_first(mut self) -> Self {
        self.request.list_first = true;
        self
    }

    /// Also what there was before.
    pub fn previous(mut self) -> Self {
        self.request.previous = true;
        self
    }

    /// Leave the values out.
    pub fn keys_only(mut self) -> Self {
        self.request.keys_only = true;
        self
    }

    /// Leave out that keys are set.
    pub fn no_puts(mut self) -> Self {
        self.request.no_puts = true;
        self
    }

    /// Leave out that keys are deleted.
    pub fn no_deletes(mut self) -> Self {
        self.request.no_deletes = true;
        self
    }

    /// How fresh the node has to be with which the watch begins. [`Consistency::Linearizable`], if nothing is said: then
    /// nothing is missed that happens after it has begun.
    pub fn consistency(mut self, consistency: Consistency) -> Self {
        self.request.consistency = consistency.into();
        self
    }

    /// How long a node may say nothing, not even that nothing has happened, until another is asked. 10 s, if nothing is said.
    pub fn silence(mut self, silence: Duration) -> Self {
        self.silence = silence;
        self
    }

    /// How long it may take until the watch has begun, and to go on with it at another node, instead of the client's
    /// timeout.
    pub fn timeout(mut self, timeout: Duration) -> Self {
        self.client.timeout = timeout;
        self
    }
}

impl IntoFuture for WatchKeys {
    type Output = Result<Watch, Error>;
    type IntoFuture = Sent<Watch>;

    fn into_future(mut self) -> Self::IntoFuture {
        let interval = (self.silence / MARKS_PER_SILENCE).max(MARK_INTERVAL_MIN);
        self.request.progress_interval_ms = millis(interval);
        Box::pin(async move {
            // The contract takes no key for every key.
            if self.is_of_key && self.request.key.is_empty() {
                return Err(Error::Invalid("key: an empty one is none".into()));
            }
            let cursor = Cursor::new(self.request)?;
            let mut watch = Watch {
                client: self.client,
                cursor,
                silence: self.silence.max(interval),
                stream: None,
                failing_since: None,
                failures: 0,
                ready: VecDeque::new(),
            };
            while !watch.cursor.has_begun() {
                watch.advance().await?;
            }
            Ok(watch)
        })
    }
}

/// What changes, as it happens. Dropped, it ends.
///
/// It costs the cluster next to nothing to be read slowly: the nodes keep no queue for it. Who reads so slowly that the
/// nodes have forgotten what comes next is told so.
#[derive(Debug)]
pub struct Watch {
    client: Client,
    cursor: Cursor<NodeRef>,
    silence: Duration,
    stream: Option<Opened<Streaming<WatchResponse>>>,
    /// Since when no node has answered, and how often one did not.
    failing_since: Option<Instant>,
    failures: u32,
    ready: VecDeque<WatchItem>,
}

impl Watch {
    /// The next that happened. A node that dies or says nothing is left for another, and the watch goes on where it was.
    /// May be given up and called again: nothing is lost by that.
    ///
    /// # Errors
    ///
    /// [`Error::Unavailable`] if no node answers for the client's timeout: the watch has missed nothing, calling again goes
    /// on with it. [`Error::Compacted`] if changes were missed: the watch has ended. For the rest see [`Error`].
    pub async fn next(&mut self) -> Result<WatchItem, Error> {
        loop {
            if let Some(item) = self.ready.pop_front() {
                return Ok(item);
            }
            self.advance().await?;
        }
    }

    /// Up to which revision all that happened has been handed out. Right after the watch has begun: with which it began.
    pub fn revision(&self) -> u64 {
        match self.ready.front() {
            Some(WatchItem::Changes(Changes { revision, .. }) | WatchItem::Listed { revision, .. }) => {
                revision.saturating_sub(1)
            }
            None => self.cursor.seen(),
        }
    }

    /// Takes in one answer or failure.
    async fn advance(&mut self) -> Result<(), Error> {
        let answered = match &mut self.stream {
            None => return self.begin().await,
            Some(opened) => (opened.node, timeout(self.silence, opened.stream.message()).await),
        };
        let (node, error) = match answered {
            (_, Ok(Ok(Some(answer)))) => {
                (self.failing_since, self.failures) = (None, 0);
                self.ready.extend(self.cursor.answered(answer));
                return Ok(());
            }
            (node, Ok(Ok(None))) => (node, Error::Unavailable("the node has ended the watch".into())),
            (node, Ok(Err(status))) => (node, Error::of_stream(&status)),
            (node, Err(_)) => (node, Error::Unavailable(format!("nothing within {:?}", self.silence))),
        };
        self.stream = None;
        self.client.avoid(node);
        self.failed(node, error)
    }

    /// Asks a node to go on.
    async fn begin(&mut self) -> Result<(), Error> {
        let since = *self.failing_since.get_or_insert_with(Instant::now);
        let deadline = since + self.client.timeout;
        // The first time at once: the others have not failed yet.
        if let Some(doublings) = self.failures.checked_sub(2) {
            sleep_until(deadline.min(Instant::now() + pause(doublings))).await;
        }
        let request = self.cursor.request();
        let opened = self.client.open(Limit { timeout: self.client.timeout, deadline }, |attempt| {
            // Without a gRPC deadline: that would bound the whole stream.
            let request = Request::new(request.clone());
            async move { keep_refusal(attempt.kv().watch(request).await) }
        });
        match opened.await {
            Ok(Opened { node, stream: Ok(answers) }) => {
                self.stream = Some(Opened { node, stream: answers.into_inner() });
                Ok(())
            }
            Ok(Opened { node, stream: Err(status) }) => {
                self.client.avoid(node);
                self.failed(node, Error::of_stream(&status))
            }
            Err(error) => {
                self.failing_since = None;
                self.failures += 1;
                Err(error)
            }
        }
    }

    fn failed(&mut self, node: NodeRef, error: Error) -> Result<(), Error> {
        self.failures += 1;
        let out_of_time = self.failing_since.is_some_and(|since| since.elapsed() >= self.client.timeout);
        match self.cursor.failed(node, error) {
            Next::Again(_) if !out_of_time => Ok(()),
            Next::Again(error) | Next::End(error) => {
                self.failing_since = None;
                Err(error)
            }
        }
    }
}

/// Before a node is asked again.
fn pause(doublings: u32) -> Duration {
    PAUSE_MIN.saturating_mul(2_u32.saturating_pow(doublings)).min(PAUSE_MAX)
}

/// That a node has forgotten what is asked for is an answer, of that one node: another may remember it.
fn keep_refusal<T>(answer: Result<T, Status>) -> Result<Result<T, Status>, Status> {
    match answer {
        Err(status) if status.code() == Code::OutOfRange => Ok(Err(status)),
        answer => answer.map(Ok),
    }
}

/// Where a watch is.
#[derive(Debug)]
struct Cursor<N> {
    /// As the caller asked.
    asked: WatchRequest,
    phase: Phase,
    /// Whether a node has answered.
    is_confirmed: bool,
    /// These have forgotten what comes next.
    forgetful: Vec<N>,
}

#[derive(Debug)]
enum Phase {
    /// No node has said with which revision it begins.
    Beginning,
    /// Some of all that there is. None of it was handed out; whoever goes on begins anew.
    Listing { pairs: Vec<Pair>, again: bool },
    /// Everything up to `seen` was handed out. `part` is the beginning of a revision after that.
    Following { seen: u64, part: Option<Changes> },
}

/// What to do after a failure.
#[derive(Debug, PartialEq, Eq)]
enum Next {
    /// Send [`Cursor::request`] to another node.
    Again(Error),
    /// Tell the caller.
    End(Error),
}

impl<N: PartialEq> Cursor<N> {
    fn new(asked: WatchRequest) -> Result<Self, Error> {
        let phase = match (asked.list_first, asked.start_revision) {
            (true, 0) => Phase::Listing { pairs: Vec::new(), again: false },
            (true, _) => {
                return Err(Error::Invalid("list_first begins with the newest revision, not an older one".into()));
            }
            (false, 0) => Phase::Beginning,
            (false, start) => Phase::Following { seen: start - 1, part: None },
        };
        Ok(Self { asked, phase, is_confirmed: false, forgetful: Vec::new() })
    }

    /// Whether a node has said that nothing which happens from now on is missed.
    fn has_begun(&self) -> bool {
        self.is_confirmed && matches!(self.phase, Phase::Following { .. })
    }

    fn seen(&self) -> u64 {
        match self.phase {
            Phase::Following { seen, .. } => seen,
            Phase::Beginning | Phase::Listing { .. } => 0,
        }
    }

    /// With what to ask the next node. What came in parts comes again from its beginning.
    fn request(&mut self) -> WatchRequest {
        let mut request = self.asked.clone();
        match &mut self.phase {
            Phase::Beginning => {}
            Phase::Listing { pairs, again } => {
                pairs.clear();
                if *again {
                    // Not behind what was handed out before.
                    request.set_consistency(Consistency::Linearizable);
                }
            }
            Phase::Following { seen, part } => {
                *part = None;
                request.list_first = false;
                request.start_revision = *seen + 1;
            }
        }
        request
    }

    fn answered(&mut self, answer: WatchResponse) -> Vec<WatchItem> {
        self.is_confirmed = true;
        self.forgetful.clear();
        match &mut self.phase {
            Phase::Beginning => {
                self.phase = Phase::Following { seen: answer.revision, part: None };
                Vec::new()
            }
            Phase::Listing { pairs, again } => {
                pairs.extend(answer.pairs.into_iter().map(Pair::from));
                if answer.more {
                    return Vec::new();
                }
                let (revision, pairs, again) = (answer.revision, mem::take(pairs), *again);
                self.phase = Phase::Following { seen: revision, part: None };
                vec![WatchItem::Listed { revision, pairs, again }]
            }
            Phase::Following { seen, part } => follow(seen, part, answer),
        }
    }

    fn failed(&mut self, node: N, error: Error) -> Next {
        match error {
            Error::Unavailable(_) => Next::Again(error),
            Error::Compacted { .. } if self.asked.list_first => {
                if let Phase::Following { .. } = self.phase {
                    self.phase = Phase::Listing { pairs: Vec::new(), again: true };
                }
                Next::Again(error)
            }
            // A node that came late to the cluster remembers less than the others.
            Error::Compacted { .. } if !self.forgetful.contains(&node) => {
                self.forgetful.push(node);
                Next::Again(error)
            }
            error => Next::End(error),
        }
    }
}

/// Takes an answer in, and returns the revisions that are whole by it.
fn follow(seen: &mut u64, part: &mut Option<Changes>, answer: WatchResponse) -> Vec<WatchItem> {
    let whole_until = if answer.more { answer.revision.saturating_sub(1) } else { answer.revision };
    let mut items = Vec::new();
    for event in answer.events {
        let kind = event.kind();
        let Some(pair) = event.pair.map(Pair::from) else { continue };
        let revision = pair.mod_revision;
        // A node that goes on from an earlier revision than it was asked to says nothing new.
        if revision <= *seen {
            continue;
        }
        if part.as_ref().is_some_and(|part| part.revision != revision) {
            items.extend(part.take().map(WatchItem::Changes));
        }
        let (key, previous) = (pair.key.clone(), event.previous.map(Pair::from));
        let event = Event { key, pair: (kind == Kind::Put).then_some(pair), previous };
        part.get_or_insert_with(|| Changes { revision, events: Vec::new() }).events.push(event);
    }
    items.extend(part.take_if(|part| part.revision <= whole_until).map(WatchItem::Changes));
    *seen = whole_until.max(*seen);
    items
}

#[cfg(test)]
mod tests {
    use mokv_proto::api::{GetResponse, WatchEvent};

    use super::*;

    fn event(key: &str, revision: u64, kind: Kind) -> WatchEvent {
        let pair = GetResponse { key: key.into(), mod_revision: revision, ..GetResponse::default() };
        WatchEvent { kind: kind.into(), pair: Some(pair), previous: None }
    }

    fn put(key: &str, revision: u64) -> WatchEvent {
        event(key, revision, Kind::Put)
    }

    fn answer(revision: u64, more: bool, events: impl IntoIterator<Item = WatchEvent>) -> WatchResponse {
        WatchResponse { revision, events: events.into_iter().collect(), pairs: Vec::new(), more }
    }

    fn listed(revision: u64, more: bool, keys: &[&str]) -> WatchResponse {
        let pairs = keys.iter().map(|&key| GetResponse { key: key.into(), ..GetResponse::default() }).collect();
        WatchResponse { revision, events: Vec::new(), pairs, more }
    }

    fn cursor(asked: WatchRequest) -> Cursor<u8> {
        Cursor::new(asked).expect("a request that makes sense")
    }

    /// `7 a b-`: revision 7 set a and deleted b.
    fn told(items: Vec<WatchItem>) -> Vec<String> {
        let names = |changes: &Changes| {
            let events = changes.events.iter();
            events
                .map(|event| format!(" {}{}", event.key, if event.pair.is_some() { "" } else { "-" }))
                .collect::<String>()
        };
        let tell = |item: WatchItem| match item {
            WatchItem::Changes(changes) => format!("{}{}", changes.revision, names(&changes)),
            WatchItem::Listed { revision, pairs, again } => {
                let keys: Vec<_> = pairs.iter().map(|pair| pair.key.as_str()).collect();
                format!("{revision} = {}{}", keys.join(" "), if again { " again" } else { "" })
            }
        };
        items.into_iter().map(tell).collect()
    }

    fn unavailable() -> Error {
        Error::Unavailable("broke".into())
    }

    const NODE: u8 = 0;
    const OTHER: u8 = 1;

    #[test]
    fn revisions_come_whole_and_once() {
        let mut cursor = cursor(WatchRequest::default());
        assert!(!cursor.has_begun());
        assert!(cursor.answered(answer(4, false, [])).is_empty());
        assert!(cursor.has_begun());
        let events = [put("a", 5), event("b", 5, Kind::Delete), put("a", 6)];
        assert_eq!(told(cursor.answered(answer(8, false, events))), ["5 a b-", "6 a"]);
        assert_eq!(cursor.seen(), 8);
        // In parts: 9 is whole when something of another revision or the end of it comes.
        assert!(cursor.answered(answer(9, true, [put("a", 9)])).is_empty());
        assert_eq!(cursor.seen(), 8);
        assert!(cursor.answered(answer(9, true, [put("b", 9)])).is_empty());
        assert_eq!(told(cursor.answered(answer(10, true, [put("c", 9), put("a", 10)]))), ["9 a b c"]);
        // The rest of 10 is nothing that is watched.
        assert_eq!(told(cursor.answered(answer(11, false, [put("a", 11)]))), ["10 a", "11 a"]);
        assert!(cursor.answered(answer(12, true, [put("a", 12)])).is_empty());
        assert_eq!(told(cursor.answered(answer(12, false, []))), ["12 a"]);
    }

    #[test]
    fn it_goes_on_after_the_last_revision_that_was_whole() {
        let mut cursor = cursor(WatchRequest { key: "a".into(), ..WatchRequest::default() });
        assert_eq!(cursor.failed(NODE, unavailable()), Next::Again(unavailable()));
        assert_eq!(cursor.request().start_revision, 0, "nothing was promised yet");
        cursor.answered(answer(4, false, []));
        cursor.answered(answer(6, true, [put("a", 6)]));
        assert_eq!(cursor.failed(NODE, unavailable()), Next::Again(unavailable()));
        let request = cursor.request();
        assert_eq!((request.start_revision, request.key.as_str()), (6, "a"));
        // The other node lags behind, and repeats what has been told.
        assert!(cursor.answered(answer(3, false, [])).is_empty());
        let events = [put("a", 4), put("a", 6)];
        assert_eq!(told(cursor.answered(answer(6, false, events))), ["6 a"]);
        assert_eq!(cursor.request().start_revision, 7);
        // Marks of progress count.
        cursor.answered(answer(20, false, []));
        assert_eq!(cursor.request().start_revision, 21);
    }

    #[test]
    fn what_is_forgotten_by_one_node_may_be_known_to_another() {
        let mut cursor = cursor(WatchRequest { start_revision: 3, ..WatchRequest::default() });
        assert!(!cursor.has_begun(), "no node has agreed");
        let compacted = || Error::Compacted { oldest: 5, message: "forgotten".into() };
        assert_eq!(cursor.failed(NODE, compacted()), Next::Again(compacted()));
        assert_eq!(cursor.failed(OTHER, compacted()), Next::Again(compacted()));
        assert_eq!(cursor.request().start_revision, 3);
        assert_eq!(cursor.failed(NODE, compacted()), Next::End(compacted()));
        // An answer in between: nobody is forgetful any more.
        cursor.answered(answer(7, false, []));
        assert_eq!(cursor.failed(NODE, compacted()), Next::Again(compacted()));
        let invalid = || Error::Invalid("key".into());
        assert_eq!(cursor.failed(NODE, invalid()), Next::End(invalid()));
    }

    #[test]
    fn a_list_comes_whole_or_begins_anew() {
        let mut cursor = cursor(WatchRequest {
            list_first: true,
            consistency: Consistency::Local.into(),
            ..WatchRequest::default()
        });
        assert!(cursor.answered(listed(5, true, &["a"])).is_empty());
        assert_eq!(cursor.failed(NODE, unavailable()), Next::Again(unavailable()));
        let request = cursor.request();
        assert!(request.list_first && request.consistency() == Consistency::Local);
        assert!(cursor.answered(listed(6, true, &["b"])).is_empty());
        assert!(!cursor.has_begun());
        assert_eq!(told(cursor.answered(listed(6, false, &["c"]))), ["6 = b c"]);
        assert!(cursor.has_begun());
        assert_eq!(told(cursor.answered(answer(7, false, [put("b", 7)]))), ["7 b"]);

        // Changes were missed: all again, not behind what was told.
        let compacted = || Error::Compacted { oldest: 50, message: "forgotten".into() };
        assert_eq!(cursor.failed(NODE, compacted()), Next::Again(compacted()));
        assert_eq!(cursor.failed(NODE, compacted()), Next::Again(compacted()));
        let request = cursor.request();
        assert!(request.list_first && request.start_revision == 0);
        assert_eq!(request.consistency(), Consistency::Linearizable);
        assert_eq!(told(cursor.answered(listed(60, false, &["d"]))), ["60 = d again"]);
        // From then on it follows, also at another node.
        assert_eq!(cursor.failed(NODE, unavailable()), Next::Again(unavailable()));
        let request = cursor.request();
        assert!(!request.list_first && request.start_revision == 61);
    }

    #[test]
    fn a_list_of_the_past_is_refused() {
        let asked = WatchRequest { list_first: true, start_revision: 3, ..WatchRequest::default() };
        assert!(matches!(Cursor::<u8>::new(asked), Err(Error::Invalid(_))));
    }
}
