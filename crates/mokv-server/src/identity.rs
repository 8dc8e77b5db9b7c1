//! Who a node is: its data directory, locked, and the small file in it that says so.
//!
//! The identity lives in the directory, not in the name or the address: an empty directory is a new node, which never
//! votes with what another one forgot. `identity` is a text file that is replaced as a whole:
//!
//! ```text
//! # mökv node identity. Do not edit or copy: see docs/storage.md
//! format-version = 1
//! node-id = 5577006791947779410
//! cluster-id = 0f2c9a4be67d4c5e9a3b1d2c4e5f6071
//! name = node-0
//! incarnation = 2
//! starts = 8c1f0a64e2b95d37 03d2c8e1b7f4a695
//! crc32 = 3f9a01c2
//! ```
//!
//! `cluster-id` is missing until the node is in a cluster, and never changes afterwards. [`promise`] has the lines of a node
//! that is on its way into its first one. `incarnation` counts the starts, `starts` has the numbers of the last ones, oldest
//! first ([`Lineage`]); both are missing before the first start. A line `refused = REASON` says that others know this
//! directory to be an old copy: it is never used again. `generation = 2` says that this is the second node in the
//! directory: it keeps its log and its snapshots in `log-2` and `snapshots-2` (see [`DataDir::start_anew`]). `crc32` is of
//! all bytes before its line.

use std::fmt::Write;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError};

use futures_util::FutureExt;
use futures_util::future::BoxFuture;
use rand::Rng;
use tokio::sync::watch;

use crate::disk::{self, Disk, Lock};
use crate::incarnation::Lineage;
use crate::mutants::mutant;
use crate::raft::types::NodeId;
use crate::runtime::Tasks;

pub mod promise;

use promise::Pledge;

const FORMAT_VERSION: u32 = 1;
const FILE: &str = "identity";
const LOCK: &str = "LOCK";
const LOG: &str = "log";
const SNAPSHOTS: &str = "snapshots";
/// What `mkfs` puts into a new file system.
const LOST_AND_FOUND: &str = "lost+found";
const HEADER: &str = "# mökv node identity. Do not edit or copy: see docs/storage.md";

/// Who a node is.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Identity {
    /// Random, never zero.
    pub node_id: NodeId,
    /// The cluster; `None` while the node is in none.
    pub cluster_id: Option<String>,
    /// The name that the node was last started with.
    pub name: String,
    /// What it has promised on its way into its first cluster.
    pub pledge: Pledge,
    /// How many nodes this directory has been that of, this one included.
    pub generation: u32,
    /// Its starts.
    pub lineage: Lineage,
    /// Why the directory must not be used any more.
    pub refused: Option<String>,
}

impl Identity {
    /// That of a new node, in no cluster.
    pub fn new(node_id: NodeId, name: String) -> Self {
        let (pledge, lineage) = (Pledge::default(), Lineage::default());
        Self { node_id, cluster_id: None, name, pledge, generation: 1, lineage, refused: None }
    }
}

