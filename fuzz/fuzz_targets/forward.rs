//! What nodes say to each other about invocations: any bytes are read or refused, and what was read is written
//! alike.
#![no_main]

use bowline_functions::cluster::wire::{Asked, Told};
use bytes::Bytes;
use libfuzzer_sys::fuzz_target;

fn whole(head: &[u8], payload: &[u8]) -> Bytes {
    [head, payload].concat().into()
}

fuzz_target!(|data: &[u8]| {
    let data = Bytes::copy_from_slice(data);
    if let Ok(asked) = Asked::decode(data.clone()) {
        assert_eq!(Asked::decode(whole(&asked.head(), asked.payload())), Ok(asked));
    }
    if let Ok(told) = Told::decode(data) {
        assert_eq!(Told::decode(whole(&told.head(), told.payload())), Ok(told));
    }
});
