//! [`KeyRange`]: which keys a call is about.

use mokv_proto::api::{CountRequest, DeleteRangeRequest, ListRequest};

/// Some of the keys: those with a prefix, at or after a start, before an end. Keys are in the order of their bytes.
///
/// ```
/// use mokv_client::KeyRange;
///
/// let users = KeyRange::prefix("users/");
/// let second_page = KeyRange::prefix("users/").after("users/m");
/// let half = KeyRange::all().from("a").before("n");
/// # drop((users, second_page, half));
/// ```
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct KeyRange {
    pub(crate) prefix: String,
    pub(crate) start: String,
    pub(crate) end: String,
}

impl KeyRange {
    /// Every key.
    pub fn all() -> Self {
        Self::default()
    }

    /// The keys that begin with this.
    pub fn prefix(prefix: impl Into<String>) -> Self {
        Self { prefix: prefix.into(), ..Self::default() }
    }

    /// Of these keys, those at or after `start`.
    #[must_use]
    pub fn from(self, start: impl Into<String>) -> Self {
        Self { start: start.into(), ..self }
    }

    /// Of these keys, those after `key`: the next page.
    #[must_use]
    pub fn after(self, key: impl Into<String>) -> Self {
        // The key that comes next in the order of the bytes, whether there is such a key or not.
        let mut start = key.into();
        start.push('\0');
        Self { start, ..self }
    }

    /// Of these keys, those before `end`; an empty one is no bound.
    #[must_use]
    pub fn before(self, end: impl Into<String>) -> Self {
        Self { end: end.into(), ..self }
    }

    pub(crate) fn to_list(&self) -> ListRequest {
        let Self { prefix, start, end } = self.clone();
        ListRequest { prefix, start, end, ..ListRequest::default() }
    }

    pub(crate) fn into_count(self) -> CountRequest {
        CountRequest { prefix: self.prefix, start: self.start, end: self.end, ..CountRequest::default() }
    }

    pub(crate) fn into_delete(self) -> DeleteRangeRequest {
        let all = self == Self::all();
        DeleteRangeRequest { prefix: self.prefix, start: self.start, end: self.end, all, request_id: None }
    }
}