/// Why a data directory can't be used. Nothing in it was changed.
#[derive(Debug, thiserror::Error)]
pub enum IdentityError {
    /// Another process uses it.
    #[error("{} is in use by another process: stop that one, or use another data directory", .0.display())]
    InUse(PathBuf),
    /// The disk failed.
    #[error("{}: {source}", .path.display())]
    Io {
        /// The file or directory.
        path: PathBuf,
        /// What the disk said.
        source: io::Error,
    },
    /// The file was changed by something else than mökv.
    #[error(
        "{} is damaged ({problem}): if the rest of the cluster is up, move the data directory away and let this node \
         join as a new one",
        .path.display()
    )]
    Damaged {
        /// The file.
        path: PathBuf,
        /// What is wrong.
        problem: String,
    },
    /// The directory was written by a later version.
    #[error("{} was written by a newer mökv, in format version {version}: start that one", .path.display())]
    NewerVersion {
        /// The file.
        path: PathBuf,
        /// Its version.
        version: u32,
    },
    /// There is something in a directory that should be empty.
    #[error(
        "{} is not empty: give an empty directory, or one that does not exist. If it is what a restore has left that was \
         interrupted, remove it first",
        .0.display()
    )]
    NotEmpty(PathBuf),
    /// There is no node.
    #[error("{} is not the data directory of a node: there is no identity in it", .0.display())]
    NoNode(PathBuf),
    /// There is a log, and nobody whose it is.
    #[error(
        "{} has a log but no identity: it was copied in part, or its identity was deleted. Move it away and let this \
         node join as a new one",
        .0.display()
    )]
    Missing(PathBuf),
    /// An earlier change was written, but not carried out.
    #[error("an earlier change of this node's identity was interrupted: restart the node, which completes it")]
    HalfChanged,
    /// Consensus did not take the first membership.
    #[error("consensus did not take the cluster's first membership: {0}")]
    NotFounded(String),
    /// The node has promised itself to a cluster that is being formed.
    #[error(
        "this node has promised itself to cluster {promised}, which is being formed, and can't be in {theirs} before that is given up"
    )]
    Promised {
        /// Where it will be.
        promised: String,
        /// Where it was asked to be.
        theirs: String,
    },
    /// Other nodes know that the directory is an old copy.
    #[error("{} was refused before: {reason}", .path.display())]
    Refused {
        /// The file.
        path: PathBuf,
        /// What is wrong, and what to do.
        reason: String,
    },
    /// The node is in another cluster already.
    #[error("this node belongs to cluster {ours}, not {theirs}")]
    OtherCluster {
        /// Where it is.
        ours: String,
        /// Where it was asked to be.
        theirs: String,
    },
}

/// An open data directory. Cheap to clone.
#[derive(Clone)]
pub struct DataDir {
    inner: Arc<Inner>,
}

struct Inner {
    tasks: Tasks,
    disk: Arc<dyn Disk>,
    path: PathBuf,
    identity: watch::Sender<Identity>,
    cluster_id: watch::Sender<Option<String>>,
    /// One change of the file at a time. True after one that was written, but whose consequences were not drawn: then only
    /// a restart knows what to do.
    changing: tokio::sync::Mutex<bool>,
    /// Taken by [`DataDir::close`].
    lock: Mutex<Option<Box<dyn Lock>>>,
}

impl DataDir {
    /// Opens and locks a directory. An empty or missing one becomes that of a new node.
    ///
    /// # Errors
    ///
    /// See [`IdentityError`].
    pub async fn open(tasks: &Tasks, disk: Arc<dyn Disk>, path: PathBuf, name: &str) -> Result<Self, IdentityError> {
        let new_id = NodeId::max(1, tasks.rng().next_u64());
        let opening = open(disk.clone(), path.clone(), name.to_owned(), new_id);
        let opened = tasks.run_disk("identity", async move { Ok(opening.await) }).await;
        let (identity, lock) = opened.map_err(|source| IdentityError::Io { path: path.clone(), source })??;
        Ok(Self::of(tasks, disk, path, identity, lock))
    }

    /// Opens and locks a directory that is empty or missing, for a node whose log and snapshots are made before it exists.
    /// It does from [`DataDir::set_cluster_id`] on; until then there is a log without an identity, or nothing, and no node
    /// starts on that.
    ///
    /// # Errors
    ///
    /// [`IdentityError::NotEmpty`], [`IdentityError::InUse`] and [`IdentityError::Io`].
    pub async fn open_empty(
        tasks: &Tasks,
        disk: Arc<dyn Disk>,
        path: PathBuf,
        name: &str,
    ) -> Result<Self, IdentityError> {
        let identity = Identity::new(NodeId::max(1, tasks.rng().next_u64()), name.to_owned());
        let opening = {
            let (disk, path) = (disk.clone(), path.clone());
            async move { Ok(lock_empty(&*disk, &path).await) }
        };
        let opened = tasks.run_disk("identity", opening).await;
        let lock = opened.map_err(|source| IdentityError::Io { path: path.clone(), source })??;
        Ok(Self::of(tasks, disk, path, identity, lock))
    }

    /// Opens and locks the directory of a node that exists, and leaves it its name.
    ///
    /// # Errors
    ///
    /// [`IdentityError::NoNode`] and those of [`DataDir::open`].
    pub async fn open_existing(tasks: &Tasks, disk: Arc<dyn Disk>, path: PathBuf) -> Result<Self, IdentityError> {
        let file = path.join(FILE);
        let reading = {
            let (disk, file) = (disk.clone(), file.clone());
            async move { Ok(disk::read(&*disk, &file).await) }
        };
        let read = tasks.run_disk("identity", reading).await.and_then(|read| read);
        let bytes = match read {
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Err(IdentityError::NoNode(path)),
            read => read.map_err(|source| IdentityError::Io { path: file.clone(), source })?,
        };
        let name = decode(&file, &bytes)?.name;
        Self::open(tasks, disk, path, &name).await
    }

