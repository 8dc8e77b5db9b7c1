//! Messages as bytes: a byte for the type, then a struct (serf/messages.go). Keys are written in the order of their bytes.

use std::collections::BTreeMap;
use std::net::IpAddr;

use bytes::Bytes;

use super::tags::{read_tags, write_tags};
use super::{
    EventsAt, Filter, JoinIntent, KeyResponse, LeaveIntent, Member, Message, PushPull, Query, QueryResponse, Relay,
    Tags, UserEvent,
};
use crate::wire::Text;
use crate::wire::msgpack::{DecodeError, Reader, Writer};

const LEAVE: u8 = 0;
const JOIN: u8 = 1;
const PUSH_PULL: u8 = 2;
const USER_EVENT: u8 = 3;
const QUERY: u8 = 4;
const QUERY_RESPONSE: u8 = 5;
const CONFLICT_RESPONSE: u8 = 6;
const KEY_REQUEST: u8 = 7;
const KEY_RESPONSE: u8 = 8;
const RELAY: u8 = 9;

const FILTER_NODES: u8 = 0;
const FILTER_TAG: u8 = 1;

/// Values in a message. A whole state has two for each node and five for each event; what they become in memory is
/// bounded by this, at less than 100 bytes each.
const VALUES_MAX: usize = 1 << 20;

impl Message {
    /// The type and the message.
    pub fn encode(&self) -> Bytes {
        match self {
            Self::Leave(leave) => {
                let writer = Writer::new(LEAVE).map(3).key("LTime").uint(leave.time);
                writer.key("Node").text(&leave.node).key("Prune").bool(leave.prune).finish()
            }
            Self::Join(join) => {
                Writer::new(JOIN).map(2).key("LTime").uint(join.time).key("Node").text(&join.node).finish()
            }
            Self::PushPull(state) => encode_push_pull(state),
            Self::UserEvent(event) => encode_user_event(event),
            Self::Query(query) => encode_query(query),
            Self::QueryResponse(response) => encode_query_response(response),
            Self::ConflictResponse(None) => Writer::new(CONFLICT_RESPONSE).nil().finish(),
            Self::ConflictResponse(Some(member)) => encode_member(member),
            // To list the keys, Serf sends an empty one rather than none.
            Self::KeyRequest(key) => Writer::new(KEY_REQUEST).map(1).key("Key").text(&Text::from(key.clone())).finish(),
            Self::KeyResponse(response) => encode_key_response(response),
            Self::Relay(relay) => encode_relay(relay),
        }
    }

    /// The message in these bytes. What follows it is not looked at.
    pub fn decode(bytes: &[u8]) -> Result<Self, DecodeError> {
        let (&message_type, body) = bytes.split_first().ok_or(DecodeError::Truncated)?;
        let reader = &mut Reader::new(body, VALUES_MAX);
        match message_type {
            LEAVE => decode_leave(reader).map(Self::Leave),
            JOIN => decode_leave(reader).map(|LeaveIntent { time, node, .. }| Self::Join(JoinIntent { time, node })),
            PUSH_PULL => decode_push_pull(reader).map(Self::PushPull),
            USER_EVENT => decode_user_event(reader).map(Self::UserEvent),
            QUERY => decode_query(reader).map(Self::Query),
            QUERY_RESPONSE => decode_query_response(reader).map(Self::QueryResponse),
            CONFLICT_RESPONSE if reader.nil()? => Ok(Self::ConflictResponse(None)),
            CONFLICT_RESPONSE => decode_member(reader).map(|member| Self::ConflictResponse(Some(member))),
            KEY_REQUEST => decode_key_request(reader).map(Self::KeyRequest),
            KEY_RESPONSE => decode_key_response(reader).map(Self::KeyResponse),
            RELAY => decode_relay(reader).map(Self::Relay),
            _ => Err(DecodeError::UnknownType(message_type)),
        }
    }
}

fn decode_leave(reader: &mut Reader<'_>) -> Result<LeaveIntent, DecodeError> {
    let mut leave = LeaveIntent { time: 0, node: Text::default(), prune: false };
    reader.fields(|key, reader| {
        match key {
            b"LTime" => leave.time = reader.uint()?,
            b"Node" => leave.node = reader.text()?,
            b"Prune" => leave.prune = reader.bool()?,
            _ => reader.skip()?,
        }
        Ok(())
    })?;
    Ok(leave)
}

