//! What hosts say to each other over a connection, as bytes.
//!
//! ```text
//!   forward  = 1 'F' stream chain? stamp origin? hosts chains events      promise = 1 'Q' host stream stamp
//!   answer   = 1 'K' positions | 1 'S' stamp | 1 'R' text | 1 'U' text
//! ```
//! Numbers are big-endian; texts, lists and bodies have their length before them as a `u32`.

use bytes::{BufMut, Bytes, BytesMut};

use super::{Forward, ForwardedEvent, PeerChain, PeerError, PeerHost, PromiseRequest};
use crate::record::wire::{Damaged, Fields, put_text};
use crate::{ChainId, EventId, HostId, Position, Stamp, StreamId};

const FORMAT: u8 = 1;
/// Most hosts, chains or events that one message lists.
const LISTED_MAX: usize = 65_536;

/// What one host asks of another.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Question {
    Forward(Forward),
    Promise(PromiseRequest),
}

/// What it is answered.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Answer {
    /// The events are stored at these positions.
    Stored(Vec<Position>),
    Promised(Stamp),
    Refused(String),
    Unknown(String),
}

/// Bytes that are no message of this protocol, or of one that this build does not know.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{0}")]
pub struct InvalidMessage(String);

impl From<Damaged> for InvalidMessage {
    fn from(damaged: Damaged) -> Self {
        Self(damaged.to_string())
    }
}

impl From<Result<Vec<Position>, PeerError>> for Answer {
    fn from(outcome: Result<Vec<Position>, PeerError>) -> Self {
        outcome.map_or_else(Self::failed, Self::Stored)
    }
}

impl From<Result<Stamp, PeerError>> for Answer {
    fn from(outcome: Result<Stamp, PeerError>) -> Self {
        outcome.map_or_else(Self::failed, Self::Promised)
    }
}

impl Answer {
    fn failed(error: PeerError) -> Self {
        match error {
            PeerError::Refused(reason) | PeerError::Unreachable(reason) => Self::Refused(reason),
            PeerError::Unknown(reason) => Self::Unknown(reason),
        }
    }

    pub fn encode(&self) -> Bytes {
        let mut out = BytesMut::new();
        out.put_u8(FORMAT);
        match self {
            Self::Stored(positions) => {
                out.put_u8(b'K');
                put_length(positions.len(), &mut out);
                positions
                    .iter()
                    .for_each(|position| out.put_slice(&position.to_bytes()));
            }
            Self::Promised(stamp) => {
                out.put_u8(b'S');
                out.put_u64(stamp.0);
            }
            Self::Refused(reason) => {
                out.put_u8(b'R');
                put_text(reason, &mut out);
            }
            Self::Unknown(reason) => {
                out.put_u8(b'U');
                put_text(reason, &mut out);
            }
        }
        out.freeze()
    }

    /// Reads what [`Answer::encode`] wrote; total.
    pub fn decode(bytes: &Bytes) -> Result<Self, InvalidMessage> {
        let mut fields = Fields::new("answer of a host", FORMAT, bytes)?;
        let answer = match fields.u8()? {
            b'K' => Self::Stored(list(&mut fields, |fields| {
                Ok(Position::from_bytes(&fields.array::<{ Position::BYTES }>()?))
            })?),
            b'S' => Self::Promised(Stamp(fields.u64()?)),
            b'R' => Self::Refused(fields.text()?),
            b'U' => Self::Unknown(fields.text()?),
            _ => return Err(fields.malformed().into()),
        };
        fields.end()?;
        Ok(answer)
    }
}

impl Question {
    pub fn encode(&self) -> Bytes {
        let mut out = BytesMut::new();
        out.put_u8(FORMAT);
        match self {
            Self::Forward(forward) => {
                out.put_u8(b'F');
                put_forward(forward, &mut out);
            }
            Self::Promise(request) => {
                out.put_u8(b'Q');
                out.put_u64(request.host.0);
                put_text(&request.stream.to_string(), &mut out);
                out.put_u64(request.stamp.0);
            }
        }
        out.freeze()
    }

    /// Reads what [`Question::encode`] wrote; total.
    pub fn decode(bytes: &Bytes) -> Result<Self, InvalidMessage> {
        let mut fields = Fields::new("question of a host", FORMAT, bytes)?;
        let question = match fields.u8()? {
            b'F' => Self::Forward(forward(&mut fields)?),
            b'Q' => Self::Promise(PromiseRequest {
                host: HostId(fields.u64()?),
                stream: stream(&mut fields)?,
                stamp: Stamp(fields.u64()?),
            }),
            _ => return Err(fields.malformed().into()),
        };
        fields.end()?;
        Ok(question)
    }
}

fn put_forward(forward: &Forward, out: &mut BytesMut) {
    put_text(&forward.stream.to_string(), out);
    put_optional(forward.chain.map(|chain| u64::from(chain.0)), out);
    out.put_u64(forward.stamp.0);
    put_optional(forward.origin.map(|origin| origin.0), out);
    put_length(forward.hosts.len(), out);
    for host in &forward.hosts {
        out.put_u64(host.id.0);
        put_text(&host.address, out);
    }
    put_length(forward.chains.len(), out);
    for chain in &forward.chains {
        out.put_u32(chain.id.0);
        out.put_u64(chain.owner.0);
    }
    put_length(forward.events.len(), out);
    for event in &forward.events {
        out.put_slice(&event.id.0);
        out.put_u8(u8::from(event.is_given));
        put_optional(event.key.as_ref().map(|key| key.len() as u64), out);
        out.put_slice(event.key.as_deref().unwrap_or_default());
        put_length(event.body.len(), out);
        out.put_slice(&event.body);
    }
}