    fn of(tasks: &Tasks, disk: Arc<dyn Disk>, path: PathBuf, identity: Identity, lock: Box<dyn Lock>) -> Self {
        let cluster_id = watch::Sender::new(identity.cluster_id.clone());
        let identity = watch::Sender::new(identity);
        let (tasks, changing) = (tasks.clone(), tokio::sync::Mutex::default());
        Self {
            inner: Arc::new(Inner { tasks, disk, path, identity, cluster_id, changing, lock: Mutex::new(Some(lock)) }),
        }
    }

    /// Who the node is.
    pub fn identity(&self) -> Identity {
        self.inner.identity.borrow().clone()
    }

    /// The cluster, as soon as there is one.
    pub fn watch_cluster_id(&self) -> watch::Receiver<Option<String>> {
        self.inner.cluster_id.subscribe()
    }

    /// The directory itself.
    pub fn path(&self) -> &Path {
        &self.inner.path
    }

    /// Where the log is.
    pub fn log_dir(&self) -> PathBuf {
        self.log_dir_of(self.identity().generation)
    }

    /// Where the snapshots are.
    pub fn snapshot_dir(&self) -> PathBuf {
        self.snapshot_dir_of(self.identity().generation)
    }

    /// Where the nth node has its log.
    pub(crate) fn log_dir_of(&self, generation: u32) -> PathBuf {
        self.inner.path.join(numbered(LOG, generation))
    }

    /// Where the nth node has its snapshots.
    pub(crate) fn snapshot_dir_of(&self, generation: u32) -> PathBuf {
        self.inner.path.join(numbered(SNAPSHOTS, generation))
    }

    /// The generation of the next node in this directory: the first one after the present of which there is nothing. An
    /// interrupted [`DataDir::succeed`] may have left something of the one that it was about to make.
    ///
    /// # Errors
    ///
    /// [`IdentityError::Io`].
    pub(crate) async fn next_generation(&self) -> Result<u32, IdentityError> {
        let this = self.clone();
        let looking = async move {
            let mut generation = this.identity().generation + 1;
            while !is_empty(&*this.inner.disk, &this.log_dir_of(generation)).await?
                || !is_empty(&*this.inner.disk, &this.snapshot_dir_of(generation)).await?
            {
                generation += 1;
            }
            Ok(generation)
        };
        let found = self.inner.tasks.run_disk("identity", looking).await;
        found.map_err(|source| IdentityError::Io { path: self.inner.path.clone(), source })
    }

    /// Gives the directory back to other processes. The caller has closed everything in it.
    pub fn close(&self) {
        drop(self.inner.lock.lock().unwrap_or_else(PoisonError::into_inner).take());
    }

    /// Makes the node part of a cluster that exists, durably. No effect if it is in that one already.
    ///
    /// # Errors
    ///
    /// [`IdentityError::OtherCluster`], [`IdentityError::Promised`] and [`IdentityError::Io`].
    pub async fn set_cluster_id(&self, cluster_id: &str) -> Result<(), IdentityError> {
        let rule = |identity: &mut Identity| match (&identity.cluster_id, &identity.pledge.promise) {
            (Some(ours), _) if ours == cluster_id => Ok(()),
            (Some(ours), _) => Err(IdentityError::OtherCluster { ours: ours.clone(), theirs: cluster_id.to_owned() }),
            // Others may count on it.
            (None, Some(promise)) if promise.proposal.cluster_id != cluster_id => Err(IdentityError::Promised {
                promised: promise.proposal.cluster_id.clone(),
                theirs: cluster_id.to_owned(),
            }),
            (None, _) => {
                identity.cluster_id = Some(cluster_id.to_owned());
                // Its membership comes from those that are in it.
                identity.pledge.promise = None;
                Ok(())
            }
        };
        self.amend(rule).await?
    }

