//! Bugs on purpose: each breaks one promise, and the simulator has to notice (`make mutants`).
//!
//! They exist only under `--cfg mokv_mutants`; otherwise `mutant!` is `false` and nothing of them is compiled. One at a
//! time is active, in one thread.

/// Whether this mutant is active. Stands where the bug would.
macro_rules! mutant {
    ($mutant:ident) => {{
        #[cfg(mokv_mutants)]
        let is_active = crate::mutants::is_active(crate::mutants::Mutant::$mutant);
        #[cfg(not(mokv_mutants))]
        let is_active = false;
        is_active
    }};
}
pub(crate) use mutant;

#[cfg(mokv_mutants)]
pub use active::{Mutant, activate, is_active};

#[cfg(mokv_mutants)]
mod active {
    use std::cell::Cell;

    macro_rules! mutants {
        ($($(#[doc = $doc:literal])+ $mutant:ident,)+) => {
            /// A bug.
            #[derive(Debug, Clone, Copy, PartialEq, Eq)]
            pub enum Mutant {
                $($(#[doc = $doc])+ $mutant,)+
            }

            impl Mutant {
                /// All of them.
                pub const ALL: &'static [Self] = &[$(Self::$mutant,)+];

                /// What is wrong.
                pub fn describe(self) -> &'static str {
                    match self {
                        $(Self::$mutant => concat!($($doc),+),)+
                    }
                }
            }
        };
    }

    mutants! {
        /// Log entries are acknowledged before they are synced.
        AcknowledgeBeforeSync,
        /// Entries are acknowledged while those before them wait for the sync (openraft #1960).
        FlushedOutOfOrder,
        /// The log is never synced.
        SkipLogSync,
        /// A vote is answered before it is on the disk.
        VoteBeforeSync,
        /// A new segment's name is not made durable.
        SegmentNameNotDurable,
        /// A file is renamed before its content is durable.
        RenameBeforeSync,
        /// A truncation of the log is not written.
        TruncationForgotten,
        /// A damaged record ends the log as an unfinished one would, whatever was durable behind it.
        DamageTakenForTornTail,
        /// A restarted leader leads on in its term.
        LeaderRestored,
        /// The leader takes a refused append for a match.
        ConflictTakenForMatch,
        /// A stream of appends is opened again without a pause.
        BusyRetry,
        /// A snapshot lacks the sessions' answers.
        SnapshotLosesAnswers,
        /// A snapshot that is received does not replace the sessions.
        SnapshotKeepsOldSessions,
        /// A session does not remember what it answered.
        SessionForgets,
        /// A write without a request id is sent again when its outcome is unknown.
        RetryWithoutId,
        /// A forwarded write whose stream broke is said to have failed.
        UnknownSaidToHaveFailed,
        /// A refusal of the last attempt hides the attempts before it.
        RefusalHidesAttempt,
        /// A linearizable read asks nobody.
        ReadWithoutIndex,
        /// The leader answers with a read index without asking a majority.
        ReadIndexUnconfirmed,
        /// A read joins a round that has begun before it.
        ReadJoinsRunningRound,
        /// A read does not wait until the node has applied the read index.
        ReadBeforeApply,
        /// A local read ignores the revision that it is to show.
        MinRevisionIgnored,
        /// A list shows the present rather than its revision.
        ListOfAnotherRevision,
        /// Deleting nothing takes a revision.
        NothingTakesRevision,
        /// A key that was deleted goes on with its old version.
        VersionLivesOn,
        /// A node that did not propose a batch applies its last command first.
        FollowersReorder,
        /// A call that is meant for another node is answered.
        EnvelopeIgnored,
        /// A change of the membership is taken for done before it is committed.
        MembershipUncommitted,
        /// A snapshot is asked for when there is nothing to take one of.
        SnapshotOfNothing,
        /// A log that has failed does not stop the node.
        LogFailureIgnored,
        /// Which start of a node it is that calls makes no difference.
        IncarnationIgnored,
        /// A start is not on the disk when others hear of it.
        StartBeforeSync,
        /// The first vote after a start is granted without asking anybody.
        FirstVoteUnasked,
        /// A write does not look at its condition.
        ConditionIgnored,
        /// A key ends before its deadline.
        ExpireEarly,
        /// The leader's log time passes twice as fast as real time.
        LogTimeRunsFast,
        /// A keep-alive is answered without asking a majority.
        KeepAliveUnconfirmed,
        /// A new leader does not renew the leases that it found.
        NewLeaderKeepsDeadlines,
        /// A local read ignores how old it may be.
        StaleReadServed,
        /// A node votes after a start as if it had never acknowledged a leader.
        LeaseForgotten,
        /// A transaction takes all its comparisons for true.
        TxnComparesNothing,
        /// A decision that leases are over is carried out whoever leads meanwhile.
        ExpiryOfAnotherTerm,
        /// A watch that waits does not see the change that wakes it.
        WatchSkipsRevision,
    }

    thread_local! {
        static ACTIVE: Cell<Option<Mutant>> = const { Cell::new(None) };
    }

    /// From now on this mutant, or none, is active in this thread.
    pub fn activate(mutant: Option<Mutant>) {
        ACTIVE.set(mutant);
    }

    /// Whether this mutant is active in this thread.
    pub fn is_active(mutant: Mutant) -> bool {
        ACTIVE.get() == Some(mutant)
    }
}
