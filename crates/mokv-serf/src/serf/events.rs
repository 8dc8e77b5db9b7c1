//! Events: something that is told to all, once.

use std::time::Duration;

use bytes::Bytes;

use super::broadcasts::Kind;
use super::layer::Happened;
use super::output::Event;
use super::{SendError, Serf};
use crate::wire::Text;
use crate::wire::serf::{Message, UserEvent};

/// What an event may have, encoded: it has to fit into a packet beside other things.
pub const EVENT_BYTES_MAX: usize = 512;

impl Serf {
    /// Tells all, this node included. `coalesce` allows receivers to pass on only the last of several with this name.
    ///
    /// # Errors
    ///
    /// If it is too large; nothing was sent.
    pub fn user_event(&mut self, now: Duration, name: Text, payload: Bytes, coalesce: bool) -> Result<(), SendError> {
        let event = UserEvent { time: self.layer.event_clock.time(), name, payload, coalesce };
        let message = Message::UserEvent(event.clone()).encode();
        SendError::check(message.len(), EVENT_BYTES_MAX)?;
        self.hear_event(event);
        self.layer.broadcasts.push(Kind::Event, message);
        self.settle(now);
        Ok(())
    }

    /// Hears an event, and says whether others should.
    pub(super) fn hear_event(&mut self, event: UserEvent) -> bool {
        if !self.believe(|layer| &mut layer.event_clock, event.time) {
            return false;
        }
        let happened = Happened { name: event.name.clone(), payload: event.payload.clone() };
        let is_new = self.layer.events.admit(self.layer.event_clock.time(), event.time, happened);
        if is_new {
            self.emit(Some(Event::User(event)));
        }
        is_new
    }
}