    /// Makes the directory that of a new node, durably and at once: one that is in no cluster, has the same name, and never
    /// forms a cluster alone. The caller has ended everything that the old one had open; its log and its snapshots stay
    /// where they are, and its identity beside them, as `identity-1` for the first.
    ///
    /// # Errors
    ///
    /// [`IdentityError::Io`]; the directory is still that of the old node then.
    pub async fn start_anew(&self) -> Result<(), IdentityError> {
        let node_id = NodeId::max(1, self.inner.tasks.rng().next_u64());
        let generation = self.next_generation().await?;
        self.succeed(Identity { generation, ..Identity::new(node_id, self.identity().name) }).await
    }

    /// Makes the directory that of another node, durably and at once, whose log and snapshots are those of its generation.
    /// The caller has ended everything that the old one had open; its log and its snapshots stay where they are, and its
    /// identity beside them.
    ///
    /// # Errors
    ///
    /// [`IdentityError::Io`]; the directory is still that of the old node then.
    pub(crate) async fn succeed(&self, heir: Identity) -> Result<(), IdentityError> {
        let old = self.identity();
        debug_assert!(heir.generation > old.generation && heir.node_id != old.node_id, "{heir:?} after {old:?}");
        self.write(format!("{FILE}-{}", old.generation), &old).await?;
        self.amend(|identity| *identity = heir).await
    }

    /// Changes the identity by a rule that sees it as it is, durably. What the rule returns is true when this returns.
    ///
    /// # Errors
    ///
    /// [`IdentityError::Io`]: the change may be found after a restart, and has not happened before.
    pub(crate) async fn amend<T>(&self, rule: impl FnOnce(&mut Identity) -> T) -> Result<T, IdentityError> {
        self.change(rule, |_| async { Ok(()) }.boxed()).await
    }

    /// Changes the identity by a rule that sees it as it is, durably; then does what has to be done before anybody else can
    /// see the change. What the rule returns is true when this returns.
    ///
    /// # Errors
    ///
    /// [`IdentityError::Io`] and those of `before_seen`: the change may be found after a restart, and has not happened
    /// before.
    pub(crate) async fn change<T>(
        &self,
        rule: impl FnOnce(&mut Identity) -> T,
        before_seen: impl FnOnce(&Identity) -> BoxFuture<'static, Result<(), IdentityError>>,
    ) -> Result<T, IdentityError> {
        let mut is_half_done = self.inner.changing.lock().await;
        if *is_half_done {
            return Err(IdentityError::HalfChanged);
        }
        let before = self.identity();
        let mut identity = before.clone();
        let result = rule(&mut identity);
        if identity == before {
            return Ok(result);
        }
        self.write(FILE.to_owned(), &identity).await?;
        *is_half_done = true;
        before_seen(&identity).await?;
        *is_half_done = false;
        if identity.cluster_id != before.cluster_id {
            self.inner.cluster_id.send_replace(identity.cluster_id.clone());
        }
        self.inner.identity.send_replace(identity);
        Ok(result)
    }

    /// Counts a start, durably. From here on others may hear of it.
    ///
    /// # Errors
    ///
    /// [`IdentityError::Io`].
    pub async fn begin_start(&self) -> Result<Lineage, IdentityError> {
        let number = self.inner.tasks.rng().next_u64();
        if mutant!(StartBeforeSync) {
            return Ok(self.identity().lineage.next(number));
        }
        let rule = |identity: &mut Identity| {
            identity.lineage = identity.lineage.next(number);
            identity.lineage.clone()
        };
        self.amend(rule).await
    }

    /// Notes, durably, that the directory must not be used any more. It says why at each start.
    ///
    /// # Errors
    ///
    /// [`IdentityError::Io`].
    pub async fn refuse(&self, reason: &str) -> Result<(), IdentityError> {
        // A line of the file.
        let rule = |identity: &mut Identity| identity.refused = Some(reason.replace('\n', " "));
        self.amend(rule).await
    }

    async fn write(&self, name: String, identity: &Identity) -> Result<(), IdentityError> {
        let (disk, path, encoded) = (self.inner.disk.clone(), self.inner.path.join(name), encode(identity));
        let writing = {
            let path = path.clone();
            async move { disk::write_atomically(&*disk, &path, encoded.as_bytes()).await }
        };
        let written = self.inner.tasks.run_disk("identity", writing).await;
        written.map_err(|source| IdentityError::Io { path, source })
    }
}

