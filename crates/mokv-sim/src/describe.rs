//! Messages in a few characters, for the trace.

use std::fmt::Write as _;

use mokv_proto::internal::{AppendRequest, AppendResponse, LogId, VoteRequest, VoteResponse, append_response};

fn log_id(id: Option<&LogId>) -> String {
    id.map_or_else(|| "-".to_owned(), |id| format!("{}.{}", id.term, id.index))
}

/// Entries by term and index, and what the leader says is committed.
pub(crate) fn append(request: &AppendRequest) -> String {
    let term = request.vote.as_ref().map_or(0, |vote| vote.term);
    let mut text = format!("append t{term} after {}", log_id(request.prev_log_id.as_ref()));
    if let (Some(first), Some(last)) = (request.entries.first(), request.entries.last()) {
        let _ = write!(text, " [{}..{}]", log_id(first.log_id.as_ref()), log_id(last.log_id.as_ref()));
    }
    let _ = write!(text, " committed {}", log_id(request.leader_commit.as_ref()));
    text
}

pub(crate) fn append_answer(answer: &AppendResponse) -> String {
    match &answer.result {
        Some(append_response::Result::Matched(matched)) => format!("matched {}", log_id(matched.log_id.as_ref())),
        Some(append_response::Result::Conflict(at)) => format!("conflict {}", log_id(Some(at))),
        Some(append_response::Result::HigherVote(vote)) => format!("higher vote t{}", vote.term),
        None => "nothing".into(),
    }
}

pub(crate) fn vote(request: &VoteRequest, answer: &VoteResponse) -> String {
    let what = if request.pre_vote { "pre-vote" } else { "vote" };
    let term = request.vote.as_ref().map_or(0, |vote| vote.term);
    format!("{what} t{term} at {} granted {}", log_id(request.last_log_id.as_ref()), answer.granted)
}
