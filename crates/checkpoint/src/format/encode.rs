//! Writes the state: which pages the memories have, globals, tables, frames, host state.

use super::{Content, Image};
use crate::{Frame, Stop, TableImage, Value};

/// The state: everything but the content of pages.
pub(super) fn state(content: &Content<'_>) -> Vec<u8> {
    let mut state = Vec::new();
    list(&content.memories, &mut state, memory);
    list(content.globals, &mut state, |&global, state| value(global, state));
    list(content.tables, &mut state, table);
    list(content.frames, &mut state, frame);
    bytes(content.host, &mut state);
    state
}

fn bytes(bytes: &[u8], body: &mut Vec<u8>) {
    body.extend_from_slice(&(bytes.len() as u64).to_le_bytes());
    body.extend_from_slice(bytes);
}

fn list<T>(items: &[T], body: &mut Vec<u8>, mut write: impl FnMut(&T, &mut Vec<u8>)) {
    body.extend_from_slice(&(items.len() as u64).to_le_bytes());
    for item in items {
        write(item, body);
    }
}

fn memory(image: &Image<'_>, body: &mut Vec<u8>) {
    let index = |index: &u64, body: &mut Vec<u8>| body.extend_from_slice(&index.to_le_bytes());
    body.extend_from_slice(&image.size_pages.to_le_bytes());
    if let Some(zeroed) = image.zeroed {
        list(zeroed, body, index);
    }
    list(&image.pages, body, |(page, _), body| index(page, body));
}

fn table(table: &TableImage, body: &mut Vec<u8>) {
    list(&table.elements, body, |&element, body| value(element, body));
}

fn frame(frame: &Frame, body: &mut Vec<u8>) {
    body.extend_from_slice(&frame.site.function.to_le_bytes());
    body.extend_from_slice(&frame.site.place.to_le_bytes());
    body.push(match frame.site.stop {
        Stop::Here => 0,
        Stop::Inside => 1,
    });
    list(&frame.values, body, |&saved, body| value(saved, body));
}

fn value(value: Value, body: &mut Vec<u8>) {
    match value {
        Value::I32(bits) => tagged(0, &bits.to_le_bytes(), body),
        Value::I64(bits) => tagged(1, &bits.to_le_bytes(), body),
        Value::F32(bits) => tagged(2, &bits.to_le_bytes(), body),
        Value::F64(bits) => tagged(3, &bits.to_le_bytes(), body),
        Value::V128(bits) => tagged(4, &bits.to_le_bytes(), body),
        Value::Function(None) => tagged(5, &[], body),
        Value::Function(Some(index)) => tagged(6, &index.to_le_bytes(), body),
        Value::Extern(None) => tagged(7, &[], body),
        Value::Extern(Some(handle)) => tagged(8, &handle.to_le_bytes(), body),
    }
}

fn tagged(tag: u8, bytes: &[u8], body: &mut Vec<u8>) {
    body.push(tag);
    body.extend_from_slice(bytes);
}