/// The id of a new cluster: no two have the same.
pub(crate) fn fresh_cluster_id(tasks: &Tasks) -> String {
    let mut rng = tasks.rng();
    format!("{:016x}{:016x}", rng.next_u64(), rng.next_u64())
}

/// Whether there is nothing in a directory, or no such directory.
async fn is_empty(disk: &dyn Disk, dir: &Path) -> io::Result<bool> {
    match disk.list(dir).await {
        Ok(names) => Ok(names.is_empty()),
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(true),
        Err(error) => Err(error),
    }
}

/// Creates and locks a directory in which there is nothing yet.
async fn lock_empty(disk: &dyn Disk, path: &Path) -> Result<Box<dyn Lock>, IdentityError> {
    let failed = |source| IdentityError::Io { path: path.to_owned(), source };
    disk.create_dir(path).await.map_err(failed)?;
    // Looked at first: a directory of something else gets no lock file.
    for name in disk.list(path).await.map_err(failed)? {
        let is_harmless = match name.as_str() {
            LOCK | LOST_AND_FOUND => true,
            // Of a restore that failed.
            LOG | SNAPSHOTS => is_empty(disk, &path.join(&name)).await.map_err(failed)?,
            _ => false,
        };
        if !is_harmless {
            return Err(IdentityError::NotEmpty(path.to_owned()));
        }
    }
    match disk.lock(&path.join(LOCK)).await {
        Err(error) if error.kind() == io::ErrorKind::WouldBlock => Err(IdentityError::InUse(path.to_owned())),
        lock => lock.map_err(failed),
    }
}

/// The name of a directory of the nth node.
fn numbered(name: &str, generation: u32) -> String {
    if generation <= 1 { name.to_owned() } else { format!("{name}-{generation}") }
}

async fn open(
    disk: Arc<dyn Disk>,
    path: PathBuf,
    name: String,
    new_id: NodeId,
) -> Result<(Identity, Box<dyn Lock>), IdentityError> {
    let failed = |path: &Path| {
        let path = path.to_owned();
        move |source| IdentityError::Io { path, source }
    };
    disk.create_dir(&path).await.map_err(failed(&path))?;
    let lock = match disk.lock(&path.join(LOCK)).await {
        Err(error) if error.kind() == io::ErrorKind::WouldBlock => return Err(IdentityError::InUse(path)),
        lock => lock.map_err(failed(&path))?,
    };
    if disk::os::is_in_memory(&path) {
        tracing::warn!(path = %path.display(), "the data directory is in memory: a reboot makes this node forget its votes");
    }
    let file = path.join(FILE);
    let identity = match disk::read(&*disk, &file).await {
        Ok(bytes) => {
            let identity = decode(&file, &bytes)?;
            if let Some(reason) = identity.refused {
                return Err(IdentityError::Refused { path: file, reason });
            }
            // A process that was killed may have given the file a name that is not durable yet, and from here on others
            // hear of this node.
            disk.sync_dir(&path).await.map_err(failed(&path))?;
            identity
        }
        Err(error) if error.kind() == io::ErrorKind::NotFound => {
            // The identity is made before anything else is.
            let has_log = disk.list(&path.join(LOG)).await.is_ok_and(|names| !names.is_empty());
            if has_log {
                return Err(IdentityError::Missing(path));
            }
            Identity::new(new_id, String::new())
        }
        Err(error) => return Err(failed(&file)(error)),
    };
    if identity.name == name {
        return Ok((identity, lock));
    }
    let identity = Identity { name, ..identity };
    disk::write_atomically(&*disk, &file, encode(&identity).as_bytes()).await.map_err(failed(&file))?;
    Ok((identity, lock))
}

fn encode(identity: &Identity) -> String {
    let mut text = format!("{HEADER}\nformat-version = {FORMAT_VERSION}\nnode-id = {}\n", identity.node_id);
    if let Some(cluster_id) = &identity.cluster_id {
        text.push_str(&format!("cluster-id = {cluster_id}\n"));
    }
    text.push_str(&format!("name = {}\n", identity.name));
    if identity.generation > 1 {
        text.push_str(&format!("generation = {}\n", identity.generation));
    }
    identity.pledge.encode(&mut text);
    let lineage = &identity.lineage;
    if !lineage.numbers().is_empty() {
        let numbers: Vec<String> = lineage.numbers().iter().map(|number| format!("{number:016x}")).collect();
        text.push_str(&format!("incarnation = {}\nstarts = {}\n", lineage.start().incarnation, numbers.join(" ")));
    }
    if let Some(reason) = &identity.refused {
        text.push_str(&format!("refused = {reason}\n"));
    }
    let crc = crc32fast::hash(text.as_bytes());
    // Writing to a string can't fail.
    let _ = writeln!(text, "crc32 = {crc:08x}");
    text
}

