//! Leases: keys that are set with one are deleted when its owner is gone. [`Lease`] is one that is kept alive.
//!
//! All leases of a client and its clones are kept alive by one task over one stream. [`Schedule`] is the part that decides:
//! when to ask, which node is too silent, until when a lease is certain to live. [`Keeper`] is the shell around it. A lease
//! is certain to live for its ttl from when the last question that was answered was *asked*: the nodes count from later
//! on. Who holds one is told as soon as that is over, whether or not the nodes agree.

use std::collections::BTreeMap;
use std::future::IntoFuture;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use mokv_proto::api::{
    GetLeaseRequest, GrantLeaseRequest, KeepLeaseAliveRequest, KeepLeaseAliveResponse, ListLeasesRequest,
    RevokeLeaseRequest,
};
use tokio::sync::{Notify, mpsc, watch};
use tokio::time::{Instant, sleep, sleep_until};
use tokio_stream::wrappers::UnboundedReceiverStream;
use tonic::{Request, Status, Streaming};

use crate::calls::Opened;
use crate::client::{Client, Sent, millis};
use crate::error::Error;
use crate::operation::{Answer, Operation, mismatch};
use crate::retry::Limit;

/// A lease is renewed when this part of its ttl is over, so that there is time to ask another node, twice.
const RENEWALS_PER_TTL: u32 = 3;
/// A node that has not answered by then is left for another, whatever the ttl.
const SILENCE_MAX: Duration = Duration::from_secs(2);
/// Before a node is asked again after another failed, so that a cluster without a leader is not flooded.
const PAUSE: Duration = Duration::from_millis(50);

/// A grant of a lease. See [`Client::grant_lease`].
#[derive(Debug, Clone)]
#[must_use = "a request is sent when it is awaited"]
pub struct GrantLease {
    client: Client,
    request: GrantLeaseRequest,
}

impl GrantLease {
    /// The lease's id, chosen by the caller. [`Error::AlreadyExists`] if there is such a lease.
    pub fn id(mut self, lease_id: u64) -> Self {
        self.request.lease_id = lease_id;
        self
    }

    /// How long the call may take, all attempts included, instead of the client's timeout.
    pub fn timeout(mut self, timeout: Duration) -> Self {
        self.client.timeout = timeout;
        self
    }
}

impl IntoFuture for GrantLease {
    type Output = Result<Lease, Error>;
    type IntoFuture = Sent<Lease>;

    fn into_future(self) -> Self::IntoFuture {
        let Self { client, request } = self;
        Box::pin(async move {
            let asked = Instant::now();
            let Answer::GrantLease(granted) = client.operate(Operation::GrantLease(request)).await? else {
                return Err(mismatch());
            };
            let ttl = Duration::from_millis(granted.ttl_ms);
            // A grant that took so long that little may be left is looked at once more.
            if asked.elapsed() > ttl / 2 {
                return client.keep_lease_alive(granted.lease_id).await;
            }
            Ok(Lease::new(&client, granted.lease_id, ttl, asked + ttl))
        })
    }
}

impl Client {
    /// Grants a lease, and keeps it alive for as long as the [`Lease`] is held. Keys that are set with it
    /// ([`Set::lease`](crate::Set::lease)) are deleted at the latest about `ttl` after this process is gone.
    ///
    /// ```no_run
    /// # async fn example(client: mokv_client::Client) -> Result<(), mokv_client::Error> {
    /// use std::time::Duration;
    ///
    /// let lease = client.grant_lease(Duration::from_secs(10)).await?;
    /// client.set("workers/7", "10.0.0.7:9000").lease(lease.id()).await?;
    /// lease.lost().await;
    /// println!("nobody knows of us any more");
    /// # Ok(())
    /// # }
    /// ```
    ///
    /// # Errors
    ///
    /// As [`Client::set`].
    pub fn grant_lease(&self, ttl: Duration) -> GrantLease {
        let request = GrantLeaseRequest { ttl_ms: millis(ttl), ..GrantLeaseRequest::default() };
        GrantLease { client: self.clone(), request }
    }