fn forward(fields: &mut Fields<'_>) -> Result<Forward, InvalidMessage> {
    let stream = stream(fields)?;
    let chain = optional(fields)?;
    let chain = chain.map(u32::try_from).transpose().map_err(|_| fields.malformed())?;
    Ok(Forward {
        stream,
        chain: chain.map(ChainId),
        stamp: Stamp(fields.u64()?),
        origin: optional(fields)?.map(Stamp),
        hosts: list(fields, |fields| {
            let id = HostId(fields.u64()?);
            let address = fields.text()?;
            Ok(PeerHost { id, address })
        })?,
        chains: list(fields, |fields| {
            let id = ChainId(fields.u32()?);
            let owner = HostId(fields.u64()?);
            Ok(PeerChain { id, owner })
        })?,
        events: list(fields, event)?,
    })
}

fn event(fields: &mut Fields<'_>) -> Result<ForwardedEvent, Damaged> {
    let id = EventId(fields.array()?);
    let is_given = match fields.u8()? {
        0 => false,
        1 => true,
        _ => return Err(fields.malformed()),
    };
    let key = match optional(fields)? {
        None => None,
        Some(length) => {
            let length = usize::try_from(length).map_err(|_| fields.malformed())?;
            Some(fields.take(length)?)
        }
    };
    let length = fields.u32()? as usize;
    let body = fields.take(length)?;
    Ok(ForwardedEvent {
        id,
        is_given,
        key,
        body,
    })
}

fn stream(fields: &mut Fields<'_>) -> Result<StreamId, InvalidMessage> {
    fields
        .text()?
        .parse()
        .map_err(|error: crate::InvalidStreamId| InvalidMessage(error.to_string()))
}

fn list<T>(
    fields: &mut Fields<'_>,
    mut item: impl FnMut(&mut Fields<'_>) -> Result<T, Damaged>,
) -> Result<Vec<T>, Damaged> {
    let length = fields.u32()? as usize;
    if length > LISTED_MAX {
        return Err(fields.malformed());
    }
    (0..length).map(|_| item(fields)).collect()
}

fn put_length(length: usize, out: &mut BytesMut) {
    out.put_u32(u32::try_from(length).expect("messages are far smaller than 4 GiB"));
}

fn put_optional(value: Option<u64>, out: &mut BytesMut) {
    out.put_u8(u8::from(value.is_some()));
    if let Some(value) = value {
        out.put_u64(value);
    }
}

fn optional(fields: &mut Fields<'_>) -> Result<Option<u64>, Damaged> {
    match fields.u8()? {
        0 => Ok(None),
        1 => fields.u64().map(Some),
        _ => Err(fields.malformed()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn questions() -> Vec<Question> {
        let stream: StreamId = "orders~4".parse().expect("a good identifier");
        let event = |key: Option<&'static str>| ForwardedEvent {
            id: EventId([7; 16]),
            is_given: key.is_some(),
            key: key.map(Bytes::from),
            body: Bytes::from_static(b"body"),
        };
        let full = Forward {
            stream: stream.clone(),
            events: vec![event(None), event(Some("")), event(Some("ada"))],
            hosts: vec![PeerHost {
                id: HostId(3),
                address: "127.0.0.1:9".to_owned(),
            }],
            chains: vec![PeerChain {
                id: ChainId(5),
                owner: HostId(3),
            }],
            chain: Some(ChainId(5)),
            stamp: Stamp(9),
            origin: Some(Stamp(8)),
        };
        let bare = Forward {
            events: Vec::new(),
            chain: None,
            origin: None,
            ..full.clone()
        };
        let promise = PromiseRequest {
            host: HostId(3),
            stream,
            stamp: Stamp(u64::MAX),
        };
        vec![
            Question::Forward(full),
            Question::Forward(bare),
            Question::Promise(promise),
        ]
    }

    #[test]
    fn questions_and_answers_come_back() {
        for question in questions() {
            assert_eq!(Question::decode(&question.encode()), Ok(question));
        }
        for answer in [
            Answer::Stored(vec![Position::START, Position::before(Stamp(4))]),
            Answer::Promised(Stamp(4)),
            Answer::Refused("no".to_owned()),
            Answer::Unknown(String::new()),
        ] {
            assert_eq!(Answer::decode(&answer.encode()), Ok(answer));
        }
    }

    #[test]
    fn what_is_cut_off_or_too_long_is_refused() {
        for question in questions() {
            let whole = question.encode();
            for length in 0..whole.len() {
                assert!(
                    Question::decode(&whole.slice(..length)).is_err(),
                    "{length} bytes of {question:?}"
                );
            }
            let longer = [&whole[..], b"x"].concat();
            assert!(Question::decode(&longer.into()).is_err());
        }
        let newer = Question::decode(&Bytes::from_static(b"\x02Q"));
        assert!(newer.is_err_and(|error| error.to_string().contains("newer build")));
    }
}
