//! What goes into a handler and what comes out.

use crate::context::Context;
use crate::error::Error;

/// An event with its circumstances; valid during one invocation.
#[derive(Clone, Copy, Debug)]
pub struct Event<'a> {
    pub(crate) payload: &'a [u8],
    pub(crate) context: Context<'a>,
}

impl<'a> Event<'a> {
    /// The event as it was sent: JSON text.
    pub fn bytes(&self) -> &'a [u8] {
        self.payload
    }

    /// The invocation's circumstances.
    pub fn context(&self) -> Context<'a> {
        self.context
    }

    /// The event as a value of the handler's own type.
    #[cfg(feature = "json")]
    pub fn json<T: serde::de::Deserialize<'a>>(&self) -> Result<T, Error> {
        serde_json::from_slice(self.payload).map_err(|error| Error::new("InvalidEvent", error.to_string()))
    }
}

/// What a handler may return: anything that serialises, with the feature `json`; bytes of JSON without.
pub trait Answer {
    /// The answer's JSON text.
    fn into_answer(self) -> Result<Vec<u8>, Error>;
}

#[cfg(feature = "json")]
impl<T: serde::Serialize> Answer for T {
    fn into_answer(self) -> Result<Vec<u8>, Error> {
        serde_json::to_vec(&self).map_err(|error| Error::new("InvalidAnswer", error.to_string()))
    }
}

#[cfg(not(feature = "json"))]
impl Answer for Vec<u8> {
    fn into_answer(self) -> Result<Vec<u8>, Error> {
        Ok(self)
    }
}

#[cfg(not(feature = "json"))]
impl Answer for String {
    fn into_answer(self) -> Result<Vec<u8>, Error> {
        Ok(self.into_bytes())
    }
}

#[cfg(not(feature = "json"))]
impl Answer for &'static str {
    fn into_answer(self) -> Result<Vec<u8>, Error> {
        Ok(self.as_bytes().to_vec())
    }
}
