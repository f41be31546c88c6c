//! Appends: whatever a body holds, what is read of it is the same when it is written again in another form.
#![no_main]

use bowline_api::data::append::{Form, HAS_ID, HAS_KEY, parse};
use bowline_stream::Record;
use bytes::Bytes;
use libfuzzer_sys::fuzz_target;

fuzz_target!(|bytes: &[u8]| {
    let Some((form, body)) = bytes.split_first() else {
        return;
    };
    let form = match form {
        b'j' => Form::Json,
        b'l' => Form::Lines,
        b'f' => Form::Frames,
        _ => Form::Raw,
    };
    let body = Bytes::copy_from_slice(body);
    let Ok(records) = parse(form, &body) else { return };
    let size = |record: &Record| record.body.len() + record.key.as_ref().map_or(0, Bytes::len);
    let read: usize = records.iter().map(size).sum();
    assert!(read <= body.len(), "`{read}` bytes came out of `{}`", body.len());
    if records
        .iter()
        .any(|record| record.key.as_ref().is_some_and(|key| key.len() > usize::from(u16::MAX)))
    {
        return;
    }
    let written = Bytes::from(records.iter().flat_map(frame).collect::<Vec<u8>>());
    let again = parse(Form::Frames, &written).expect("frames that were just written");
    assert_eq!(again, records);
});

fn frame(record: &Record) -> Vec<u8> {
    let mut flags = 0;
    let mut fields = Vec::new();
    if let Some(id) = &record.id {
        flags |= HAS_ID;
        fields.extend(id.0);
    }
    if let Some(key) = &record.key {
        flags |= HAS_KEY;
        fields.extend(u16::try_from(key.len()).expect("checked before").to_be_bytes());
        fields.extend(key);
    }
    fields.extend(
        u32::try_from(record.body.len())
            .expect("short of the input")
            .to_be_bytes(),
    );
    fields.extend(&record.body);
    fields.insert(0, flags);
    fields
}
