//! What is left to be removed of a stream that was deleted.
//!
//! ```text
//! doomed = 1 u8 | chains at first u32 | count u32 | chain u32...
//! ```

use bytes::{BufMut, Bytes, BytesMut};

use super::Damaged;
use super::wire::Fields;
use crate::ChainId;

const FORMAT: u8 = 1;

/// See the top of the file.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Doomed {
    pub chains_at_first: u32,
    /// Those whose nodes may be there still.
    pub chains: Vec<ChainId>,
}

impl Doomed {
    pub fn encode(&self) -> Bytes {
        let mut out = BytesMut::with_capacity(9 + self.chains.len() * 4);
        out.put_u8(FORMAT);
        out.put_u32(self.chains_at_first);
        out.put_u32(u32::try_from(self.chains.len()).expect("chains are counted in 32 bits"));
        self.chains.iter().for_each(|chain| out.put_u32(chain.0));
        out.freeze()
    }

    pub fn decode(bytes: &Bytes) -> Result<Self, Damaged> {
        let mut fields = Fields::new("a deleted stream", FORMAT, bytes)?;
        let chains_at_first = fields.u32()?;
        let mut chains = Vec::new();
        for _ in 0..fields.u32()? {
            chains.push(ChainId(fields.u32()?));
        }
        fields.end()?;
        Ok(Self {
            chains_at_first,
            chains,
        })
    }
}