    /// Keeps a lease alive that was granted before, here or elsewhere.
    ///
    /// # Errors
    ///
    /// [`Error::NotFound`] if there is no such lease. For the rest see [`Error`].
    pub async fn keep_lease_alive(&self, lease_id: u64) -> Result<Lease, Error> {
        let asked = Instant::now();
        match self.lease_time(lease_id).await? {
            Some(time) => Ok(Lease::new(self, lease_id, time.ttl, asked + time.remaining)),
            None => Err(Error::NotFound(format!("there is no lease {lease_id}"))),
        }
    }

    /// Renews a lease once: how long it lives from now on. `None` if there is no such lease.
    ///
    /// # Errors
    ///
    /// See [`Error`].
    pub async fn renew_lease(&self, lease_id: u64) -> Result<Option<Duration>, Error> {
        let opened = self.open(self.limit(), |attempt| async move {
            let question = tokio_stream::once(KeepLeaseAliveRequest { lease_id });
            let mut answers = attempt.kv().keep_lease_alive(attempt.request(question)).await?.into_inner();
            answers.message().await?.ok_or_else(|| Status::unavailable("the node has not answered"))
        });
        let ttl_ms = opened.await?.stream.ttl_ms;
        Ok((ttl_ms > 0).then(|| Duration::from_millis(ttl_ms)))
    }

    /// Ends a lease, and deletes its keys: how many. `None` if there was no such lease.
    ///
    /// # Errors
    ///
    /// As [`Client::set`].
    pub async fn revoke_lease(&self, lease_id: u64) -> Result<Option<u64>, Error> {
        let request = RevokeLeaseRequest { lease_id, ..RevokeLeaseRequest::default() };
        match self.operate(Operation::RevokeLease(request)).await {
            Ok(Answer::RevokeLease(answer)) => Ok(Some(answer.deleted)),
            Ok(_) => Err(mismatch()),
            Err(Error::NotFound(_)) => Ok(None),
            Err(error) => Err(error),
        }
    }

    /// How long a lease has still to live, and its keys; `None` if there is no such lease.
    ///
    /// # Errors
    ///
    /// See [`Error`].
    pub async fn lease_time(&self, lease_id: u64) -> Result<Option<LeaseTime>, Error> {
        self.ask_lease(GetLeaseRequest { lease_id, keys: false }).await
    }

    /// As [`Client::lease_time`], with the lease's keys.
    ///
    /// # Errors
    ///
    /// See [`Error`].
    pub async fn lease_keys(&self, lease_id: u64) -> Result<Option<LeaseTime>, Error> {
        self.ask_lease(GetLeaseRequest { lease_id, keys: true }).await
    }

    async fn ask_lease(&self, request: GetLeaseRequest) -> Result<Option<LeaseTime>, Error> {
        match self.operate(Operation::GetLease(request)).await {
            Ok(Answer::GetLease(answer)) => Ok(Some(LeaseTime {
                ttl: Duration::from_millis(answer.ttl_ms),
                remaining: Duration::from_millis(answer.remaining_ms),
                keys: answer.keys,
            })),
            Ok(_) => Err(mismatch()),
            Err(Error::NotFound(_)) => Ok(None),
            Err(error) => Err(error),
        }
    }

    /// The ids of all leases.
    ///
    /// # Errors
    ///
    /// See [`Error`].
    pub async fn leases(&self) -> Result<Vec<u64>, Error> {
        let answer = self.open(self.limit(), |attempt| async move {
            let request = attempt.request(ListLeasesRequest {});
            Ok(attempt.kv().list_leases(request).await?.into_inner())
        });
        Ok(answer.await?.stream.lease_ids)
    }
}

/// What the cluster says of a lease.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct LeaseTime {
    /// As granted.
    pub ttl: Duration,
    /// About how long it has still to live, if nobody renews it.
    pub remaining: Duration,
    /// The keys that end with it, if they were asked for.
    pub keys: Vec<String>,
}