fn encode_push_pull(state: &PushPull) -> Bytes {
    let writer = Writer::new(PUSH_PULL).map(6).key("EventLTime").uint(state.event_time);
    let writer = writer.key("Events").array(state.events.len()).each(&state.events, encode_events_at);
    let writer = writer.key("LTime").uint(state.time).key("LeftMembers").array(state.left_members.len());
    let writer = writer.each(&state.left_members, Writer::text).key("QueryLTime").uint(state.query_time);
    let writer = writer.key("StatusLTimes").map(state.status_times.len());
    writer.each(&state.status_times, |writer, (node, time)| writer.text(node).uint(*time)).finish()
}

fn encode_events_at(writer: Writer, slot: &EventsAt) -> Writer {
    let writer = writer.map(2).key("Events").array(slot.events.len());
    let writer = writer.each(&slot.events, |writer, (name, payload)| {
        writer.map(2).key("Name").text(name).key("Payload").bytes(payload)
    });
    writer.key("LTime").uint(slot.time)
}

fn decode_push_pull(reader: &mut Reader<'_>) -> Result<PushPull, DecodeError> {
    let mut state = PushPull::default();
    reader.fields(|key, reader| {
        match key {
            b"EventLTime" => state.event_time = reader.uint()?,
            b"Events" => state.events = decode_slots(reader)?,
            b"LTime" => state.time = reader.uint()?,
            b"LeftMembers" => state.left_members = decode_texts(reader)?,
            b"QueryLTime" => state.query_time = reader.uint()?,
            b"StatusLTimes" => state.status_times = decode_times(reader)?,
            _ => reader.skip()?,
        }
        Ok(())
    })?;
    Ok(state)
}

/// The slots of Go's ring of events, most of which are nil.
fn decode_slots(reader: &mut Reader<'_>) -> Result<Vec<EventsAt>, DecodeError> {
    let mut slots = Vec::new();
    reader.elements(|reader| {
        if reader.nil()? {
            return Ok(());
        }
        let mut slot = EventsAt { time: 0, events: Vec::new() };
        reader.fields(|key, reader| {
            match key {
                b"Events" => slot.events = decode_events(reader)?,
                b"LTime" => slot.time = reader.uint()?,
                _ => reader.skip()?,
            }
            Ok(())
        })?;
        slots.push(slot);
        Ok(())
    })?;
    Ok(slots)
}

fn decode_events(reader: &mut Reader<'_>) -> Result<Vec<(Text, Bytes)>, DecodeError> {
    let mut events = Vec::new();
    reader.elements(|reader| {
        let (mut name, mut payload) = (Text::default(), Bytes::new());
        reader.fields(|key, reader| {
            match key {
                b"Name" => name = reader.text()?,
                b"Payload" => payload = reader.owned_bytes()?,
                _ => reader.skip()?,
            }
            Ok(())
        })?;
        events.push((name, payload));
        Ok(())
    })?;
    Ok(events)
}

fn decode_times(reader: &mut Reader<'_>) -> Result<BTreeMap<Text, u64>, DecodeError> {
    let mut times = BTreeMap::new();
    for _ in 0..reader.map()? {
        times.insert(reader.text()?, reader.uint()?);
    }
    Ok(times)
}

fn decode_texts(reader: &mut Reader<'_>) -> Result<Vec<Text>, DecodeError> {
    let mut texts = Vec::new();
    reader.elements(|reader| {
        texts.push(reader.text()?);
        Ok(())
    })?;
    Ok(texts)
}

fn encode_user_event(event: &UserEvent) -> Bytes {
    let writer = Writer::new(USER_EVENT).map(4).key("CC").bool(event.coalesce).key("LTime").uint(event.time);
    writer.key("Name").text(&event.name).key("Payload").bytes(&event.payload).finish()
}

fn decode_user_event(reader: &mut Reader<'_>) -> Result<UserEvent, DecodeError> {
    let mut event = UserEvent { time: 0, name: Text::default(), payload: Bytes::new(), coalesce: false };
    reader.fields(|key, reader| {
        match key {
            b"CC" => event.coalesce = reader.bool()?,
            b"LTime" => event.time = reader.uint()?,
            b"Name" => event.name = reader.text()?,
            b"Payload" => event.payload = reader.owned_bytes()?,
            _ => reader.skip()?,
        }
        Ok(())
    })?;
    Ok(event)
}

fn encode_query(query: &Query) -> Bytes {
    let writer = Writer::new(QUERY).map(11).key("Addr").addr(query.addr).key("Filters");
    let writer = match query.filters.len() {
        0 => writer.nil(),
        length => writer.array(length),
    };
    let writer = writer.each(&query.filters, |writer, filter| writer.bytes(&encode_filter(filter)));
    let writer = writer.key("Flags").uint(query.flags).key("ID").uint(query.id).key("LTime").uint(query.time);
    let writer = writer.key("Name").text(&query.name).key("Payload").bytes(&query.payload);
    let writer = writer.key("Port").uint(query.port).key("RelayFactor").uint(query.relay_factor);
    writer.key("SourceNode").text(&query.source_node).key("Timeout").int(query.timeout).finish()
}

