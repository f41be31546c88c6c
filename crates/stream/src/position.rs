//! The order key of an event: which of any two events of a stream comes first.

use std::fmt;
use std::str::FromStr;

use bowline_foundation::clock::Timestamp;

/// A hybrid logical time: 52 bits of microseconds since the Unix epoch, 12 bits that count within one.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Stamp(pub u64);

impl Stamp {
    const LOGICAL_BITS: u32 = 12;

    /// The first stamp of a moment on the wall clock.
    pub const fn of(moment: Timestamp) -> Self {
        Self(moment.as_micros() << Self::LOGICAL_BITS)
    }

    /// The moment on the wall clock, rounded down to a microsecond.
    pub const fn moment(self) -> Timestamp {
        Timestamp::from_micros(self.0 >> Self::LOGICAL_BITS)
    }

    /// The next later stamp.
    pub const fn next(self) -> Self {
        Self(self.0 + 1)
    }
}

/// A host: one running node process, never the same after a restart; from 1.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct HostId(pub u64);

/// A chain of one stream; from 1.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct ChainId(pub u32);

/// A place in a stream's order: that of an event, or a bound between events.
///
/// Ordered by stamp, host, chain and index. An event's position never changes once the event is
/// acknowledged. As a bound it means "after everything up to here", so [`Position::START`] comes before
/// every event, and [`Position::before`] before every event of a moment.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Position {
    pub stamp: Stamp,
    pub host: HostId,
    pub chain: ChainId,
    /// The event's number within its chain, from 0.
    pub index: u64,
}

/// Text that is not 56 hexadecimal digits.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("position `{0}` is not 56 hexadecimal digits")]
pub struct InvalidPosition(String);

impl Position {
    /// Bytes of the binary form, which sorts as positions do.
    pub const BYTES: usize = 28;
    /// The bound before every event.
    pub const START: Self = Self::before(Stamp(0));

    /// The bound before every event with this stamp or a later one.
    pub const fn before(stamp: Stamp) -> Self {
        Self {
            stamp,
            host: HostId(0),
            chain: ChainId(0),
            index: 0,
        }
    }

    /// The binary form: the four fields in order, big-endian.
    pub fn to_bytes(self) -> [u8; Self::BYTES] {
        let mut bytes = [0; Self::BYTES];
        bytes[..8].copy_from_slice(&self.stamp.0.to_be_bytes());
        bytes[8..16].copy_from_slice(&self.host.0.to_be_bytes());
        bytes[16..20].copy_from_slice(&self.chain.0.to_be_bytes());
        bytes[20..].copy_from_slice(&self.index.to_be_bytes());
        bytes
    }

    /// Reads the binary form.
    pub fn from_bytes(bytes: &[u8; Self::BYTES]) -> Self {
        let u64_at = |at: usize| u64::from_be_bytes(bytes[at..at + 8].try_into().expect("eight bytes"));
        Self {
            stamp: Stamp(u64_at(0)),
            host: HostId(u64_at(8)),
            chain: ChainId(u32::from_be_bytes(bytes[16..20].try_into().expect("four bytes"))),
            index: u64_at(20),
        }
    }
}

impl fmt::Display for Position {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        const DIGITS: &[u8; 16] = b"0123456789abcdef";
        let mut text = [0; 2 * Self::BYTES];
        for (pair, byte) in text.chunks_exact_mut(2).zip(self.to_bytes()) {
            pair.copy_from_slice(&[byte >> 4, byte & 15].map(|half| DIGITS[usize::from(half)]));
        }
        f.write_str(str::from_utf8(&text).expect("digits are ASCII"))
    }
}

impl FromStr for Position {
    type Err = InvalidPosition;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let invalid = || InvalidPosition(text.chars().take(80).collect());
        if text.len() != 2 * Self::BYTES || !text.bytes().all(|byte| byte.is_ascii_hexdigit()) {
            return Err(invalid());
        }
        let mut bytes = [0; Self::BYTES];
        for (at, byte) in bytes.iter_mut().enumerate() {
            *byte = u8::from_str_radix(&text[2 * at..2 * at + 2], 16).map_err(|_| invalid())?;
        }
        Ok(Self::from_bytes(&bytes))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn position(stamp: u64, host: u64, chain: u32, index: u64) -> Position {
        Position {
            stamp: Stamp(stamp),
            host: HostId(host),
            chain: ChainId(chain),
            index,
        }
    }

    #[test]
    fn order_goes_by_stamp_then_host_then_chain_then_index() {
        let ascending = [
            Position::START,
            position(1, 9, 9, 9),
            Position::before(Stamp(2)),
            position(2, 1, 9, 9),
            position(2, 2, 1, 9),
            position(2, 2, 2, 0),
            position(2, 2, 2, 1),
        ];
        assert!(ascending.is_sorted());
        assert!(ascending.map(Position::to_bytes).is_sorted());
        assert!(ascending.map(|position| position.to_string()).is_sorted());
    }

    #[test]
    fn text_and_bytes_come_back() {
        let place = position(u64::MAX, 1 << 40, 7, 3);
        assert_eq!(Position::from_bytes(&place.to_bytes()), place);
        assert_eq!(place.to_string().parse(), Ok(place));
        for bad in ["", "0", &"g".repeat(56), &"0".repeat(57), &"é".repeat(28)] {
            assert!(bad.parse::<Position>().is_err(), "{bad}");
        }
    }
}