/// A lease that is kept alive for as long as this, or a clone of it, is held. When the last one is dropped, it runs out;
/// [`Lease::revoke`] ends it at once.
#[derive(Debug, Clone)]
pub struct Lease(Arc<Held>);

#[derive(Debug)]
struct Held {
    client: Client,
    id: u64,
    ttl: Duration,
    life: watch::Receiver<Life>,
}

impl Lease {
    fn new(client: &Client, id: u64, ttl: Duration, certain_until: Instant) -> Self {
        let life = client.keeper.add(client, id, ttl, certain_until);
        Self(Arc::new(Held { client: client.clone(), id, ttl, life }))
    }

    /// What keys name it by.
    pub fn id(&self) -> u64 {
        self.0.id
    }

    /// How long it lives without being renewed.
    pub fn ttl(&self) -> Duration {
        self.0.ttl
    }

    /// Whether it is no longer certain that the lease lives: it was revoked, or no node could be reached to renew it. That
    /// does not change any more.
    pub fn is_lost(&self) -> bool {
        !self.0.life.borrow().is_certain(Instant::now())
    }

    /// Completes when the lease is lost. Until then its keys are there, unless they were deleted; from then on others may
    /// take what they stood for.
    pub async fn lost(&self) {
        let mut life = self.0.life.clone();
        loop {
            let now = *life.borrow_and_update();
            let until = match now {
                Life::Until(until) if until > Instant::now() => until,
                _ => return,
            };
            tokio::select! {
                biased;
                changed = life.changed() => if changed.is_err() { return },
                () = sleep_until(until) => {}
            }
        }
    }

    /// Ends the lease and deletes its keys: how many. `None` if it had ended before.
    ///
    /// # Errors
    ///
    /// As [`Client::set`]. Whatever comes of it, the lease is kept alive no more.
    pub async fn revoke(&self) -> Result<Option<u64>, Error> {
        self.0.client.keeper.give_up(self.0.id);
        self.0.client.revoke_lease(self.0.id).await
    }
}

impl Drop for Held {
    fn drop(&mut self) {
        self.client.keeper.release(self.id);
    }
}

/// How long a lease lives, as far as is known.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Life {
    /// It is certain until then.
    Until(Instant),
    Lost,
}

impl Life {
    fn is_certain(self, now: Instant) -> bool {
        matches!(self, Self::Until(until) if until > now)
    }
}

/// Keeps the leases of a client alive. It has a task as long as there are any.
#[derive(Debug, Default)]
pub(crate) struct Keeper {
    state: Mutex<State>,
    /// There is something else to do than there was.
    changed: Notify,
}

#[derive(Debug, Default)]
struct State {
    schedule: Schedule,
    lives: BTreeMap<u64, watch::Sender<Life>>,
    is_running: bool,
}

impl State {
    /// Tells those who hold leases what has become of them.
    fn publish(&mut self) {
        self.lives.retain(|id, life| {
            let now = self.schedule.life(*id);
            life.send_if_modified(|known| std::mem::replace(known, now) != now);
            now != Life::Lost
        });
    }
}

impl Keeper {
    fn add(self: &Arc<Self>, client: &Client, id: u64, ttl: Duration, certain_until: Instant) -> watch::Receiver<Life> {
        let mut state = self.lock();
        state.schedule.add(id, ttl, certain_until, Instant::now());
        let now = state.schedule.life(id);
        let life = state.lives.entry(id).or_insert_with(|| watch::Sender::new(now)).subscribe();
        state.publish();
        if !std::mem::replace(&mut state.is_running, true) {
            let (keeper, client) = (Running(Arc::clone(self)), client.clone());
            tokio::spawn(async move { keeper.run(client).await });
        }
        drop(state);
        self.changed.notify_one();
        life
    }

    /// One who holds a lease holds it no more.
    fn release(&self, id: u64) {
        let mut state = self.lock();
        if state.schedule.release(id) {
            state.lives.remove(&id);
        }
        drop(state);
        self.changed.notify_one();
    }