fn decode_query(reader: &mut Reader<'_>) -> Result<Query, DecodeError> {
    let (mut time, mut id, mut addr, mut port, mut source_node) = (0, 0, None, 0, Text::default());
    let (mut filters, mut flags, mut relay_factor, mut timeout) = (Vec::new(), 0, 0, 0);
    let (mut name, mut payload) = (Text::default(), Bytes::new());
    reader.fields(|key, reader| {
        match key {
            b"Addr" => addr = reader.addr()?,
            b"Filters" => filters = decode_filters(reader)?,
            b"Flags" => flags = reader.uint()?,
            b"ID" => id = reader.uint()?,
            b"LTime" => time = reader.uint()?,
            b"Name" => name = reader.text()?,
            b"Payload" => payload = reader.owned_bytes()?,
            b"Port" => port = reader.uint()?,
            b"RelayFactor" => relay_factor = reader.uint()?,
            b"SourceNode" => source_node = reader.text()?,
            b"Timeout" => timeout = reader.int()?,
            _ => reader.skip()?,
        }
        Ok(())
    })?;
    let addr = addr.ok_or(DecodeError::Address(0))?;
    Ok(Query { time, id, addr, port, source_node, filters, flags, relay_factor, timeout, name, payload })
}

fn encode_filter(filter: &Filter) -> Bytes {
    match filter {
        Filter::Nodes(nodes) => Writer::new(FILTER_NODES).array(nodes.len()).each(nodes, Writer::text).finish(),
        Filter::Tag { tag, expr } => {
            Writer::new(FILTER_TAG).map(2).key("Expr").text(expr).key("Tag").text(tag).finish()
        }
        Filter::Unknown(bytes) => bytes.clone(),
    }
}

fn decode_filters(reader: &mut Reader<'_>) -> Result<Vec<Filter>, DecodeError> {
    let mut filters = Vec::new();
    reader.elements(|reader| {
        let bytes = reader.owned_bytes()?;
        filters.push(decode_filter(&bytes).unwrap_or(Filter::Unknown(bytes)));
        Ok(())
    })?;
    Ok(filters)
}

fn decode_filter(bytes: &[u8]) -> Option<Filter> {
    let (&filter_type, body) = bytes.split_first()?;
    let reader = &mut Reader::new(body, VALUES_MAX);
    match filter_type {
        FILTER_NODES => decode_texts(reader).ok().map(Filter::Nodes),
        FILTER_TAG => {
            let (mut tag, mut expr) = (Text::default(), Text::default());
            let decoded = reader.fields(|key, reader| {
                match key {
                    b"Expr" => expr = reader.text()?,
                    b"Tag" => tag = reader.text()?,
                    _ => reader.skip()?,
                }
                Ok(())
            });
            decoded.ok().map(|()| Filter::Tag { tag, expr })
        }
        _ => None,
    }
}

fn encode_query_response(response: &QueryResponse) -> Bytes {
    let writer = Writer::new(QUERY_RESPONSE).map(5).key("Flags").uint(response.flags);
    let writer = writer.key("From").text(&response.from).key("ID").uint(response.id);
    writer.key("LTime").uint(response.time).key("Payload").bytes(&response.payload).finish()
}

fn decode_query_response(reader: &mut Reader<'_>) -> Result<QueryResponse, DecodeError> {
    let mut response = QueryResponse { time: 0, id: 0, from: Text::default(), flags: 0, payload: Bytes::new() };
    reader.fields(|key, reader| {
        match key {
            b"Flags" => response.flags = reader.uint()?,
            b"From" => response.from = reader.text()?,
            b"ID" => response.id = reader.uint()?,
            b"LTime" => response.time = reader.uint()?,
            b"Payload" => response.payload = reader.owned_bytes()?,
            _ => reader.skip()?,
        }
        Ok(())
    })?;
    Ok(response)
}

fn encode_member(member: &Member) -> Bytes {
    let [delegate_min, delegate_max, delegate] = member.delegate;
    let [protocol_min, protocol_max, protocol] = member.protocol;
    let writer = Writer::new(CONFLICT_RESPONSE).map(11).key("Addr").addr(member.addr);
    let writer = writer.key("DelegateCur").uint(delegate).key("DelegateMax").uint(delegate_max);
    let writer = writer.key("DelegateMin").uint(delegate_min).key("Name").text(&member.name);
    let writer = writer.key("Port").uint(member.port).key("ProtocolCur").uint(protocol);
    let writer = writer.key("ProtocolMax").uint(protocol_max).key("ProtocolMin").uint(protocol_min);
    write_tags(writer.key("Status").uint(member.status).key("Tags"), &member.tags).finish()
}

