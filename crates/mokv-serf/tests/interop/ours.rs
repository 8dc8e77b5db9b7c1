//! A member of ours, with a thread of its own: it can be stopped and killed as a process can.

use std::future::Future;
use std::net::SocketAddr;
use std::sync::{Arc, Mutex, mpsc};
use std::thread::{self, JoinHandle};
use std::time::Duration;

use mokv_serf::agent::{Agent, Stopped, Transport, UdpTcp};
use mokv_serf::gossip;
use mokv_serf::serf::{Config, Event, Member, Status};
use mokv_serf::wire::keyring::{Keyring, key_from_text};
use mokv_serf::wire::{Codec, Text};
use tokio::runtime::{Builder, Handle};
use tokio::sync::oneshot;

use crate::eventually;
use crate::theirs::fresh_addr;

/// How one of ours is started.
pub(crate) struct Recipe {
    pub(crate) addr: SocketAddr,
    pub(crate) key: Option<&'static str>,
    pub(crate) compression: bool,
    /// How often it looks for those that failed.
    pub(crate) reconnect_interval: Option<Duration>,
    pub(crate) wrap: fn(UdpTcp) -> Arc<dyn Transport>,
}

impl Recipe {
    pub(crate) fn new() -> Self {
        Self {
            addr: fresh_addr(),
            key: None,
            compression: true,
            reconnect_interval: None,
            wrap: |transport| Arc::new(transport),
        }
    }

    pub(crate) fn at(addr: SocketAddr) -> Self {
        Self { addr, ..Self::new() }
    }

    pub(crate) fn with_key(key: &'static str) -> Self {
        Self { key: Some(key), ..Self::new() }
    }

    pub(crate) fn start(&self, name: &str) -> Ours {
        Ours::start(name, self)
    }
}

pub(crate) struct Ours {
    pub(crate) name: Text,
    pub(crate) addr: SocketAddr,
    pub(crate) agent: Agent,
    /// All that happened.
    events: Arc<Mutex<Vec<Event>>>,
    runtime: Handle,
    end: Option<oneshot::Sender<()>>,
    thread: Option<JoinHandle<()>>,
}

impl Ours {
    fn start(name: &str, recipe: &Recipe) -> Self {
        let keyring = recipe.key.map(|key| {
            let key = key_from_text(key).expect("a key");
            Keyring::new([key.as_slice()]).expect("keys")
        });
        let codec = Codec { keyring, compression: recipe.compression, ..Codec::default() };
        let mut config = Config::new(gossip::Config::lan(name.into(), recipe.addr), codec);
        config.reconnect_interval = recipe.reconnect_interval.unwrap_or(config.reconnect_interval);
        config.tags = [("rpc_addr".into(), rpc_addr(recipe.addr).as_str().into())].into();

        let runtime = Builder::new_current_thread().enable_all().build().expect("runtime");
        let handle = runtime.handle().clone();
        let (end, ended) = oneshot::channel();
        let events = Arc::new(Mutex::new(Vec::new()));
        let (started, start) = mpsc::channel();
        let (addr, wrap, seen) = (recipe.addr, recipe.wrap, Arc::clone(&events));
        let thread = thread::spawn(move || {
            runtime.block_on(async {
                let transport = wrap(UdpTcp::bind(addr).await.expect("bind"));
                let agent = Agent::spawn(config, transport, rand::random(), |task| {
                    tokio::spawn(task);
                });
                let agent = agent.expect("tags that fit");
                tokio::spawn(note(agent.events(), seen));
                started.send(agent).expect("somebody waits");
                // Killed when it is told, or when nobody is left to tell.
                let _ = ended.await;
            });
        });
        let agent = start.recv().expect("it starts");
        Self { name: name.into(), addr, agent, events, runtime: handle, end: Some(end), thread: Some(thread) }
    }

    /// Waits for something that the agent is to do.
    pub(crate) fn run<T>(&self, work: impl Future<Output = T>) -> T {
        self.runtime.block_on(work)
    }

    /// Starts something beside the agent.
    pub(crate) fn spawn(&self, task: impl Future<Output = ()> + Send + 'static) -> tokio::task::JoinHandle<()> {
        self.runtime.spawn(task)
    }

    #[track_caller]
    pub(crate) fn join(&self, to: SocketAddr) {
        assert_eq!(self.run(self.agent.join(&[to])), Ok(1));
    }

    /// As SIGKILL does: no good-bye, sockets closed.
    pub(crate) fn kill(&mut self) {
        drop(self.end.take());
        if let Some(thread) = self.thread.take() {
            thread.join().expect("the thread of a member");
        }
    }

    /// As SIGSTOP does, until the result is dropped: what arrives waits with the system.
    pub(crate) fn pause(&self) -> mpsc::Sender<()> {
        let (go_on, wait) = mpsc::channel::<()>();
        let (paused, is_paused) = mpsc::channel();
        self.runtime.spawn(async move {
            paused.send(()).expect("somebody waits");
            // Blocks the only thread there is. Ends when the sender is dropped.
            let _ = wait.recv();
        });
        is_paused.recv().expect("it pauses");
        go_on
    }

    /// Why it does not run any more, if it does not.
    pub(crate) fn stopped(&self) -> Option<Stopped> {
        self.run(async {
            tokio::select! {
                biased;
                reason = self.agent.stopped() => Some(reason),
                () = std::future::ready(()) => None,
            }
        })
    }

    pub(crate) fn member(&self, name: &str) -> Option<Member> {
        self.agent.members().borrow().get(&Text::from(name)).cloned()
    }

    /// Waits until it lists a member with this status.
    pub(crate) fn sees(&self, name: &str, status: Status) -> Member {
        eventually(&format!("{} sees {name} {status:?}", self.name), || {
            let members = self.agent.members().borrow().clone();
            members.get(&Text::from(name)).filter(|member| member.status == status).cloned().ok_or(members)
        })
    }

    /// What happened so far, except what `filter` turns down.
    pub(crate) fn happened<T>(&self, filter: impl FnMut(&Event) -> Option<T>) -> Vec<T> {
        self.events.lock().expect("events").iter().filter_map(filter).collect()
    }

    /// How often it heard of an event with this name.
    pub(crate) fn events_named(&self, name: &str) -> usize {
        let named = |event: &Event| matches!(event, Event::User(event) if event.name == Text::from(name)).then_some(());
        self.happened(named).len()
    }

    /// Who was taken for failed at some time.
    pub(crate) fn failed(&self) -> Vec<Text> {
        self.happened(|event| match event {
            Event::Failed(member) => Some(member.name.clone()),
            _ => None,
        })
    }
}

/// What a member of ours says in its tag.
pub(crate) fn rpc_addr(addr: SocketAddr) -> String {
    format!("{}:8400", addr.ip())
}

async fn note(mut events: tokio::sync::broadcast::Receiver<Event>, seen: Arc<Mutex<Vec<Event>>>) {
    while let Ok(event) = events.recv().await {
        seen.lock().expect("events").push(event);
    }
}

impl Drop for Ours {
    fn drop(&mut self) {
        drop(self.end.take());
        if std::thread::panicking() {
            let events = self.events.lock().map(|events| events.clone()).unwrap_or_default();
            eprintln!("--- {} saw: {events:#?}", self.name);
        }
        if let Some(thread) = self.thread.take() {
            // It says itself what is wrong with it.
            drop(thread.join());
        }
    }
}