    /// A lease is to be renewed no more.
    fn give_up(&self, id: u64) {
        let mut state = self.lock();
        state.schedule.lose(id);
        state.publish();
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// The task of a [`Keeper`]. However it ends (the runtime may be gone), the next lease starts another one.
struct Running(Arc<Keeper>);

impl Drop for Running {
    fn drop(&mut self) {
        self.0.lock().is_running = false;
    }
}

/// The questions of a stream. Not bounded by itself: a lease is asked about once until there is an answer.
type Questions = mpsc::UnboundedSender<KeepLeaseAliveRequest>;

impl Running {
    async fn run(self, client: Client) {
        while let Some(silence) = self.silence() {
            match self.open(&client, silence).await {
                Ok((questions, opened)) => {
                    let node = opened.node;
                    if let Ended::NodeFailed = self.keep(&questions, opened.stream).await {
                        client.avoid(node);
                        sleep(PAUSE).await;
                    }
                }
                Err(_) => sleep(PAUSE).await,
            }
        }
    }

    /// How long the next node may be silent; `None` if there is nothing to keep alive: then this task ends.
    fn silence(&self) -> Option<Duration> {
        let mut state = self.0.lock();
        state.schedule.lose_overdue(Instant::now());
        state.publish();
        let silence = state.schedule.silence();
        // Within the lock: who adds a lease after this starts another task.
        state.is_running = silence.is_some();
        silence
    }

    async fn open(
        &self,
        client: &Client,
        silence: Duration,
    ) -> Result<(Questions, Opened<Streaming<KeepLeaseAliveResponse>>), Error> {
        let opened = client.open(Limit::from_now(silence), |attempt| {
            let (questions, asked) = mpsc::unbounded_channel();
            // Without a gRPC deadline: that would bound the whole stream.
            let request = Request::new(UnboundedReceiverStream::new(asked));
            async move { Ok((questions, attempt.kv().keep_lease_alive(request).await?.into_inner())) }
        });
        let Opened { node, stream: (questions, answers) } = opened.await?;
        self.0.lock().schedule.begin(Instant::now());
        Ok((questions, Opened { node, stream: answers }))
    }

    /// Asks and listens until the node fails, or there is nothing more to keep.
    async fn keep(&self, questions: &Questions, mut answers: Streaming<KeepLeaseAliveResponse>) -> Ended {
        loop {
            let wake_at = match self.ask(questions) {
                Ok(wake_at) => wake_at,
                Err(ended) => return ended,
            };
            tokio::select! {
                biased;
                answer = answers.message() => match answer {
                    Ok(Some(answer)) => {
                        let mut state = self.0.lock();
                        let ttl = Duration::from_millis(answer.ttl_ms);
                        state.schedule.answered(answer.lease_id, ttl, Instant::now());
                        state.publish();
                    }
                    Ok(None) | Err(_) => return Ended::NodeFailed,
                },
                () = self.0.changed.notified() => {}
                () = sleep_until(wake_at) => {}
            }
        }
    }

    /// Asks what is to be asked now. Answers when to look again.
    fn ask(&self, questions: &Questions) -> Result<Instant, Ended> {
        let mut state = self.0.lock();
        let now = Instant::now();
        state.schedule.lose_overdue(now);
        state.publish();
        if state.schedule.silent_at().is_some_and(|at| at <= now) {
            return Err(Ended::NodeFailed);
        }
        for lease_id in state.schedule.take_due(now) {
            questions.send(KeepLeaseAliveRequest { lease_id }).map_err(|_| Ended::NodeFailed)?;
        }
        state.schedule.wake_at().ok_or(Ended::NothingToKeep)
    }
}

/// Why no more is asked on a stream.
enum Ended {
    NodeFailed,
    NothingToKeep,
}

/// Which leases are kept alive, and how far that has come. The time comes in from outside.
#[derive(Debug, Default)]
struct Schedule {
    kept: BTreeMap<u64, Kept>,
    /// When the question was asked that this stream has not answered, also about leases that are not kept any more.
    asked: BTreeMap<u64, Instant>,
}

#[derive(Debug)]
struct Kept {
    ttl: Duration,
    holders: usize,
    certain_until: Instant,
    /// When to ask next.
    due: Instant,
}

impl Kept {
    fn interval(&self) -> Duration {
        self.ttl / RENEWALS_PER_TTL
    }

    fn silence(&self) -> Duration {
        self.interval().min(SILENCE_MAX)
    }
}

impl Schedule {
    fn add(&mut self, id: u64, ttl: Duration, certain_until: Instant, now: Instant) {
        let certain = certain_until.saturating_duration_since(now);
        let due = now + certain.saturating_sub(ttl - ttl / RENEWALS_PER_TTL);
        let kept = self.kept.entry(id).or_insert(Kept { ttl, holders: 0, certain_until, due });
        kept.holders += 1;
        kept.certain_until = certain_until.max(kept.certain_until);
    }

    /// Whether nobody holds the lease any more.
    fn release(&mut self, id: u64) -> bool {
        let Some(kept) = self.kept.get_mut(&id) else { return true };
        kept.holders -= 1;
        let is_free = kept.holders == 0;
        if is_free {
            self.kept.remove(&id);
        }
        is_free
    }

    fn lose(&mut self, id: u64) {
        self.kept.remove(&id);
    }

    fn lose_overdue(&mut self, now: Instant) {
        self.kept.retain(|_, kept| kept.certain_until > now);
    }

    fn life(&self, id: u64) -> Life {
        self.kept.get(&id).map_or(Life::Lost, |kept| Life::Until(kept.certain_until))
    }

    /// How long a node may be silent: as the lease needs it that is in the greatest hurry. `None` if there is none.
    fn silence(&self) -> Option<Duration> {
        self.kept.values().map(Kept::silence).min()
    }

    /// A new stream: what was asked on another one will not be answered. Asks about every lease, as nobody knows what the
    /// silence before it has cost.
    fn begin(&mut self, now: Instant) {
        self.asked.clear();
        for kept in self.kept.values_mut() {
            kept.due = now;
        }
    }

    /// The leases to ask about now. Not again about one that waits for its answer.
    fn take_due(&mut self, now: Instant) -> Vec<u64> {
        let mut due = Vec::new();
        for (id, kept) in &mut self.kept {
            if kept.due <= now && !self.asked.contains_key(id) {
                kept.due = now + kept.interval();
                self.asked.insert(*id, now);
                due.push(*id);
            }
        }
        due
    }

    fn answered(&mut self, id: u64, ttl: Duration, now: Instant) {
        let Some(asked) = self.asked.remove(&id) else { return };
        let Some(kept) = self.kept.get_mut(&id) else { return };
        // Who was told that it is lost is not told otherwise later.
        if ttl.is_zero() || kept.certain_until <= now {
            self.kept.remove(&id);
        } else {
            kept.certain_until = kept.certain_until.max(asked + ttl);
        }
    }

    /// When the first question has waited for its answer for too long.
    fn silent_at(&self) -> Option<Instant> {
        let silent_at = |(id, kept): (&u64, &Kept)| Some(*self.asked.get(id)? + kept.silence());
        self.kept.iter().filter_map(silent_at).min()
    }

    /// When there is something to do; `None` if there is nothing to keep.
    fn wake_at(&self) -> Option<Instant> {
        let due = self.kept.iter().filter(|(id, _)| !self.asked.contains_key(id)).map(|(_, kept)| kept.due);
        let ends = self.kept.values().map(|kept| kept.certain_until);
        due.chain(ends).chain(self.silent_at()).min()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const TTL: Duration = Duration::from_secs(9);

    /// Seconds after some beginning.
    struct Clock(Instant);

    impl Clock {
        fn at(&self, seconds: u64) -> Instant {
            self.0 + Duration::from_secs(seconds)
        }
    }

    fn one_lease() -> (Clock, Schedule) {
        let clock = Clock(Instant::now());
        let mut schedule = Schedule::default();
        schedule.add(7, TTL, clock.at(9), clock.at(0));
        (clock, schedule)
    }

    #[test]
    fn a_lease_is_renewed_in_time_and_lives_from_the_question_on() {
        let (clock, mut schedule) = one_lease();
        assert_eq!(schedule.wake_at(), Some(clock.at(3)));
        assert_eq!(schedule.take_due(clock.at(2)), []);
        assert_eq!(schedule.take_due(clock.at(3)), [7]);
        assert_eq!(schedule.take_due(clock.at(7)), [], "it waits for the answer");
        schedule.answered(7, TTL, clock.at(4));
        assert_eq!(schedule.life(7), Life::Until(clock.at(3 + 9)));
        assert_eq!(schedule.wake_at(), Some(clock.at(6)));
        // Granted long ago, or by somebody else: asked about in a hurry.
        schedule.add(8, TTL, clock.at(6), clock.at(4));
        assert_eq!(schedule.take_due(clock.at(4)), [8]);
    }

    #[test]
    fn what_is_lost_stays_lost() {
        let (clock, mut schedule) = one_lease();
        schedule.take_due(clock.at(3));
        assert!(schedule.life(7).is_certain(clock.at(8)) && !schedule.life(7).is_certain(clock.at(9)));
        // The answer comes when the holder has been told already.
        schedule.answered(7, TTL, clock.at(9));
        assert_eq!(schedule.life(7), Life::Lost);

        let (clock, mut schedule) = one_lease();
        schedule.take_due(clock.at(3));
        schedule.answered(7, Duration::ZERO, clock.at(4));
        assert_eq!((schedule.life(7), schedule.wake_at()), (Life::Lost, None), "it was revoked");

        let (clock, mut schedule) = one_lease();
        schedule.lose_overdue(clock.at(9));
        assert_eq!((schedule.life(7), schedule.silence()), (Life::Lost, None));
    }

    #[test]
    fn a_silent_node_is_left_and_everything_is_asked_again() {
        let (clock, mut schedule) = one_lease();
        schedule.add(8, TTL * 10, clock.at(90), clock.at(0));
        assert_eq!(schedule.silence(), Some(SILENCE_MAX));
        schedule.take_due(clock.at(3));
        assert_eq!(schedule.silent_at(), Some(clock.at(5)));
        assert_eq!(schedule.wake_at(), Some(clock.at(5)));
        schedule.begin(clock.at(5));
        assert_eq!(schedule.silent_at(), None);
        assert_eq!(schedule.take_due(clock.at(5)), [7, 8]);
        // The answer counts from the question of the stream that it came on.
        schedule.answered(7, TTL, clock.at(6));
        assert_eq!(schedule.life(7), Life::Until(clock.at(14)));
    }

    #[test]
    fn an_answer_to_a_question_before_the_lease_was_let_go_is_none_to_one_after() {
        let (clock, mut schedule) = one_lease();
        schedule.take_due(clock.at(3));
        assert!(schedule.release(7));
        schedule.add(7, TTL, clock.at(10), clock.at(4));
        assert_eq!(schedule.take_due(clock.at(8)), [], "one question at a time");
        schedule.answered(7, TTL, clock.at(8));
        assert_eq!(schedule.life(7), Life::Until(clock.at(12)));
        assert_eq!(schedule.take_due(clock.at(8)), [7]);
    }

    #[test]
    fn a_lease_is_kept_until_the_last_one_lets_go() {
        let (clock, mut schedule) = one_lease();
        schedule.add(7, TTL, clock.at(8), clock.at(1));
        assert_eq!(schedule.life(7), Life::Until(clock.at(9)));
        assert!(!schedule.release(7));
        assert!(schedule.release(7));
        assert_eq!(schedule.silence(), None);
    }
}