fn decode_member(reader: &mut Reader<'_>) -> Result<Member, DecodeError> {
    let (mut name, mut addr, mut port, mut tags, mut status) = (Text::default(), None, 0, Tags::new(), 0);
    let ([mut protocol_min, mut protocol_max, mut protocol], [mut delegate_min, mut delegate_max, mut delegate]) =
        ([0; 3], [0; 3]);
    reader.fields(|key, reader| {
        match key {
            b"Addr" => addr = reader.addr()?,
            b"DelegateCur" => delegate = reader.uint()?,
            b"DelegateMax" => delegate_max = reader.uint()?,
            b"DelegateMin" => delegate_min = reader.uint()?,
            b"Name" => name = reader.text()?,
            b"Port" => port = reader.uint()?,
            b"ProtocolCur" => protocol = reader.uint()?,
            b"ProtocolMax" => protocol_max = reader.uint()?,
            b"ProtocolMin" => protocol_min = reader.uint()?,
            b"Status" => status = reader.uint()?,
            b"Tags" => tags = read_tags(reader)?,
            _ => reader.skip()?,
        }
        Ok(())
    })?;
    let addr = addr.ok_or(DecodeError::Address(0))?;
    let (protocol, delegate) = ([protocol_min, protocol_max, protocol], [delegate_min, delegate_max, delegate]);
    Ok(Member { name, addr, port, tags, status, protocol, delegate })
}

fn decode_key_request(reader: &mut Reader<'_>) -> Result<Bytes, DecodeError> {
    let mut request = Bytes::new();
    reader.fields(|key, reader| {
        match key {
            b"Key" => request = reader.owned_bytes()?,
            _ => reader.skip()?,
        }
        Ok(())
    })?;
    Ok(request)
}

fn encode_key_response(response: &KeyResponse) -> Bytes {
    let writer = Writer::new(KEY_RESPONSE).map(4).key("Keys").array(response.keys.len());
    let writer = writer.each(&response.keys, Writer::text).key("Message").text(&response.message);
    writer.key("PrimaryKey").text(&response.primary_key).key("Result").bool(response.result).finish()
}

fn decode_key_response(reader: &mut Reader<'_>) -> Result<KeyResponse, DecodeError> {
    let (mut result, mut keys) = (false, Vec::new());
    let (mut message, mut primary_key) = (Text::default(), Text::default());
    reader.fields(|key, reader| {
        match key {
            b"Keys" => keys = decode_texts(reader)?,
            b"Message" => message = reader.text()?,
            b"PrimaryKey" => primary_key = reader.text()?,
            b"Result" => result = reader.bool()?,
            _ => reader.skip()?,
        }
        Ok(())
    })?;
    Ok(KeyResponse { result, message, keys, primary_key })
}

/// A header with Go's `net.UDPAddr`, and behind it the message that is sent on.
fn encode_relay(relay: &Relay) -> Bytes {
    let writer = Writer::new(RELAY).map(2).key("DestAddr").map(3).key("IP").addr(relay.addr);
    let writer = writer.key("Port").uint(relay.port).key("Zone").text(&Text::default());
    writer.key("DestName").text(&relay.node).raw(&relay.message).finish()
}

fn decode_relay(reader: &mut Reader<'_>) -> Result<Relay, DecodeError> {
    let (mut destination, mut node): ((Option<IpAddr>, u16), Text) = ((None, 0), Text::default());
    reader.fields(|key, reader| {
        match key {
            b"DestAddr" => destination = decode_destination(reader)?,
            b"DestName" => node = reader.text()?,
            _ => reader.skip()?,
        }
        Ok(())
    })?;
    let (addr, port) = destination;
    let addr = addr.ok_or(DecodeError::Address(0))?;
    Ok(Relay { addr, port, node, message: Bytes::copy_from_slice(reader.rest()) })
}

fn decode_destination(reader: &mut Reader<'_>) -> Result<(Option<IpAddr>, u16), DecodeError> {
    let (mut addr, mut port) = (None, 0);
    reader.fields(|key, reader| {
        match key {
            b"IP" => addr = reader.addr()?,
            b"Port" => port = reader.uint()?,
            _ => reader.skip()?,
        }
        Ok(())
    })?;
    Ok((addr, port))
}