fn decode(path: &Path, bytes: &[u8]) -> Result<Identity, IdentityError> {
    let damaged = |problem: &str| IdentityError::Damaged { path: path.to_owned(), problem: problem.to_owned() };
    let text = std::str::from_utf8(bytes).map_err(|_| damaged("it is no text"))?;
    let lines = text.strip_suffix('\n').and_then(|text| text.rsplit_once('\n'));
    let (body, crc) = lines.ok_or_else(|| damaged("it is cut short"))?;
    let crc = crc.strip_prefix("crc32 = ").ok_or_else(|| damaged("it is cut short"))?;
    let fields = |name: &'static str| {
        let lines = body.lines().filter_map(|line| line.split_once(" = "));
        lines.filter(move |(found, _)| *found == name).map(|(_, value)| value)
    };
    let field = |name| fields(name).next();
    // A later version may have another form from the next line on: it is told apart first.
    let version: u32 = field("format-version")
        .and_then(|version| version.parse().ok())
        .ok_or_else(|| damaged("it has no format version"))?;
    if version > FORMAT_VERSION {
        return Err(IdentityError::NewerVersion { path: path.to_owned(), version });
    }
    if crc != format!("{:08x}", crc32fast::hash(&bytes[..body.len() + 1])) {
        return Err(damaged("its checksum does not match"));
    }
    let node_id = field("node-id").and_then(|id| id.parse().ok()).filter(|id| *id != 0);
    // Directories of the first releases have neither.
    let incarnation = field("incarnation").map_or(Some(0), |incarnation| incarnation.parse().ok());
    let starts = field("starts").unwrap_or_default().split_whitespace();
    let numbers = starts.map(|number| u64::from_str_radix(number, 16)).collect::<Result<Vec<_>, _>>().ok();
    let lineage = incarnation.zip(numbers).and_then(|(incarnation, numbers)| Lineage::from_parts(incarnation, numbers));
    Ok(Identity {
        node_id: node_id.ok_or_else(|| damaged("it has no node id"))?,
        cluster_id: field("cluster-id").map(str::to_owned),
        name: field("name").unwrap_or_default().to_owned(),
        pledge: Pledge::decode(fields).ok_or_else(|| damaged("its promise makes no sense"))?,
        generation: field("generation")
            .map_or(Some(1), |generation| generation.parse().ok())
            .ok_or_else(|| damaged("its generation makes no sense"))?,
        lineage: lineage.ok_or_else(|| damaged("its starts make no sense"))?,
        refused: field("refused").map(str::to_owned),
    })
}

#[cfg(test)]
mod crash_tests;
#[cfg(test)]
mod tests {
    use super::*;
    use crate::disk::OsDisk;

    async fn open_dir(path: &Path, name: &str) -> Result<DataDir, IdentityError> {
        let tasks = Tasks::from_os().expect("seed");
        DataDir::open(&tasks, Arc::new(OsDisk), path.to_owned(), name).await
    }

    #[tokio::test]
    async fn an_identity_outlives_its_process_and_its_name() {
        let dir = tempfile::TempDir::new().expect("directory");
        let path = dir.path().join("a/b");
        let first = open_dir(&path, "old").await.expect("new").identity();
        assert_eq!((first.name.as_str(), &first.cluster_id), ("old", &None));
        let renamed = open_dir(&path, "new").await.expect("again");
        assert_eq!(renamed.identity(), Identity { name: "new".into(), ..first });
        renamed.set_cluster_id("c1").await.expect("cluster");
        renamed.set_cluster_id("c1").await.expect("no change");
        assert!(matches!(renamed.set_cluster_id("c2").await, Err(IdentityError::OtherCluster { .. })));
        let known = renamed.identity();
        drop(renamed);
        assert_eq!(open_dir(&path, "new").await.expect("again").identity(), known);
        assert_eq!(known.cluster_id.as_deref(), Some("c1"));
    }

    #[tokio::test]
    async fn each_start_is_counted_and_a_refusal_is_for_ever() {
        let dir = tempfile::TempDir::new().expect("directory");
        let first = open_dir(dir.path(), "a").await.expect("new");
        assert_eq!(first.identity().lineage, Lineage::default());
        let one = first.begin_start().await.expect("start");
        first.close();
        let second = open_dir(dir.path(), "a").await.expect("again");
        assert_eq!(second.identity().lineage, one);
        let two = second.begin_start().await.expect("start");
        assert_eq!((two.start().incarnation, two.numbers().len()), (2, 2));
        two.check_after(one.start()).expect("the next one");
        second.refuse("an old copy:\nmove it away").await.expect("note");
        second.close();
        match open_dir(dir.path(), "a").await {
            Err(IdentityError::Refused { reason, .. }) => assert_eq!(reason, "an old copy: move it away"),
            other => panic!("{:?}", other.map(|dir| dir.identity())),
        }
    }

    /// As it was before starts were counted.
    #[test]
    fn a_directory_of_an_earlier_release_is_in_incarnation_0() {
        let body = format!("{HEADER}\nformat-version = 1\nnode-id = 7\nname = a\n");
        let text = format!("{body}crc32 = {:08x}\n", crc32fast::hash(body.as_bytes()));
        let identity = decode(Path::new("identity"), text.as_bytes()).expect("decode");
        assert_eq!((identity.node_id, identity.lineage), (7, Lineage::default()));
    }

    #[tokio::test]
    async fn a_directory_has_one_process() {
        let dir = tempfile::TempDir::new().expect("directory");
        let first = open_dir(dir.path(), "a").await.expect("first");
        assert!(matches!(open_dir(dir.path(), "a").await, Err(IdentityError::InUse(_))));
        first.close();
        open_dir(dir.path(), "a").await.expect("the lock is given back");
    }

    #[tokio::test]
    #[allow(clippy::disallowed_methods)]
    async fn a_directory_without_its_identity_is_refused() {
        let dir = tempfile::TempDir::new().expect("directory");
        drop(open_dir(dir.path(), "a").await.expect("new"));
        std::fs::create_dir(dir.path().join(LOG)).expect("log");
        std::fs::remove_file(dir.path().join(FILE)).expect("remove");
        drop(open_dir(dir.path(), "a").await.expect("an empty log says nothing"));
        std::fs::write(dir.path().join(LOG).join("1.log"), b"x").expect("segment");
        std::fs::remove_file(dir.path().join(FILE)).expect("remove");
        assert!(matches!(open_dir(dir.path(), "a").await, Err(IdentityError::Missing(_))));
    }

    #[test]
    fn every_changed_byte_and_every_cut_is_found() {
        let founder = |node_id, turn| promise::Founder {
            node_id,
            turn,
            name: format!("node-{node_id}"),
            rpc_addr: format!("[fd00::{node_id}]:8400"),
        };
        let proposal = promise::Proposal { cluster_id: "0a".repeat(16), founders: vec![founder(7, 2), founder(8, 0)] };
        let promise = promise::Promise { proposal, without: [8, 9].into() };
        let pledge = Pledge { turn: 3, promise: Some(promise) };
        let lineage = Lineage::default().next(11).next(u64::MAX);
        let (cluster_id, refused) = (Some("c".into()), Some("an old = copy".into()));
        let identity =
            Identity { node_id: 7, cluster_id, name: "a = b".into(), pledge, generation: 2, lineage, refused };
        let text = encode(&identity);
        let path = Path::new("identity");
        assert_eq!(decode(path, text.as_bytes()).expect("decode"), identity);
        for at in 0..text.len() {
            let mut changed = text.clone().into_bytes();
            changed[at] ^= 1;
            assert!(decode(path, &changed).is_err(), "byte {at}");
            assert!(decode(path, &text.as_bytes()[..at]).is_err(), "cut at {at}");
        }
        let newer = text.replace("format-version = 1", "format-version = 2");
        assert!(matches!(decode(path, newer.as_bytes()), Err(IdentityError::NewerVersion { version: 2, .. })));
    }
}
